"""Files that hold a plain network, and that are read without this package."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from ewnprune.export.calling import Calling, named
from ewnprune.model.copying import copy_network
from ewnprune.model.tensors import clone

FormatName = Literal["state_dict", "torch_export", "onnx", "safetensors"]

Network = Callable[[Any], Any]
"""From a batch's inputs to what the network of a file gives, in plain containers."""


class Format(NamedTuple):
    """One kind of file.

    Attributes:
        file: the file's name.
        write: writes a network to a path; run on its batch of inputs, where the format needs that.
        read: reads the file. A file that holds weights alone takes the place of all those of the
            network given.
        packages: what writing and reading it needs, beside torch.
    """

    file: str
    write: Callable[[Calling, Path], None]
    read: Callable[[Path, Calling], Network]
    packages: tuple[str, ...] = ()


def find_format(name: str) -> Format:
    """A format by its name, once the packages that it needs are found.

    Raises:
        ValueError: there is no such format, or a package is missing.

    >>> find_format("state_dict").file
    'model.pt'
    """
    if name not in _FORMATS:
        raise ValueError(f"format {name!r}: expected one of {', '.join(_FORMATS)}")
    found = _FORMATS[name]
    for package in found.packages:
        try:
            import_module(package)
        except ImportError as error:
            raise ValueError(
                f"format {name!r} needs {package}, which cannot be imported: "
                f"pip install {' '.join(found.packages)}"
            ) from error
    return found


def _write_state_dict(calling: Calling, path: Path) -> None:
    torch.save({key: value.cpu() for key, value in calling.network.state_dict().items()}, path)


def _read_state_dict(path: Path, calling: Calling) -> Network:
    return _with_weights(calling, torch.load(path, weights_only=True))


def _write_safetensors(calling: Calling, path: Path) -> None:
    from safetensors.torch import save_file

    # it stores no two tensors in the same memory, and none that is not contiguous
    state = calling.network.state_dict()
    save_file({key: value.cpu().contiguous().clone() for key, value in state.items()}, path)


def _read_safetensors(path: Path, calling: Calling) -> Network:
    from safetensors.torch import load_file

    return _with_weights(calling, load_file(path))


def _with_weights(calling: Calling, state: dict[str, Tensor]) -> Network:
    empty = copy_network(calling.network)
    for tensor in empty.state_dict().values():
        # a weight that the file does not bring shows
        tensor.fill_(torch.nan if tensor.is_floating_point() else 0)
    empty.load_state_dict(state, strict=True)
    return replace(calling, network=empty).outputs


def _write_torch_export(calling: Calling, path: Path) -> None:
    program = _program(calling)
    with path.open("wb") as file:
        torch.export.save(program, file)


def _read_torch_export(path: Path, calling: Calling) -> Network:
    with path.open("rb") as file:
        program = torch.export.load(file).module()

    def run(inputs: Any) -> Any:
        args, kwargs = calling.arguments(inputs)
        return program(*args, **kwargs)

    return run


def _write_onnx(calling: Calling, path: Path) -> None:
    inputs = named(calling.inputs)
    outputs = named(calling.outputs(calling.inputs), "outputs")
    for what, values in (("inputs", inputs), ("outputs", outputs)):
        for name, value in values.items():
            if not isinstance(value, Tensor):
                raise ValueError(
                    f"{name!r} of the {what} is a {type(value).__name__}: expected tensors, in one "
                    "dict, tuple or list at most, which is all that ONNX has names for"
                )
    program = torch.onnx.export(
        _program(calling),
        input_names=[str(name) for name in inputs],
        output_names=_output_names(inputs, outputs),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(path)


def _read_onnx(path: Path, calling: Calling) -> Network:
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # as torch, to compare their times
    session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    _, structure = tree_flatten(calling.outputs(calling.inputs))
    given = {value.name for value in session.get_inputs()}  # one that is not used is not there

    def run(inputs: Any) -> Any:
        tensors = named(inputs).items()
        arrays = {name: tensor.cpu().numpy() for name, tensor in tensors if name in given}
        outputs = session.run(None, arrays)
        return tree_unflatten([torch.from_numpy(output) for output in outputs], structure)

    return run


def _output_names(inputs: Iterable[Any], outputs: Iterable[Any]) -> list[str]:
    return [f"outputs_{name}" if name in inputs else str(name) for name in outputs]


def _program(calling: Calling) -> torch.export.ExportedProgram:
    # two samples: they are stored in the file, and a batch of one would be taken for fixed
    batch = torch.export.Dim("batch")
    args, kwargs = calling.arguments(clone(calling.example(2)))
    by_place, by_name = tree_map(
        lambda leaf: {0: batch} if isinstance(leaf, Tensor) else None, (args, kwargs)
    )
    module = calling.module().eval()
    with torch.no_grad():
        return torch.export.export(module, args, kwargs, dynamic_shapes=by_name or by_place)


_FORMATS = {
    "state_dict": Format("model.pt", _write_state_dict, _read_state_dict),
    "torch_export": Format("model.pt2", _write_torch_export, _read_torch_export),
    "onnx": Format("model.onnx", _write_onnx, _read_onnx, ("onnxscript", "onnxruntime")),
    "safetensors": Format(
        "model.safetensors",
        _write_safetensors,
        _read_safetensors,
        ("safetensors",),
    ),
}
