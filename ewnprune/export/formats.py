"""Files that hold a plain network, and that are read without this package."""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ewnprune.model.copying import copy_network

FormatName = Literal["state_dict", "torch_export", "onnx", "safetensors"]

Network = Callable[[Tensor], Any]


class Format(NamedTuple):
    """One kind of file.

    Attributes:
        file: the file's name.
        write: writes a network, run on a batch of inputs where the format needs that, to a path.
        read: reads the file: a function of a batch of inputs. A file that holds weights alone
            takes the place of all those of the network given.
        packages: what writing and reading it needs, beside torch.
    """

    file: str
    write: Callable[[nn.Module, Tensor, Path], None]
    read: Callable[[Path, nn.Module], Network]
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


def format_versions(found: Format) -> dict[str, str]:
    """Versions of the packages that a format needs."""
    return {package: version(package) for package in found.packages}


def _write_state_dict(network: nn.Module, inputs: Tensor, path: Path) -> None:
    torch.save({key: value.cpu() for key, value in network.state_dict().items()}, path)


def _read_state_dict(path: Path, network: nn.Module) -> Network:
    return _with_weights(network, torch.load(path, weights_only=True))


def _write_safetensors(network: nn.Module, inputs: Tensor, path: Path) -> None:
    from safetensors.torch import save_file

    # it stores no two tensors in the same memory, and none that is not contiguous
    save_file({k: v.cpu().contiguous().clone() for k, v in network.state_dict().items()}, path)


def _read_safetensors(path: Path, network: nn.Module) -> Network:
    from safetensors.torch import load_file

    return _with_weights(network, load_file(path))


def _with_weights(network: nn.Module, state: dict[str, Tensor]) -> Network:
    empty = copy_network(network)
    for tensor in empty.state_dict().values():
        # a weight that the file does not bring shows
        tensor.fill_(torch.nan if tensor.is_floating_point() else 0)
    empty.load_state_dict(state, strict=True)
    return empty


def _write_torch_export(network: nn.Module, inputs: Tensor, path: Path) -> None:
    program = _program(network, inputs)
    with path.open("wb") as file:
        torch.export.save(program, file)


def _read_torch_export(path: Path, network: nn.Module) -> Network:
    with path.open("rb") as file:
        return torch.export.load(file).module()


def _write_onnx(network: nn.Module, inputs: Tensor, path: Path) -> None:
    program = torch.onnx.export(
        _program(network, inputs),
        (inputs,),
        input_names=["inputs"],
        output_names=["outputs"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(path)


def _read_onnx(path: Path, network: nn.Module) -> Network:
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # as torch, to compare their times
    session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def run(inputs: Tensor) -> Any:
        outputs = session.run(None, {given.name: inputs.cpu().numpy()})
        tensors = [torch.from_numpy(output) for output in outputs]
        return tensors[0] if len(tensors) == 1 else tensors

    return run


def _program(network: nn.Module, inputs: Tensor) -> torch.export.ExportedProgram:
    # two samples: they are stored in the file, and a batch of one would be taken for fixed
    inputs = torch.cat([inputs, inputs])[:2].clone()
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        return torch.export.export(network.eval(), (inputs,), dynamic_shapes=({0: batch},))


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
