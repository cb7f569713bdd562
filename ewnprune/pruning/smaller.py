"""The smaller network: copied, cut, and compared with the one that is masked instead."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from ewnprune.errors import reason_of
from ewnprune.model.copying import copy_network
from ewnprune.model.layers import type_name
from ewnprune.model.parametrized import sources_of
from ewnprune.model.tensors import clone, close, same, tensors_in
from ewnprune.model.tracing import Forward
from ewnprune.pruning.cutting import cut_network
from ewnprune.pruning.groups import OUTPUTS, Group, cut_of, mark_unfollowed
from ewnprune.pruning.heads import cut_heads
from ewnprune.pruning.masking import mask_outputs, silence
from ewnprune.pruning.reasons import refusal

Units = Mapping[str, Tensor]
"""For each group, by name, which of its units stay, ``(units,)``."""


def build_smaller(
    network: nn.Module,
    groups: Iterable[Group],
    units: Units,
    share: bool = True,
    whole: Collection[str] = (),
) -> nn.Module:
    """A copy of a network without some units of its groups.

    Args:
        network: the network, plain; left as it is.
        groups: its groups; what cannot be cut is masked.
        units: which units stay.
        share: whether tensors that are not cut are those of the network.
        whole: layers whose neurons are left, since somebody else picks those that stay.
    """
    groups = list(groups)
    small = copy_network(network, share)
    free = [group for group in groups if group.free]
    cut_network(small, cut_of(network, free, units), whole)
    cut_heads(small, free, units)
    _mask(small, [group for group in groups if not group.free], units)
    return small


def build_halved(network: nn.Module, groups: Sequence[Group]) -> nn.Module:
    """A copy of a network without half of the units of each of these groups."""
    return build_smaller(network, groups, _half(groups))


def _half(groups: Sequence[Group]) -> dict[str, Tensor]:
    """Half of the units of each, another half of each: a mix-up of two groups shows."""

    def order(group: Group) -> Tensor:
        generator = torch.Generator().manual_seed(crc32(group.name.encode()))
        return torch.randperm(group.units, generator=generator, device="cpu")

    return {g.name: order(g) >= g.units // 2 for g in groups}


def build_masked(network: nn.Module, groups: Iterable[Group], units: Units) -> nn.Module:
    """A copy of a network at full width, with zeros for some units of its groups.

    It gives what `build_smaller` gives, but for groups that something opaque reads across.
    """
    full = copy_network(network, share=True)
    _mask(full, groups, units)
    return full


def _mask(network: nn.Module, groups: Iterable[Group], units: Units) -> None:
    groups = list(groups)
    silence(network, [group for group in groups if group.readers], units)
    mask_outputs(network, [group for group in groups if not group.readers], units)


def as_it_was(small: nn.Module, model: nn.Module) -> None:
    """Train flags, and which parameters train, as in the model; a bias that came trains."""
    for name, module in small.named_modules():  # the model has those of parametrizations besides
        original = model.get_submodule(name)
        module.training = original.training
        for key, parameter in module._parameters.items():
            if parameter is not None:
                came_from = sources_of(original, key) or sources_of(original, "weight")
                trains = any(tensor.requires_grad for tensor in came_from) or not came_from
                parameter.requires_grad_(trains)


def rehearse(network: nn.Module, forward: Forward, inputs: Any, groups: Sequence[Group]) -> None:
    """Try on an example that removal gives what masking gives, with half of each group.

    Groups of which that does not hold are marked as such that nobody can follow; those without
    which outputs become narrower, as such that stay.

    Args:
        network: the network, plain and whole.
        forward: gives the outputs from network and inputs.
        inputs: the example.
        groups: those that can be cut, as far as it is known.
    """
    if groups:
        dense = forward(network, clone(inputs))
        mark_unfollowed(groups, partial(why_broken, network, forward, inputs, dense))
    for group in groups:
        if group.unfollowed == OUTPUTS:
            group.unfollowed, group.stays = "", OUTPUTS


def why_broken(
    network: nn.Module, forward: Forward, inputs: Any, dense: Any, groups: Sequence[Group]
) -> str:
    """What is wrong with the network without half of some groups; empty if nothing is.

    Groups with dimensions of heads are marked where queries have to be scaled anew.
    """
    half = _half(groups)
    told = [group for group in groups if not group.opaque]
    expected = forward(build_masked(network, told, half), clone(inputs))
    narrowed = [group for group in told if group.attention is not None and not group.whole]
    differences = []
    for rescale in (False, True) if narrowed else (False,):
        for group in narrowed:
            group.rescale = rescale
        try:
            outputs = forward(build_smaller(network, told, half), clone(inputs))
            if len(told) < len(groups):
                all_gone = forward(build_smaller(network, groups, half), clone(inputs))
                if not same(all_gone, dense, lambda one, other: True):
                    return _of_other_shape(groups, all_gone, dense)
        except Exception as error:  # any code of the user
            return _broken(f"does not run ({reason_of(error, 100)})")
        if not same(outputs, dense, lambda one, other: True):
            return _of_other_shape(groups, outputs, dense)
        differences.append(largest_difference(outputs, expected))
        agrees = same(outputs, expected, close)
        if agrees and not narrowed:
            return ""
    if narrowed:
        # whether attention divides by a number that it keeps, or by one that has become smaller,
        # only its outputs tell
        better = differences.index(min(differences))
        for group in narrowed:
            group.rescale = bool(better)
        agrees = same(forward(build_smaller(network, told, half), clone(inputs)), expected, close)
    return "" if agrees else _broken("does not give what the masked one gives")


def _of_other_shape(groups: Sequence[Group], outputs: Any, dense: Any) -> str:
    """What is wrong where outputs have another shape: if narrower by what went, they were those."""
    pairs = [*zip(tensors_in(outputs), tensors_in(dense), strict=False)]
    changes = [
        (dim, before - after)
        for now, then in pairs
        for dim, (after, before) in enumerate(zip(now.shape, then.shape, strict=False))
        if before != after
    ]
    gone = int((~groups[0].channels(_half(groups)[groups[0].name])).sum())
    narrower = gone > 0 and all(dim > 0 and by > 0 and by % gone == 0 for dim, by in changes)
    alike = all(now.ndim == then.ndim for now, then in pairs)
    if len(groups) == 1 and changes and narrower and alike:
        return OUTPUTS
    return _broken("gives outputs of another shape")


def check_smaller(
    network: nn.Module,
    small: nn.Module,
    groups: Sequence[Group],
    units: Units,
    inputs: Any,
    forward: Forward,
) -> float:
    """Compare a smaller network with the masked one on an example: the largest difference.

    Groups that something opaque reads across are left out.

    Args:
        network: the network, whole.
        small: the network without some units.
        groups: the groups of it.
        units: which units stay.
        inputs: the example.
        forward: gives the outputs from network and inputs.

    Raises:
        ValueError: they give other outputs.
    """
    told = [group for group in groups if not group.opaque]
    expected = forward(build_masked(network, told, units), clone(inputs))
    outputs = forward(small, clone(inputs))
    if len(told) < len(groups):
        outputs = forward(build_smaller(network, told, units), clone(inputs))
    if not same(outputs, expected, close):
        raise ValueError(
            f"the smaller {type_name(network)} does not give the outputs of the masked one on the "
            "example: its forward pass depends on the number of neurons in a way that cannot be "
            "followed; use mask_neurons, or leave layers with exclude="
        )
    return largest_difference(outputs, expected)


def largest_difference(outputs: Any, expected: Any) -> float:
    """Between two results of the same form."""
    pairs = zip(tensors_in(outputs), tensors_in(expected), strict=True)
    differences = [float((_precise(a) - _precise(b)).abs().max()) for a, b in pairs if a.numel()]
    return max(differences, default=0.0)


def _precise(tensor: Tensor) -> Tensor:
    return tensor.cpu().to(torch.complex128 if tensor.is_complex() else torch.float64)


def _broken(what: str) -> str:
    return f"its forward pass depends on how many there are: without them the network {what}"


def refuse_unfollowed(network: nn.Module, unfollowed: Mapping[str, str]) -> None:
    """Refuse to remove what nobody can follow.

    Raises:
        ValueError: names the layers with the reasons.
    """
    if unfollowed:
        what = f"neurons of {type_name(network)} cannot be removed safely from"
        remedy = "leave these layers with exclude={layers}, or use mask_neurons"
        raise ValueError(refusal(what, unfollowed, remedy))
