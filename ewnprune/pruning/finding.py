"""Which neurons of a network go together: found, and rehearsed, so that what is said holds."""

from collections.abc import Sequence
from functools import partial
from glob import escape
from typing import Any

from torch import Tensor, nn

from ewnprune.model.anatomy import Anatomy, dissect
from ewnprune.model.layers import Selection, select_layers, type_name
from ewnprune.model.products import multiplied
from ewnprune.model.tensors import first_samples
from ewnprune.model.tracing import Forward
from ewnprune.pruning.chains import chain_group, chain_groups
from ewnprune.pruning.found import IN_TRAINING_ONLY, NOT_ASKED, Found
from ewnprune.pruning.groups import Group
from ewnprune.pruning.heads import Heads
from ewnprune.pruning.hidden_units import hidden_groups
from ewnprune.pruning.indices import Indices, asked_units, check_indices, neuron_counts
from ewnprune.pruning.reasons import refusal
from ewnprune.pruning.smaller import build_halved, rehearse
from ewnprune.pruning.training_pass import TrainingPass, look_at_training, rehearse_training
from ewnprune.pruning.writable import unwritable

_SAMPLES = 4  # of one alone, derivatives by which heads are found may be zero


def find_groups(
    network: nn.Module,
    forward: Forward,
    inputs: Any,
    selection: Selection,
    heads: Heads = "keep",
    wanted: Sequence[str] = (),
) -> Found:
    """Find which neurons go together, by the trace of a chain or by torch-pruning's graph.

    That removing half of each group gives what masking it gives is tried on the inputs; a group of
    which that does not hold is one that nobody can follow.

    Args:
        network: a plain network, in eval mode; without gradients. See `plain_network`.
        forward: gives the outputs from network and inputs.
        inputs: one batch, best a small one.
        selection: the layers asked for, and those left.
        heads: what may go of attention.
        wanted: names of groups or layers that go whatever the selection says.

    Raises:
        ValueError: the network does not run, has lazy layers, or nothing of it can be pruned.
    """
    chosen = {name: network.get_submodule(name) for name in selection.chosen}
    anatomy = dissect(network, forward, chosen, inputs)
    sample = first_samples(inputs, _SAMPLES)
    trained = look_at_training(network, forward, sample)
    groups, hidden = _chains(anatomy, trained), _hidden(network, forward, anatomy, sample)
    couple = partial(_coupled, network, forward, heads, selection, wanted, anatomy, trained)
    by_heads = heads != "keep" or not {*wanted} <= chosen.keys()
    if (by_heads or any(group.unfollowed for group in groups)) and anatomy.ways:
        groups = couple(sample)
    _rehearse(network, anatomy, sample, [*groups, *hidden])
    halved = partial(build_halved, network)
    rehearse_training(halved, forward, trained, _free(hidden))
    if not rehearse_training(halved, forward, trained, _free(groups)) and anatomy.ways:
        # what reads them in training only goes along, as far as that can be followed
        groups = couple(trained.inputs, training=True)
        _rehearse(network, anatomy, sample, groups)
        rehearse_training(halved, forward, trained, _free(groups))
    for group in hidden:  # which are no outputs that could be masked
        group.stays, group.unfollowed = group.stays or group.unfollowed, ""
    groups += hidden
    order = [name for name, _ in network.named_modules()]  # the model's, not that of the search
    groups.sort(key=lambda group: min(map(order.index, group.makers), default=len(order)))
    staying = [group for group in groups if group.stays]
    usable = [part for g in groups if not g.stays for part in _as_masked(g, anatomy)]
    if not usable and not wanted:  # then they are masked at least
        usable = [part for group in staying for part in _as_masked(group, anatomy)]
        staying = [group for group in staying if not {*group.makers} & {p.name for p in usable}]
    if not usable and not wanted:
        reasons = {group.name: group.stays for group in staying}
        what = f"no neuron of {type_name(network)} can be pruned:"
        raise ValueError(refusal(what, reasons, "choose other layers than {layers} with layers="))
    return Found(network, usable, staying, selection, anatomy, trained.untried)


def find_named(
    network: nn.Module, forward: Forward, inputs: Any, indices: Indices, heads: Heads
) -> tuple[Found, dict[str, Tensor]]:
    """The groups that hold the neurons a user names, and which of their units stay.

    Args:
        network: as for `find_groups`.
        forward: gives the outputs from network and inputs.
        inputs: one batch.
        indices: the neurons that go, by layer or by the module that attention lies in.
        heads: what may go of attention.

    Raises:
        ValueError: no such layer or neuron, or neurons that cannot go.
    """
    sizes = neuron_counts(network)
    layers = None
    if heads == "keep" and all(name in sizes for name in indices):
        layers = [escape(name) for name in check_indices(indices, sizes)]  # names, and no globs
    selection = select_layers(network, layers, recurrent=True)
    found = find_groups(network, forward, inputs, selection, heads, [*indices])
    groups = [*found.groups, *found.staying]
    sizes |= {group.name: group.units for group in groups if group.attention is not None}
    units = asked_units(groups, check_indices(indices, sizes))
    return found, {name: keep for name, keep in units.items() if not keep.all()}


def _chains(anatomy: Anatomy, trained: TrainingPass) -> list[Group]:
    """The neurons of each layer by itself; of those that are not called, with the reason."""
    groups = chain_groups(anatomy)
    _leave_empty(groups)
    for group in groups:
        if group.name in anatomy.idle:
            group.unfollowed, group.stays = "", _why_idle(group.name, anatomy, trained)
    return groups


def _hidden(network: nn.Module, forward: Forward, anatomy: Anatomy, inputs: Any) -> list[Group]:
    """The hidden units of recurrent layers."""
    names = [name for name in anatomy.chosen if name not in anatomy.flows]
    groups = hidden_groups(network, forward, inputs, names, anatomy.idle)
    for group in groups:
        group.stays = group.stays or ("" if anatomy.ways else anatomy.untraced)
    return groups


def _free(groups: Sequence[Group]) -> list[Group]:
    return [group for group in groups if group.free]


def _rehearse(network: nn.Module, anatomy: Anatomy, inputs: Any, groups: Sequence[Group]) -> None:
    for group in _free(groups):
        group.unfollowed = unwritable(network, [group]).get(group.name, "")
    tried = _free(groups)
    for way in anatomy.ways:
        rehearse(network, way, inputs, _free(groups))
    _leave_matrices(tried, anatomy)


def _leave_matrices(groups: Sequence[Group], anatomy: Anatomy) -> None:
    """Where what cannot be followed is a matrix to multiply with, say so, and leave it whole."""
    factors = {} if anatomy.trace is None else multiplied(anatomy.trace)
    for group in groups:
        operation = next((factors[name] for name in group.makers if name in factors), "")
        if group.unfollowed and operation:
            group.unfollowed = ""
            group.stays = f"its outputs make a matrix that {operation} multiplies with another"


def _leave_empty(groups: Sequence[Group]) -> None:
    for group in groups:
        if not group.size:
            group.stays = "it has no neurons"


def _why_idle(name: str, anatomy: Anatomy, trained: TrainingPass) -> str:
    return IN_TRAINING_ONLY if name in trained.called else anatomy.idle[name]


def _as_masked(group: Group, anatomy: Anatomy) -> list[Group]:
    """A group that can be cut as it is; another layer by layer, as each can be masked."""
    if group.free:
        return [group]
    parts = []
    for name in group.makers:
        if name in anatomy.flows and name not in anatomy.idle:
            part = chain_group(name, anatomy)
            part.unfollowed, part.blocks = group.unfollowed or group.stays, 1
            parts.append(part)
    return parts


def _coupled(
    network: nn.Module,
    forward: Forward,
    heads: Heads,
    selection: Selection,
    wanted: Sequence[str],
    anatomy: Anatomy,
    trained: TrainingPass,
    inputs: Any,
    training: bool = False,
) -> list[Group]:
    # imported here: torch-pruning takes a second, and chains do without
    from ewnprune.pruning.coupling import coupled_groups

    try:
        groups = coupled_groups(network, forward, inputs, heads, training)
    except ValueError as error:
        groups = _chains(anatomy, trained)
        for group in groups:
            group.unfollowed += f", and {error}" if group.unfollowed else ""
        return groups
    _leave_matrices(groups, anatomy)
    _leave_empty(groups)
    for group in groups:
        if group.makers and group.makers.keys() <= anatomy.idle.keys():
            group.stays = _why_idle(group.name, anatomy, trained)
        names = {group.name, *group.makers}
        if names & {*wanted}:
            continue
        held = next((name for name in group.makers if name in selection.left), None)
        if not group.stays and (held is not None or wanted):
            reason = selection.left.get(held or "", NOT_ASKED)
            alone = len(group.makers) == 1 or held is None
            group.stays = ("" if alone else f"coupled with {held!r}: ") + reason
    seen = {name for group in groups for name in group.makers}
    for name in anatomy.flows:
        if name not in seen:
            stays = "its weights are used without calling it"
            stays = _why_idle(name, anatomy, trained) if name in anatomy.idle else stays
            groups.append(Group(name, 0, makers={}, stays=stays))
    # those left are told of by themselves
    return [g for g in groups if g.free or not {*g.makers} <= {*selection.left} or not g.makers]
