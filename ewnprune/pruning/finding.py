"""Which neurons of a network go together: found, and rehearsed, so that what is said holds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from ewnprune.model.anatomy import Anatomy, dissect
from ewnprune.model.layers import Selection, type_name
from ewnprune.model.products import multiplied
from ewnprune.model.tensors import first_samples
from ewnprune.model.tracing import Forward
from ewnprune.pruning.chains import chain_group, chain_groups
from ewnprune.pruning.groups import Group
from ewnprune.pruning.heads import Heads
from ewnprune.pruning.hidden_units import hidden_groups
from ewnprune.pruning.notes import Kind, Note
from ewnprune.pruning.reasons import refusal
from ewnprune.pruning.smaller import build_halved, rehearse
from ewnprune.pruning.training_pass import TrainingPass, look_at_training, rehearse_training
from ewnprune.pruning.writable import unwritable

_SAMPLES = 4  # of one alone, derivatives by which heads are found may be zero
_IN_TRAINING_ONLY = "only the training pass calls it"
_NOT_ASKED = "not among the layers asked for"
_WITHOUT_NEURONS = (nn.Embedding, nn.EmbeddingBag, nn.RNNCellBase, nn.Bilinear)


@dataclass(frozen=True)
class Found:
    """The groups of a network.

    Attributes:
        network: the network, plain and whole; it shares its tensors with the model.
        groups: those of which units can go, or be masked.
        staying: those of which none can, each with its reason.
        selection: the layers asked for, and those left.
        anatomy: the network as seen on the example.
        untried: why training the smaller network was not tried; empty if it was.
    """

    network: nn.Module
    groups: Sequence[Group]
    staying: Sequence[Group]
    selection: Selection
    anatomy: Anatomy
    untried: str = ""

    @property
    def unfollowed(self) -> dict[str, str]:
        """Layers of which nobody knows who reads their neurons, each with the reason."""
        return {group.name: group.unfollowed for group in self.groups if group.unfollowed}

    def asked(self, units: Mapping[str, Tensor]) -> list[Group]:
        """The groups that a choice of units says something of."""
        return [group for group in self.groups if group.name in units]

    def notes(self) -> list[Note]:
        """What is done to each group, and which layers are left."""
        return [
            *map(_note, self.groups),
            *map(_note_of_staying, self.staying),
            *(
                Note("left", f"{name}: left: {reason}")
                for name, reason in self.selection.left.items()
            ),
            *self._others(),
            *([Note("run", f"training was not tried: {self.untried}")] if self.untried else []),
        ]

    def _others(self) -> Iterator[Note]:
        """Modules with weights, of kinds that have no neurons to choose."""
        seen = {name for group in (*self.groups, *self.staying) for name in group.touched}
        for name, module in self.network.named_modules():
            if isinstance(module, _WITHOUT_NEURONS) and name not in seen:
                yield Note("left", f"{name}: left: neurons of {type_name(module)} are not chosen")


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
    groups, hidden = chain_groups(anatomy), _hidden(network, forward, anatomy, sample)
    for group in groups:
        if group.name in anatomy.idle:
            group.unfollowed, group.stays = "", _why_idle(group.name, anatomy, trained)
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


def _why_idle(name: str, anatomy: Anatomy, trained: TrainingPass) -> str:
    return _IN_TRAINING_ONLY if name in trained.called else anatomy.idle[name]


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
        groups = chain_groups(anatomy)
        for group in groups:
            group.unfollowed += f", and {error}" if group.unfollowed else ""
        return groups
    _leave_matrices(groups, anatomy)
    for group in groups:
        if group.makers and group.makers.keys() <= anatomy.idle.keys():
            group.stays = _why_idle(group.name, anatomy, trained)
        names = {group.name, *group.makers}
        if names & {*wanted}:
            continue
        held = next((name for name in group.makers if name in selection.left), None)
        if not group.stays and (held is not None or wanted):
            reason = selection.left.get(held or "", _NOT_ASKED)
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


def _note(group: Group) -> Note:
    readers = ", ".join(group.readers)
    if group.unfollowed:
        place = f"after {group.after}" if group.after else "in its own output"
        place = f"where {readers} reads them" if readers else place
        return Note("masked", f"{_who(group)}: neurons masked {place}, since {group.unfollowed}")
    units = "hidden units" if group.apart else "neurons"
    what = f"{units} removed with bias and outgoing weights"
    if len(group.makers) > 1 or group.norms:
        what = "neurons removed together, with all that belongs to them"
    return Note("removed", f"{_who(group)}: {what}, read by {readers or 'no layer'}")


def _note_of_staying(group: Group) -> Note:
    # as expected: nobody asked for it, or it is no part of the network that is measured
    kind: Kind = "left" if group.stays in (_IN_TRAINING_ONLY, _NOT_ASKED) else "stays"
    return Note(kind, f"{_who(group)}: {kind}: {group.stays}")


def _who(group: Group) -> str:
    return ", ".join([*group.makers, *group.embeddings]) or group.name
