"""Trace a model with torch.fx, and run any part of the traced graph."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import fx, nn

from ewnprune.model.layers import LAYER_TYPES
from ewnprune.model.normalization import normalization_of
from ewnprune.model.recurrent import RECURRENT

Forward = Callable[[nn.Module, Any], Any]
FACTS = ("shape", "ndim", "dtype", "device", "size", "dim", "numel", "is_floating_point")


def call(model: nn.Module, inputs: Any) -> Any:
    """The forward used where none is given: ``model(inputs)``."""
    return model(inputs)


@dataclass(frozen=True)
class Trace:
    """A traced forward pass; its nodes run the modules of the traced model itself.

    Attributes:
        root: the module that the graph's names refer to.
        nodes: the operations in order; the first is the input, the last the output.
        shapes: shape of each value that is a tensor, on the inputs traced with.
        last_use: for each node, the values that no later node reads.
    """

    root: nn.Module
    nodes: list[fx.Node]
    shapes: dict[fx.Node, torch.Size] = field(default_factory=dict)
    last_use: dict[fx.Node, list[fx.Node]] = field(default_factory=dict)

    def layer(self, node: fx.Node) -> str | None:
        """Name, in the traced model, of the module that a node calls; None for another node."""
        if node.op != "call_module":
            return None
        return str(node.target).removeprefix("model").removeprefix(".")

    def module(self, name: str) -> nn.Module:
        """The module of this name in the traced model."""
        return self.root.get_submodule(f"model.{name}" if name else "model")

    def calls(self, name: str) -> list[fx.Node]:
        """Nodes that call the module of this name, or a module that it is a part of."""
        target = f"model.{name}" if name else "model"
        return [
            node
            for node in self.nodes
            if node.op == "call_module" and f"{target}.".startswith(f"{node.target}.")
        ]

    def descendants(self, starts: Iterable[fx.Node]) -> list[fx.Node]:
        """These nodes and all that depend on them, in order."""
        reached = set(starts)
        for node in self.nodes:
            if any(source in reached for source in node.all_input_nodes):
                reached.add(node)
        return [node for node in self.nodes if node in reached]


def trace(model: nn.Module, forward: Forward = call) -> Trace:
    """Trace ``forward(model, inputs)`` symbolically; the model's mode (train, eval) is baked in.

    Layers that have neurons, and all of torch's own modules, are single nodes; so are parts of the
    model that cannot be traced themselves.

    Raises:
        ValueError: the forward pass cannot be traced; the message says why.
    """
    root = Rooted(model, forward)
    nodes = list(_trace_around(root, model).nodes)
    seen: set[fx.Node] = set()
    last_use: dict[fx.Node, list[fx.Node]] = {}
    for node in reversed(nodes):
        last_use[node] = [source for source in node.all_input_nodes if source not in seen]
        seen.update(node.all_input_nodes)
    return Trace(root, nodes, last_use=last_use)


def asks_fact(node: fx.Node) -> bool:
    """Whether an operation asks for a size or type, and for no values."""
    if node.op == "call_method":
        return node.target in FACTS
    return node.op == "call_function" and node.target is getattr and node.args[1] in FACTS


def run(
    trace: Trace,
    nodes: Iterable[fx.Node],
    values: dict[fx.Node, Any],
    root: nn.Module | None = None,
) -> Iterator[tuple[fx.Node, Any]]:
    """Run nodes in order, each from ``values``, and give each with its value.

    A value is dropped after the last node of the whole graph that reads it.

    Args:
        trace: the traced model.
        nodes: the nodes to run.
        values: the values known so far; those computed are added.
        root: a module to run in place of the traced one, by the same names; see `Rooted`.
    """
    for node in nodes:
        args = fx.node.map_arg(node.args, values.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
        values[node] = value = _execute(root or trace.root, node, args, kwargs)
        for source in trace.last_use[node]:
            values.pop(source, None)
        yield node, value


def _execute(root: nn.Module, node: fx.Node, args: Any, kwargs: Any) -> Any:
    target: Any = node.target
    match node.op:
        case "call_module":
            return attrgetter(target)(root)(*args, **kwargs)
        case "call_function":
            return target(*args, **kwargs)
        case "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        case "get_attr":
            return attrgetter(target)(root)
        case "output":
            return args[0]
    raise AssertionError(f"unexpected node {node.format_node()}")  # the input is given


def _trace_around(root: nn.Module, model: nn.Module) -> fx.Graph:
    opaque: set[nn.Module] = set()
    while True:
        tracer = _Tracer(model, opaque)
        try:
            return tracer.trace(root)
        except Exception as error:  # any code of the user may run into any error here
            if tracer.failed is None:
                reason = str(error).strip().partition("\n")[0]
                raise ValueError(
                    f"the model cannot be traced ({type(error).__name__}: {reason})"
                ) from error
            opaque.add(tracer.failed)


class Rooted(nn.Module):
    """A module that runs ``forward(model, inputs)``, with the model under the name ``model``."""

    def __init__(self, model: nn.Module, call: Forward) -> None:
        super().__init__()
        self.model = model
        self.call = call

    def forward(self, inputs: Any) -> Any:
        return self.call(self.model, inputs)


class _Tracer(fx.Tracer):
    """Keeps some modules whole, and says in which innermost part of the model it failed."""

    def __init__(self, model: nn.Module, opaque: set[nn.Module]) -> None:
        super().__init__()
        self.parts = set(list(model.modules())[1:])
        # found before: what measures a module must not be traced
        self.norms = {part for part in model.modules() if normalization_of(part) is not None}
        self.opaque = opaque
        self.failed: nn.Module | None = None

    def is_leaf_module(self, module: nn.Module, qualname: str) -> bool:
        # a norm is called by its sizes, which would stand in the graph as numbers
        kept = isinstance(module, (*LAYER_TYPES, *RECURRENT)) or module in self.norms
        whole = kept or module in self.opaque
        return whole or super().is_leaf_module(module, qualname)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            # the model itself must be traced, and a module made on the way has no name
            if self.failed is None and m in self.parts:
                self.failed = m
            raise
