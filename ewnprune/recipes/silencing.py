"""Silence neurons where they are read, for each image of a batch by itself."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ewnprune.model.layers import num_inputs, spatial_dims
from ewnprune.pruning.groups import Group, Places

Place = tuple[str, str]


class Silencing:
    """Hooks where neurons are read, and which of these are silent for which image.

    Args:
        model: the network.
        groups: of its neurons.
        inner_gradient: by what the gradient from an image is multiplied for a neuron and its
            outgoing weights, once for each smaller network of them that holds the neuron as well.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], inner_gradient: float) -> None:
        self.places = {place for group in groups for place in _places(group)}
        self._model, self._groups, self._inner = model, groups, inner_gradient
        self._masks: dict[Place, Tensor] = {}
        self._factors: dict[Place, Tensor] = {}
        self._read: dict[str, Tensor] = {}  # what layers in the middle of a call read
        self._handles: list[RemovableHandle] = []
        for place, name in self.places:
            module = model.get_submodule(name)
            if place == "output":
                self._handles.append(module.register_forward_hook(self._silence_output(name)))
                continue
            self._handles.append(module.register_forward_pre_hook(self._silence_input(name)))
            if inner_gradient != 1:
                self._handles.append(module.register_forward_hook(self._as_read(name)))

    def expect(self, kept: Sequence[dict[str, Tensor]], draws: Tensor) -> None:
        """Set what a batch sees.

        Args:
            kept: for each network the neurons that it keeps, of each group by name.
            draws: for each image the number of its network from 1 on, or 0 for the whole, ``(B,)``.
        """
        masks: dict[Place, Tensor] = {}
        held: dict[Place, Tensor] = {}
        for group in self._groups:
            rows = [group.channels(keep[group.name]) for keep in kept]
            networks = torch.stack([torch.ones_like(rows[0]), *rows])
            counts = times_held(networks) if self._inner != 1 else None
            for place, places in _places(group).items():
                # the BatchNorm after a layer has the layer's channels, in the layer's shape
                layer: Any = self._model.get_submodule(
                    group.name if place[0] == "output" else place[1]
                )
                size = num_inputs(layer) if place[0] == "input" else group.size
                shape = len(networks), size, *[1] * spatial_dims(layer)
                mask = torch.stack([places.keep(size, row) for row in networks]).view(shape)
                masks[place] = masks[place] & mask if place in masks else mask
                if counts is not None:
                    there = torch.stack([places.put(size, row) for row in counts]).view(shape)
                    held[place] = held.get(place, 0) + there
        self._masks = {p: mask.to(draws.device)[draws] for p, mask in masks.items()}
        factors = {place: self._inner**counts for place, counts in held.items()}
        self._factors = {p: factor.to(draws.device)[draws] for p, factor in factors.items()}

    def clear(self) -> None:
        """Let every image see the whole network."""
        self._masks, self._factors, self._read = {}, {}, {}

    def let_go(self) -> None:
        """Leave the network as it was."""
        for handle in self._handles:
            handle.remove()
        self.clear()

    def _silence_input(self, name: str) -> Callable[..., Any]:
        place = ("input", name)

        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            mask = self._masks.get(place)
            if mask is None:
                return None
            read = times(args[0], mask)
            factors = self._factors.get(place)
            if factors is None:
                return read, *args[1:]
            self._read[name] = read.detach()
            return times(read, factors), *args[1:]

        return hook

    def _as_read(self, name: str) -> Callable[..., Any]:
        """What the layer gives for what it reads, with the gradient of the smaller inputs.

        A layer's gradients are linear in its inputs: inputs times a factor give a gradient to the
        weights that read them, and to the inputs, times that factor.
        """

        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            read = self._read.pop(name, None)
            if read is None:
                return None
            with torch.no_grad():  # behind the call: autocast keeps the weights of that one
                value: Tensor = module.forward(read, *args[1:])
            return _with_gradient_of(output, value)

        return hook

    def _silence_output(self, name: str) -> Callable[..., Any]:
        place = ("output", name)

        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            mask = self._masks.get(place)
            if mask is None:
                return None
            read = times(output, mask)
            factors = self._factors.get(place)
            if factors is None:
                return read
            return _with_gradient_of(times(read, factors), read)

        return hook


def times(values: Tensor, factors: Tensor) -> Tensor:
    """Values ``(B, ..., n)`` or ``(B, n, ...)`` times factors per image, ``(B, n)`` or so.

    Raises:
        ValueError: the values' first dimension does not count the images.
    """
    if len(values) != len(factors):
        raise ValueError(
            f"NestedTraining: a layer sees {len(values)} rows in a batch of {len(factors)} images: "
            "expected one each; leave out the layers behind it with exclude"
        )
    between = [1] * (values.dim() - factors.dim())
    return values * factors.view(len(factors), *between, *factors.shape[1:]).to(values)


def _with_gradient_of(other: Tensor, value: Tensor) -> Tensor:
    """A value whose gradient goes to another tensor."""
    return value.detach() + (other - other.detach())


def times_held(networks: Tensor) -> Tensor:
    """For each network and neuron, how many smaller ones hold the neuron: integers, ``(N, n)``.

    Networks of the same size count once: they are of one ranking, and so the same.

    Args:
        networks: which neurons each holds, booleans, ``(N, n)``.

    >>> times_held(torch.tensor([[True] * 3, [True, True, False], [True, False, False]]))
    tensor([[2, 1, 0],
            [1, 0, 0],
            [0, 0, 0]])
    """
    sizes = networks.sum(1)
    each = {int(size): network for size, network in zip(sizes, networks, strict=True)}
    smaller = [[each[size] for size in each if size < own] for own in sizes.tolist()]
    none = torch.zeros_like(networks[0], dtype=torch.long)
    return torch.stack([none + sum(held.long() for held in of) for of in smaller])


def _places(group: Group) -> dict[Place, Places]:
    """Where the neurons of a group are silenced: the inputs of layers, or an output."""
    if group.unfollowed:
        return {("output", group.after or group.name): Places.blocks(group.size)}
    return {("input", name): places for name, places in group.readers.items()}
