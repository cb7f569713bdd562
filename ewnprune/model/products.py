"""Layers whose outputs are multiplied, as matrices, with other values that a model computes.

Attention does so, and networks that learn a transform of their inputs or features (PointNet). The
outputs are entries of a matrix then, or what it is summed over: its size ties them to each other.
"""

import operator

import torch
from torch import fx

from ewnprune.model.layers import LAYER_TYPES
from ewnprune.model.recurrent import RECURRENT
from ewnprune.model.tracing import Trace

_NAMES = ("bmm", "matmul", "baddbmm", "einsum", "__matmul__")
_FUNCTIONS = {getattr(torch, name) for name in _NAMES if hasattr(torch, name)} | {operator.matmul}


def multiplied(trace: Trace) -> dict[str, str]:
    """The layers, by name, each with the operation.

    No other layer lies between them and it.
    """
    found: dict[str, str] = {}
    for node in trace.nodes:
        names = node.op == "call_method" and node.target in _NAMES
        computed = [source for source in node.all_input_nodes if source.op != "get_attr"]
        if (names or node.target in _FUNCTIONS) and len(computed) > 1:
            operation = str(getattr(node.target, "__name__", node.target)).strip("_")
            found |= dict.fromkeys(_behind(trace, computed), operation)
    return found


def _behind(trace: Trace, nodes: list[fx.Node]) -> set[str]:
    layers, waiting, seen = set(), [*nodes], set(nodes)
    while waiting:
        node = waiting.pop()
        name = trace.layer(node)
        if name is not None and isinstance(trace.module(name), (*LAYER_TYPES, *RECURRENT)):
            layers.add(name)
            continue
        waiting += [source for source in node.all_input_nodes if source not in seen]
        seen.update(node.all_input_nodes)
    return layers
