"""Run a network as torch-pruning's graph sees it, and note whose outputs are its outputs."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ewnprune.model.attention import Attention
from ewnprune.model.layers import LAYER_TYPES
from ewnprune.model.preserve import hooked
from ewnprune.model.tensors import tensors_in
from ewnprune.model.tracing import Forward


def run_and_note_last(
    forward: Forward,
    last: set[nn.Module],
    modes: Mapping[nn.Module, bool],
    attention: Sequence[Attention],
    network: nn.Module,
    inputs: Any,
) -> list[Tensor]:
    """Run the network, and note the layers whose outputs are its outputs: those must stay.

    Between the layers that make queries, keys and values and the one that reads the heads the graph
    is cut: who belongs to whom is known there. torch-pruning sends channels round in circles where
    keys are rotated, or heads share them.
    """
    seen: list[tuple[nn.Module, Any]] = []
    layers = [module for module in network.modules() if isinstance(module, LAYER_TYPES)]
    handles = [
        layer.register_forward_hook(lambda layer, _, output: seen.append((layer, output.grad_fn)))
        for layer in layers
    ]
    ends: list[Tensor] = []
    for name in {name for each in attention for name in each.rows}:
        maker = network.get_submodule(name)
        handles.append(maker.register_forward_hook(lambda _, __, output: ends.append(output)))
    for each in attention:
        reader = network.get_submodule(each.reader)
        handles.append(reader.register_forward_pre_hook(_read_a_leaf, with_kwargs=True))
    with hooked(handles):
        try:
            for module, training in modes.items():
                module.training = training  # the graph puts all into eval mode
            outputs = forward(network, inputs)
        finally:
            network.eval()
    given = [tensor for tensor in tensors_in(outputs) if tensor.grad_fn is not None]
    nodes = {tensor.grad_fn for tensor in given}
    last.update(layer for layer, grad_fn in seen if grad_fn in nodes)
    return [*given, *ends]


def _read_a_leaf(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if args:
        return (args[0].detach().requires_grad_(), *args[1:]), kwargs
    return args, {**kwargs, "input": kwargs["input"].detach().requires_grad_()}
