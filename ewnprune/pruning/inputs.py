"""Inputs of the network as a group without maker: pixels of an image, columns of a table.

A feature that goes is zero for the layers that read it, at the place where they do: after whatever
the network does to it before, such as to normalize it. Its score is the norm of the weights that
read it times the standard deviation of what they read.
"""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn

from ewnprune.model.anatomy import dissect
from ewnprune.model.inputs import InputFlow, input_flow, why_no_features
from ewnprune.model.layers import (
    LAYER_TYPES,
    LayerPatterns,
    Selection,
    num_inputs,
    select_layers,
    spatial_dims,
    type_name,
)
from ewnprune.model.preserve import hooked
from ewnprune.model.sharding import several_processes
from ewnprune.model.tensors import clone, device_of, first_samples, samples, to_device
from ewnprune.model.tracing import Forward
from ewnprune.pruning.found import Found
from ewnprune.pruning.groups import Group, Places
from ewnprune.pruning.notes import Note
from ewnprune.pruning.reasons import cut
from ewnprune.pruning.smaller import build_halved, rehearse
from ewnprune.pruning.training_pass import look_at_training, rehearse_training
from ewnprune.pruning.writable import unwritable

INPUTS = "inputs"
"""The name of the group."""

_SAMPLES = 4


class Features(NamedTuple):
    """The inputs that a network reads.

    Attributes:
        shape: the shape of the features of one sample: ``(1, 28, 28)`` where an image is flattened
            and each pixel is one, ``(3,)`` where the channels of images are.
        kept: the places of those that it reads, counted through the flattened shape.
    """

    shape: tuple[int, ...]
    kept: tuple[int, ...]


def find_inputs(
    network: nn.Module,
    forward: Forward,
    inputs: Any,
    layers: LayerPatterns | None,
    exclude: LayerPatterns | None,
    calibration: Sequence[Any] = (),
) -> Found:
    """The features that the first layers read, as one group; tried as `find_groups` tries others.

    Args:
        network: a plain network, in eval mode; without gradients. See `plain_network`.
        forward: gives the outputs from network and inputs.
        inputs: one batch.
        layers: layers of which neurons and weights are counted; whatever reads an input loses it.
        exclude: which of them to leave out of that.
        calibration: inputs of batches to take standard deviations over; by default ``inputs``.

    Raises:
        ValueError: the inputs are no features, or something else reads them too.
    """
    unfit = why_no_features(inputs)
    if unfit:
        raise _refusal(network, unfit)
    selection = _counted(network, layers, exclude)
    anatomy = dissect(network, forward, selection.chosen, inputs)
    flow = InputFlow(unknown=anatomy.untraced)
    if anatomy.trace is not None:
        flow = input_flow(anatomy.trace)
    if flow.unknown:
        raise _refusal(network, flow.unknown)
    size = prod(flow.shape)
    if size == 1:
        raise _refusal(network, "there is one alone: a convolution that reads one channel")
    group = Group(INPUTS, size, inputs=flow.shape)
    for reader in flow.readers:
        group.readers[reader.name] = Places.blocks(size, reader.block)
    group.unfollowed = unwritable(network, [group]).get(INPUTS, "")
    sample = first_samples(inputs, _SAMPLES)
    trained = look_at_training(network, forward, sample)
    if group.free:
        rehearse(network, forward, sample, [group])
    if group.free:
        rehearse_training(partial(build_halved, network), forward, trained, [group])
    if group.unfollowed:
        raise _refusal(network, group.unfollowed)
    deviations, told = _deviations(network, forward, group, calibration or [inputs])
    return Found(network, [group], [], selection, anatomy, trained.untried, deviations, (told,))


def features_left(group: Group, keep: Tensor) -> Features:
    """The features that a network reads where these units of its inputs stay."""
    return Features(group.inputs, tuple(group.channels(keep).nonzero().flatten().tolist()))


def _counted(
    network: nn.Module, layers: LayerPatterns | None, exclude: LayerPatterns | None
) -> Selection:
    """The layers whose sizes are told: of a network of one layer that one."""
    found: dict[str, nn.Module] = {
        n: m for n, m in network.named_modules() if isinstance(m, LAYER_TYPES)
    }
    if len(found) == 1 and layers is exclude is None:
        return Selection(found)
    return Selection(select_layers(network, layers, exclude, recurrent=True).chosen)


def _refusal(network: nn.Module, reason: str) -> ValueError:
    return ValueError(
        f"inputs of {type_name(network)} cannot be pruned, since {cut(reason, 160)}: expected "
        "numbers that Linear and convolution layers alone read; leave out inputs=True"
    )


def _deviations(
    network: nn.Module, forward: Forward, group: Group, batches: Sequence[Any]
) -> tuple[dict[str, Tensor], Note]:
    """Standard deviations of what the readers read, ``(inputs,)`` by name; and what they are of."""
    count = sum(samples(batch) or 0 for batch in batches)
    moments: dict[str, _Moments] = {}
    handles = []
    for name in group.readers:
        layer = network.get_submodule(name)
        moments[name] = _Moments(layer)
        handles.append(layer.register_forward_pre_hook(moments[name].add, with_kwargs=True))
    with hooked(handles):
        for batch in batches:
            forward(network, clone(to_device(batch, device_of(network))))
    found = {name: each.deviation() for name, each in moments.items()}
    if count < 2 or not any(bool(each.any()) for each in found.values()):
        what = "one sample has none" if count < 2 else "they are the same in all samples"
        why = f"inputs: scored by the weights alone, without standard deviations, since {what}"
        return {}, Note("score", f"{why}: give more samples")
    return found, Note("inputs", f"inputs: standard deviations are those of {count} samples")


def agree_on_deviations(found: Found, device: torch.device) -> None:
    """Average variances over all processes, in place, where there are several; all must call.

    Each may have looked at other batches, and all must remove the same features.
    """
    if not several_processes():
        return
    for values in found.deviations.values():
        variances = values.square().to(device)
        distributed.all_reduce(variances)
        values.copy_((variances / distributed.get_world_size()).sqrt())


class _Moments:
    """Count, mean and sum of squares around it of each input of a layer, batch after batch.

    Chan, Golub & LeVeque (1983), https://doi.org/10.1080/00031305.1983.10483115.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.trailing, self.count = spatial_dims(layer), 0
        self.mean = torch.zeros(num_inputs(layer), dtype=torch.float64, device="cpu")
        self.squares = torch.zeros_like(self.mean)

    def add(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = args[0] if args else kwargs["input"]
        values = values.detach().movedim(-1 - self.trailing, 0).flatten(1).cpu().double()
        new, mean = values.shape[1], values.mean(1)
        apart, total = mean - self.mean, self.count + new
        self.squares += (values - mean[:, None]).square().sum(1)
        self.squares += apart.square() * (self.count * new / total)
        self.mean += apart * (new / total)
        self.count = total

    def deviation(self) -> Tensor:
        return (self.squares / self.count).sqrt()
