"""Groups of one maker: neurons of a layer in a chain, followed through the traced forward pass."""

from ewnprune.model.anatomy import Anatomy
from ewnprune.model.layers import conv_groups, num_neurons
from ewnprune.model.normalization import normalization_of
from ewnprune.pruning.groups import Group, Places


def chain_groups(anatomy: Anatomy) -> list[Group]:
    """The neurons of each chosen layer, with the layers that read them, if those are known.

    Those of recurrent layers are found by `hidden_groups`.
    """
    return [chain_group(name, anatomy) for name in anatomy.flows]


def chain_group(name: str, anatomy: Anatomy) -> Group:
    """The neurons of one layer as a group."""
    layer, flow = anatomy.chosen[name], anatomy.flows[name]
    count = num_neurons(layer)
    group = Group(name, count, makers={name: Places.blocks(count)}, after=flow.norm)
    group.unfollowed = flow.unknown
    for reader in () if flow.unknown else flow.consumers:
        group.readers[reader.name] = Places.blocks(count, reader.block)
    for reader in flow.scaled:
        if normalization_of(anatomy.modules[reader.name]) is not None:
            group.passed[reader.name] = Places.blocks(count, reader.block)
    if not flow.unknown:
        _stay_in_blocks(group, anatomy)
    return group


def _stay_in_blocks(group: Group, anatomy: Anatomy) -> None:
    """Where convolutions have groups, the same number of channels must stay in each."""
    counts = {name: conv_groups(anatomy.modules[name]) for name in [*group.makers, *group.readers]}
    group.blocks = max(counts.values())
    for name, count in counts.items():
        if group.blocks % count or group.size % group.blocks or group.size == group.blocks > 1:
            group.unfollowed = f"the {count} groups of {name!r} would be left unequal"
            group.blocks = 1
            return
