"""What pruning must know of a model: which layers run, and who reads their neurons."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ewnprune.model.layers import type_name
from ewnprune.model.readers import Flow, neuron_flows
from ewnprune.model.tensors import clone, close, identical, same
from ewnprune.model.tracing import Forward, Trace, run, trace


@dataclass(frozen=True)
class Anatomy:
    """A model as seen on one batch.

    Attributes:
        modules: all modules by name.
        chosen: the layers to prune, by name.
        flows: where the neurons of each chosen layer go.
        trace: the traced forward pass; None where there is none to rely on.
        untraced: why `trace` is None, in words; empty where there is one.
        exact: whether the trace gives the model's outputs bit for bit on the batch.
        outputs: the model's outputs on the batch.
    """

    modules: Mapping[str, nn.Module]
    chosen: Mapping[str, nn.Module]
    flows: Mapping[str, Flow]
    trace: Trace | None
    untraced: str
    exact: bool
    outputs: Any


def dissect(
    model: nn.Module, forward: Forward, chosen: Mapping[str, nn.Module], inputs: Any
) -> Anatomy:
    """Run a model on one batch and find where the neurons of the chosen layers go.

    Args:
        model: the model, in eval mode; without gradients.
        forward: gives the outputs from model and inputs.
        chosen: the layers to prune, by name.
        inputs: one batch of inputs.

    Raises:
        ValueError: a chosen layer does not run, or the model has lazy layers without weights.
    """
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(
                f"parameter {name!r} has no values yet (a lazy layer): run one batch through the "
                "model first"
            )
    outputs = _run_and_refuse_idle(model, forward, chosen, inputs)
    traced, exact, untraced = _trace(model, forward, inputs, outputs)
    flows: Mapping[str, Flow] = {name: Flow(unknown=untraced) for name in chosen}
    if traced is not None:
        flows = neuron_flows(traced, chosen)
    modules = dict(model.named_modules(remove_duplicate=False))
    return Anatomy(modules, chosen, flows, traced, untraced, exact, outputs)


def _run_and_refuse_idle(
    model: nn.Module, forward: Forward, chosen: Mapping[str, nn.Module], inputs: Any
) -> Any:
    called = set()
    with ExitStack() as stack:
        for name, layer in chosen.items():
            hook = layer.register_forward_hook(lambda *_, name=name: called.add(name))
            stack.callback(hook.remove)
        outputs = forward(model, clone(inputs))
    idle = [name for name in chosen if name not in called]
    if idle:
        raise ValueError(
            f"layer {idle[0]!r} ({type_name(chosen[idle[0]])}) is never called in the forward pass "
            "(its weights are unused, or used without calling it, as nn.MultiheadAttention does): "
            f"it cannot be pruned; leave it with exclude={idle}"
        )
    return outputs


def _trace(
    model: nn.Module, forward: Forward, inputs: Any, outputs: Any
) -> tuple[Trace | None, bool, str]:
    try:
        traced = trace(model, forward)
    except ValueError as error:
        return None, False, str(error)
    first, given, result = traced.nodes[0], clone(inputs), None
    if isinstance(given, Tensor):
        traced.shapes[first] = given.shape
    for node, result in run(traced, traced.nodes[1:], {first: given}):
        if isinstance(result, Tensor):
            traced.shapes[node] = result.shape
    if not same(result, outputs, close):
        return None, False, "the model gives other outputs when traced"
    return traced, same(result, outputs, identical), ""
