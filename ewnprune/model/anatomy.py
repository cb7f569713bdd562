"""What pruning must know of a model: which layers run, and who reads their neurons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from ewnprune.model.batch_norms import following_batch_norms
from ewnprune.model.layers import type_name
from ewnprune.model.preserve import hooked
from ewnprune.model.readers import Flow, neuron_flows
from ewnprune.model.recurrent import is_recurrent
from ewnprune.model.tensors import clone, close, identical, same
from ewnprune.model.tracing import Forward, Trace, call, run, trace
from ewnprune.model.ways import ways_of


@dataclass(frozen=True)
class Anatomy:
    """A model as seen on one batch.

    Attributes:
        modules: all modules by name.
        chosen: the layers to prune, by name.
        flows: where the neurons of each chosen layer go, but for those of recurrent layers.
        trace: the traced forward pass; None where there is none to rely on.
        untraced: why `trace` is None, in words; empty where there is one.
        ways: forward passes that take each way there is, the example's own first; empty where it
            decides by values and the ways cannot be told: an example shows one only.
        exact: whether the trace gives the model's outputs bit for bit on the batch.
        idle: chosen layers that the forward pass does not call, each with the reason.
        outputs: the model's outputs on the batch.
        batch_norms: the BatchNorm that directly follows a layer, chosen or not, by the layer's
            name.
    """

    modules: Mapping[str, nn.Module]
    chosen: Mapping[str, nn.Module]
    flows: Mapping[str, Flow]
    trace: Trace | None
    untraced: str
    ways: Sequence[Forward]
    exact: bool
    idle: Mapping[str, str]
    outputs: Any
    batch_norms: Mapping[str, str]


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
        ValueError: the model has lazy layers without weights, is on the meta device, or does not
            take a mapping.
    """
    refuse_without_values(model)
    outputs, idle = _run_and_find_idle(model, forward, chosen, inputs)
    traced, exact, untraced, decides = _trace(model, forward, inputs, outputs)
    ways = [forward] if traced is not None else ways_of(model, forward, inputs)
    if not decides:  # it was something else that could not be traced
        ways = ways or [forward]
    rowwise = {name: layer for name, layer in chosen.items() if not is_recurrent(layer)}
    flows: Mapping[str, Flow] = {name: Flow(unknown=untraced) for name in rowwise}
    if traced is not None:
        flows = neuron_flows(traced, rowwise)
    modules = dict(model.named_modules(remove_duplicate=False))
    norms = following_batch_norms(model, traced)
    return Anatomy(modules, chosen, flows, traced, untraced, ways, exact, idle, outputs, norms)


def refuse_without_values(model: nn.Module) -> None:
    """Refuse a model with parameters that have no values.

    Raises:
        ValueError: names the first.
    """
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(
                f"parameter {name!r} has no values yet (a lazy layer): run one batch through the "
                "model first"
            )
        if parameter.is_meta:
            raise ValueError(
                f"parameter {name!r} is on the meta device and has no values: give the model some "
                "(model.to_empty(device=...), then load or initialise it)"
            )


def _run_and_find_idle(
    model: nn.Module, forward: Forward, chosen: Mapping[str, nn.Module], inputs: Any
) -> tuple[Any, dict[str, str]]:
    called = set()
    handles = [
        layer.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, layer in chosen.items()
    ]
    with hooked(handles):
        try:
            outputs = forward(model, clone(inputs))
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            if forward is not call or not isinstance(inputs, Mapping):
                raise
            text = " ".join(str(error).split())[:60]
            raise ValueError(
                f"{type_name(model)} does not take a {type(inputs).__name__} as its one argument "
                f"({type(error).__name__}: {text}): give forward=, from model and inputs to "
                "outputs, such as lambda model, inputs: model(**inputs)"
            ) from error
    reason = "it is never called in the forward pass (unused, or its weights are used without it)"
    return outputs, {name: reason for name in chosen if name not in called}


def _trace(
    model: nn.Module, forward: Forward, inputs: Any, outputs: Any
) -> tuple[Trace | None, bool, str, bool]:
    try:
        traced = trace(model, forward)
    except ValueError as error:
        return None, False, str(error), isinstance(error.__cause__, fx.proxy.TraceError)
    first, given, result = traced.nodes[0], clone(inputs), None
    if isinstance(given, Tensor):
        traced.shapes[first] = given.shape
    for node, result in run(traced, traced.nodes[1:], {first: given}):
        if isinstance(result, Tensor):
            traced.shapes[node] = result.shape
    if not same(result, outputs, close):
        return None, False, "the model gives other outputs when traced", True
    return traced, same(result, outputs, identical), "", False
