"""Run many masked variants of one model on a batch, repeating no work that they share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from ewnprune.model.anatomy import Anatomy
from ewnprune.model.tensors import clone, identical, same
from ewnprune.model.tracing import Forward, Trace, run
from ewnprune.pruning.maskings import Mask, Site

Variant = Mapping[Site, Mask]
"""The masks of one variant; none is the whole network."""


class Replay:
    """Outputs of masked variants of one model, batch by batch.

    Of a traced model, the operations before the first mask run once per batch, and only the rest
    once per variant. That the graph does what the model does is checked bit for bit on the first
    batch of each shape, and that no variant overwrites what the next one needs, on every batch;
    where either fails, the whole model runs once per variant.

    Args:
        model: the model, in eval mode.
        forward: gives the outputs from model and inputs.
        anatomy: the model as seen on the first batch.
        inputs: that batch.
        variants: the masks.
        active: the dictionary of `masking`.

    Attributes:
        fallback: why the whole model ran once per variant, on some batches at least; or empty.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Forward,
        anatomy: Anatomy,
        inputs: Any,
        variants: Sequence[Variant],
        active: dict[Site, Mask],
    ) -> None:
        self.model = model
        self.forward = forward
        self.trace = anatomy.trace
        self.variants = variants
        self.active = active
        self.fallback = ""
        self._replays: dict[tuple[Any, ...], bool] = {}
        self._tails: dict[frozenset[str], list[fx.Node]] = {}
        self._boundary: set[fx.Node] = set()
        if self.trace is not None:
            self._judge(_shapes(inputs), anatomy.exact)
            for variant in variants:
                self._add_tail(self.trace, variant)

    def outputs(self, inputs: Any) -> Iterator[Any]:
        """The outputs of each variant on one batch."""
        shapes = _shapes(inputs)
        done = 0
        if self.trace is not None and self._replays.get(shapes, True):
            for output in self._replayed(self.trace, inputs, shapes):
                yield output
                done += 1
        for variant in self.variants[done:]:
            yield self._masked(variant, partial(self.forward, self.model, clone(inputs)))

    def _replayed(self, trace: Trace, inputs: Any, shapes: tuple[Any, ...]) -> Iterator[Any]:
        """The outputs of the variants up to the first that cannot be had this way, if any."""
        given = clone(inputs)
        saved, dense = {trace.nodes[0]: given}, None
        versions = _versions(given)
        values = dict(saved)
        for node, value in run(trace, trace.nodes[1:], values):
            if node in self._boundary:
                saved[node] = value
                versions += _versions(value)
            dense = value
        if shapes not in self._replays:
            eager = self.forward(self.model, clone(inputs))
            self._judge(shapes, same(dense, eager, identical))
            if not self._replays[shapes]:
                return
        for variant in self.variants:
            output = dense
            if variant:
                tail = self._tails[_modules(variant)]
                output = self._masked(variant, partial(_last, trace, tail, dict(saved)))
            if any(tensor._version != version for tensor, version in versions):
                self.fallback = "it overwrites intermediate results in place"
                self.trace = None
                return
            yield output

    def _judge(self, shapes: tuple[Any, ...], exact: bool) -> None:
        self._replays[shapes] = exact
        if not exact:
            self.fallback = "the traced graph does not give the model's outputs bit for bit"

    def _masked(self, variant: Variant, compute: Callable[[], Any]) -> Any:
        self.active.update(variant)
        try:
            return compute()
        finally:
            self.active.clear()

    def _add_tail(self, trace: Trace, variant: Variant) -> None:
        modules = _modules(variant)
        if not variant or modules in self._tails:
            return
        tail = trace.descendants(node for name in modules for node in trace.calls(name))
        self._tails[modules] = tail
        inside = set(tail)
        self._boundary |= {
            source for node in tail for source in node.all_input_nodes if source not in inside
        }


def _shapes(inputs: Any) -> tuple[Any, ...]:
    return tuple(getattr(leaf, "shape", None) for leaf in tree_leaves(inputs))


def _modules(variant: Variant) -> frozenset[str]:
    return frozenset(site.module for site in variant)


def _last(trace: Trace, nodes: Sequence[fx.Node], values: dict[fx.Node, Any]) -> Any:
    value = None
    for _, value in run(trace, nodes, values):  # noqa: B007
        pass
    return value


def _versions(value: Any) -> list[tuple[Tensor, int]]:
    return [(leaf, leaf._version) for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
