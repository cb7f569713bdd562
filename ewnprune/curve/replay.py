"""Run many smaller variants of one network on a batch, repeating no work that they share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from ewnprune.curve.variant import Variant
from ewnprune.errors import reason_of
from ewnprune.model.layers import layer_weight, spatial_dims
from ewnprune.model.operations import is_elementwise, is_stock
from ewnprune.model.recurrent import is_recurrent
from ewnprune.model.tensors import clone, close, first_samples, identical, same, tensors_in
from ewnprune.model.tracing import Forward, Rooted, Trace, run
from ewnprune.pruning.groups import cut_of


@dataclass
class _Tail:
    """What of the graph differs from the whole network's, for all variants that touch the same.

    Attributes:
        nodes: all that differs.
        first: layers whose neurons go and that read nothing that differs, by the last node before
            others are read: the neurons that stay are picked from what the whole layer gave there,
            which is computed once.
        behind: what differs behind those.
        needs: values of the whole network that are read.
    """

    nodes: list[fx.Node] = field(default_factory=list)
    first: dict[fx.Node, str] = field(default_factory=dict)
    behind: list[fx.Node] = field(default_factory=list)
    needs: set[fx.Node] = field(default_factory=set)


@dataclass(frozen=True)
class _Built:
    """A variant as it is run: what is called, the nodes to run, and what to pick before."""

    root: nn.Module
    nodes: list[fx.Node]
    picks: list[tuple[fx.Node, int, Tensor]]


class Replay:
    """Outputs of the variants of one network, batch by batch.

    Each variant is built, run and dropped, but for those that are kept where all that is built at
    one time takes no more than the network itself. Of a traced network, what no variant
    changes runs once per batch, and only the rest once per variant. That the graph does what the
    network does is checked bit for bit on the first batch of each shape, and that no variant
    overwrites what the next one needs, on every batch; where either fails, whole networks run.

    Args:
        variants: the networks.
        forward: gives the outputs from network and inputs.
        inputs: the batch that they were found on.

    Attributes:
        fallback: why whole networks ran, on some batches at least; or empty.
    """

    def __init__(self, variants: Sequence[Variant], forward: Forward, inputs: Any) -> None:
        found = variants[0].found
        self.network, self.forward, self.variants = found.network, forward, variants
        self.trace = found.anatomy.trace
        self.fallback = ""
        self._replays: dict[tuple[Any, ...], bool] = {}
        self._keys: list[frozenset[str]] = []
        self._tails: dict[frozenset[str], _Tail] = {}
        self._copied: set[fx.Node] = set()
        self._whole: set[Variant] = set()
        self._shared = {id(parameter) for parameter in self.network.parameters()}
        self._room = sum(parameter.nbytes for parameter in self.network.parameters())
        self._largest = 0
        self._kept: dict[Variant, _Built] = {}
        if self.trace is not None:
            self._judge(_shapes(inputs), found.anatomy.exact)
            self._keys = [frozenset(variant.touched) for variant in variants]
            for key, variant in zip(self._keys, variants, strict=True):
                if key and key not in self._tails:
                    self._tails[key] = _tail(self.trace, variant)
            self._whole = self._not_in_parts(self.trace, first_samples(inputs))

    def outputs(self, inputs: Any) -> Iterator[Any]:
        """The outputs of each variant on one batch."""
        shapes = _shapes(inputs)
        done = 0
        if self.trace is not None and self._replays.get(shapes, True):
            for output in self._replayed(self.trace, inputs, shapes):
                yield output
                done += 1
        for variant in self.variants[done:]:
            yield self.forward(variant.network(), clone(inputs))

    def _replayed(self, trace: Trace, inputs: Any, shapes: tuple[Any, ...]) -> Iterator[Any]:
        """The outputs of the variants up to the first that cannot be had this way, if any."""
        saved, dense, versions = self._dense(trace, inputs)
        if shapes not in self._replays:
            eager = self.forward(self.network, clone(inputs))
            self._judge(shapes, same(dense, eager, identical))
            if not self._replays[shapes]:
                return
        for variant, key in zip(self.variants, self._keys, strict=True):
            output = dense
            if variant in self._whole:
                output = self.forward(variant.network(), clone(inputs))
            elif key:
                output = self._changed(trace, self._tails[key], variant, saved)
            if any(tensor._version != version for tensor, version in versions):
                self.fallback = "it overwrites intermediate results in place"
                self.trace = None
                return
            yield output

    def _dense(
        self, trace: Trace, inputs: Any
    ) -> tuple[dict[fx.Node, Any], Any, list[tuple[Tensor, int]]]:
        """The values of the whole network that variants need, its outputs, and their versions."""
        needed = set().union(*(tail.needs for tail in self._tails.values()))
        given, dense = clone(inputs), None
        saved = {trace.nodes[0]: given}
        values = dict(saved)
        noted = [(trace.nodes[0], tensor, version) for tensor, version in _versions(given)]
        for node, value in run(trace, trace.nodes[1:], values):
            if node in needed:
                saved[node] = clone(value) if node in self._copied else value
                noted += [(node, *pair) for pair in _versions(saved[node])]
            dense = value
        # an activation in place, say, overwrites what a layer gave: that is copied from now on
        late = {node for node, tensor, version in noted if tensor._version != version}
        if late - self._copied:
            self._copied |= late
            return self._dense(trace, inputs)
        return saved, dense, [(tensor, version) for _, tensor, version in noted]

    def _changed(
        self, trace: Trace, tail: _Tail, variant: Variant, saved: dict[fx.Node, Any]
    ) -> Any:
        built = self._built(tail, variant)
        values = dict(saved)
        for node, dim, index in built.picks:
            values[node] = values[node].index_select(dim, index)
        value = None
        for _, value in run(trace, built.nodes, values, built.root):  # noqa: B007
            pass
        return value

    def _built(self, tail: _Tail, variant: Variant) -> _Built:
        """A variant as it is run: made anew, unless there was room to keep it."""
        if variant in self._kept:
            return self._kept[variant]
        first = tail.first if variant.compact and variant.units else {}
        rows = cut_of(self.network, variant.groups, variant.units).rows if first else {}
        picks = []
        for node, name in first.items():
            layer = self.network.get_submodule(name)
            index = rows[name].nonzero().flatten().to(layer_weight(layer).device)
            picks.append((node, -1 - spatial_dims(layer), index))
        network = variant.network(whole=first.values())
        nodes = tail.behind if first else tail.nodes
        built = _Built(Rooted(network, self.forward), nodes, picks)
        own = sum(p.nbytes for p in network.parameters() if id(p) not in self._shared)
        self._largest = max(self._largest, own)
        if own + self._largest <= self._room:  # beside the one that is run
            self._room -= own
            self._kept[variant] = built
        return built

    def _not_in_parts(self, trace: Trace, sample: Any) -> set[Variant]:
        """Variants of which the graph does not hold: it has a size in it that is another now."""
        saved, _, _ = self._dense(trace, sample)
        whole = set()
        for variant in self.variants:
            if variant.outputs is None:
                continue
            try:
                tail = self._tails[frozenset(variant.touched)]
                output = self._changed(trace, tail, variant, saved)
            except Exception as error:  # any operation may find fault with a size
                self.fallback = f"the traced graph holds sizes ({reason_of(error, 80)})"
                whole.add(variant)
                continue
            if not same(output, variant.outputs, close):
                self.fallback = "the traced graph holds sizes of the whole network"
                whole.add(variant)
        return whole

    def _judge(self, shapes: tuple[Any, ...], exact: bool) -> None:
        self._replays[shapes] = exact
        if not exact:
            self.fallback = "the traced graph does not give the model's outputs bit for bit"


def _tail(trace: Trace, variant: Variant) -> _Tail:
    starts = {node for name in variant.touched for node in _uses(trace, name)}
    loose = {f"model.{name}" for group in variant.groups for name in group.parameters}
    starts |= {node for node in trace.nodes if node.op == "get_attr" and node.target in loose}
    tail = _Tail(trace.descendants(starts))
    inside, before = set(tail.nodes), set()
    for node in tail.nodes:
        name = _picked(trace, node, variant)
        if name is not None and not inside & set(node.all_input_nodes):
            alike = _alike(trace, node)
            tail.first[alike[-1]] = name
            before |= set(alike)
    tail.behind = [node for node in tail.nodes if node not in before]
    sources = {source for node in tail.nodes for source in node.all_input_nodes}
    tail.needs = (sources - inside) | set(tail.first)
    return tail


def _uses(trace: Trace, name: str) -> list[fx.Node]:
    """Nodes that call a module, or use a weight or buffer of it by themselves."""
    owner = f"model.{name}" if name else "model"
    attributes = [node for node in trace.nodes if node.op == "get_attr"]
    own = [node for node in attributes if str(node.target).rpartition(".")[0] == owner]
    return [*trace.calls(name), *own]


def _alike(trace: Trace, node: fx.Node) -> list[fx.Node]:
    """A node, and those after it that treat each number of what it gives by itself."""
    nodes = [node]
    while len(nodes[-1].users) == 1:
        (user,) = nodes[-1].users
        if len(user.all_input_nodes) > 1 or not is_elementwise(trace, user):
            break
        nodes.append(user)
    return nodes


def _picked(trace: Trace, node: fx.Node, variant: Variant) -> str | None:
    """The layer that a node calls, if all that a cut does to it is to leave out neurons."""
    name = trace.layer(node)
    if name is None or len(_uses(trace, name)) > 1:
        return None
    whose = [group for group in variant.groups if name in group.touched]
    alone = len(whose) == 1 and whose[0].free and not whose[0].rescale
    if not alone or name not in whose[0].makers or name in whose[0].readers:
        return None
    layer = trace.module(name)
    return name if is_stock(layer) and not is_recurrent(layer) else None


def _shapes(inputs: Any) -> tuple[Any, ...]:
    return tuple(tensor.shape for tensor in tensors_in(inputs))


def _versions(value: Any) -> list[tuple[Tensor, int]]:
    return [(tensor, tensor._version) for tensor in tensors_in(value)]
