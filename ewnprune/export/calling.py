"""How the network of a file is called: what it takes, and what it gives in plain containers."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.model.tensors import clone, first_samples, repeated, tensors_in
from ewnprune.model.tracing import Forward, call


@dataclass(frozen=True)
class Calling:
    """A network and how it is called, which is what a file has to hold.

    By default it takes what the model takes: a batch's inputs, in one argument. With a ``forward``
    of the user's own it does what this does, and the entries of a dict are its keyword arguments,
    those of a tuple its arguments one by one.

    Attributes:
        network: the network.
        inputs: the inputs of a batch.
        forward: from network and inputs to outputs.
    """

    network: nn.Module
    inputs: Any
    forward: Forward = call

    def outputs(self, inputs: Any) -> Any:
        """What the network gives for a batch's inputs, in plain containers; without gradients."""
        with torch.no_grad():
            return plain(self.forward(self.network, clone(inputs)))

    def arguments(self, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments by place and by name that a file takes for a batch's inputs."""
        if self._spread(Mapping):
            return (), dict(inputs)
        return (tuple(inputs), {}) if self._spread(tuple) else ((_known(inputs),), {})

    def as_typed(self) -> str:
        """The arguments as a user types them: ``inputs``, ``*inputs`` or ``**inputs``."""
        return (
            "**inputs" if self._spread(Mapping) else "*inputs" if self._spread(tuple) else "inputs"
        )

    def module(self) -> nn.Module:
        """A module that is called with these arguments and gives plain containers.

        It is the network itself where that does so by itself.
        """
        if self.forward is call and _is_plain(self._example()):
            return self.network
        names = list(named(self.inputs)) if self._spread(Mapping, tuple) else ["inputs"]
        return _Plain(self, names)

    @property
    def batched(self) -> bool:
        """Whether all tensors of the inputs have the samples first, so that these can be told."""
        sizes = {tuple(leaf.shape[:1]) for leaf in tensors_in(self.inputs)}
        return len(sizes) == 1 and sizes != {()}

    def example(self, samples: int) -> Any:
        """So many of the batch's samples, over and over where there are fewer.

        Raises:
            ValueError: samples cannot be told.
        """
        if not self.batched:
            found = ", ".join(str(tuple(leaf.shape)) for leaf in tensors_in(self.inputs)) or "none"
            raise ValueError(
                f"the shapes of the inputs' tensors are {found}: expected all to begin with the "
                "same number, that of the samples"
            )
        return repeated(self.inputs, samples)

    def _example(self) -> Any:
        with torch.no_grad():
            return self.forward(self.network, clone(first_samples(self.inputs)))

    def _spread(self, *kinds: type) -> bool:
        if self.forward is call or not isinstance(self.inputs, kinds):
            return False
        return all(isinstance(name, str) and name.isidentifier() for name in named(self.inputs))


class _Plain(nn.Module):
    def __init__(self, calling: Calling, names: list[str]) -> None:
        super().__init__()
        self.model = calling.network
        spread = calling.as_typed() != "inputs"
        keywords = calling.as_typed() == "**inputs"

        def forward(*args: Any, **kwargs: Any) -> Any:
            inputs: Any = {**dict(zip(names, args, strict=False)), **kwargs}
            if not keywords:
                inputs = tuple(inputs.values()) if spread else inputs["inputs"]
            return plain(calling.forward(self.model, inputs))

        # torch.export goes by the names, and cannot check what comes under ** when it is loaded
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
        forward.__signature__ = signature  # type: ignore[attr-defined]
        self.forward = forward


def plain(value: Any) -> Any:
    """Outputs in dicts, tuples and lists alone, so that no class is needed to read them.

    A dataclass, and a mapping of any kind, becomes a dict without the entries that are None or, as
    transformers' cache of keys and values, an object of another class.

    >>> from collections import OrderedDict, namedtuple
    >>> plain([OrderedDict(a=1, b=None), namedtuple("Pair", "x y")(2, 3)])
    [{'a': 1}, (2, 3)]
    """
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items() if _is_kept(item)}
    if is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    return [plain(item) for item in value] if isinstance(value, list) else value


def _is_kept(value: Any) -> bool:
    return is_dataclass(value) or isinstance(
        value, Tensor | Mapping | tuple | list | str | int | float | complex
    )


def _known(inputs: Any) -> Any:
    """A mapping as a dict, which is all of them that torch.export knows."""
    return dict(inputs) if isinstance(inputs, Mapping) else inputs


def named(value: Any, whole: str = "inputs") -> dict[str, Any]:
    """Parts by name: those of a dict by their keys, those of a tuple or list by their places.

    >>> named({"left": 1}), named((1, 2)), named(1, "outputs")
    ({'left': 1}, {'inputs_0': 1, 'inputs_1': 2}, {'outputs': 1})
    """
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | list):
        return {f"{whole}_{place}": item for place, item in enumerate(value)}
    return {whole: value}


def described(value: Any) -> Any:
    """Shapes and types of tensors, in the same containers; of anything else what it is called."""

    def describe(tensor: Tensor) -> dict[str, Any]:
        shape = ["batch", *tensor.shape[1:]] if tensor.ndim else []
        return {"shape": shape, "dtype": str(tensor.dtype)}

    if isinstance(value, Tensor):
        return describe(value)
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [described(item) for item in value]
    return repr(value)


def _is_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(item is not None and _is_plain(item) for item in value.values())
    if type(value) in (tuple, list):
        return all(map(_is_plain, value))
    return isinstance(value, Tensor)
