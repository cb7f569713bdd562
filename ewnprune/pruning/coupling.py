"""Neurons that can only go together, found on torch-pruning's dependency graph.

A residual addition couples the channels of the layers that are added, a depthwise convolution
those that it reads with those that it gives, and so on. Fang et al., "DepGraph: Towards Any
Structural Pruning", https://arxiv.org/abs/2301.12900.
"""

from bisect import bisect_left
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves

from ewnprune.model.attention import find_attention
from ewnprune.model.layers import LAYER_TYPES, type_name
from ewnprune.model.normalization import channel_dim, shrink_norm
from ewnprune.model.tensors import clone
from ewnprune.model.tracing import Forward
from ewnprune.pruning.groups import Group, Places
from ewnprune.pruning.heads import Heads, cut_heads, head_groups

_ACROSS_CHANNELS = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.Softmax, nn.Softmax2d)


class Couplings:
    """The groups of coupled channels of a model, and the way to cut channels out.

    Args:
        model: the model, in eval mode; all its parameters must require gradients.
        forward: gives the outputs from model and inputs.
        inputs: example inputs.
        heads: what may go of attention.

    Raises:
        ValueError: torch-pruning is missing, or cannot follow the model.
    """

    def __init__(
        self, model: nn.Module, forward: Forward, inputs: Any, heads: Heads = "keep"
    ) -> None:
        try:
            import torch_pruning
        except ImportError as error:
            raise ValueError(
                "removing neurons from a network that is no chain needs torch-pruning: "
                "pip install torch-pruning"
            ) from error
        self.model = model
        self._graph: Any = torch_pruning.DependencyGraph()
        self._last: set[nn.Module] = set()
        try:
            with torch.enable_grad():
                self._graph.build_dependency(
                    model,
                    clone(inputs),
                    forward_fn=partial(_run_and_note_last, forward, self._last),
                    verbose=False,
                )
        except Exception as error:  # it runs the user's code
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"torch-pruning cannot follow {type_name(model)} ({type(error).__name__}: "
                f"{reason}): use mask_neurons"
            ) from error
        self._parameters = {parameter: name for name, parameter in model.named_parameters()}
        self._names = {module: name for name, module in model.named_modules()}
        self._items: dict[str, list[Any]] = {}
        self._gone: dict[Any, list[int]] = {}
        self._heads = head_groups(find_attention(model, forward, inputs), heads, model)

    def groups(self) -> Iterator[Group]:
        """Each group once, in the order of the graph; the heads of attention are groups."""
        given: list[Group] = []
        for group in self._found():
            heads = [g for g in self._heads if not g.makers.keys().isdisjoint(group.makers)]
            if not heads:
                yield group
            yield from (each for each in heads if each not in given)
            given += heads

    def _found(self) -> Iterator[Group]:
        """The groups of the graph, which knows nothing of heads."""
        for found in self._graph.get_all_groups(root_module_types=[*LAYER_TYPES]):
            root = found[0].dep.target.module
            group = Group(self._names[root], len(found[0].idxs))
            self._items[group.name] = found.items
            for item in found.items:
                self._add(group, item)
            if not group.stays and group.size % group.blocks:
                group.stays = f"its {group.size} channels do not make {group.blocks} equal blocks"
            yield group

    def remove(self, group: Group, channels: list[int]) -> None:
        """Cut channels out of all layers of their group, in place."""
        if group.attention is not None:
            cut_heads(self.model, group, channels)
            return
        # by places in the whole model, since the graph guesses from sizes, and those have changed
        lost = set(channels)
        for item in self._items[group.name]:
            places = [i for i, root in zip(item.idxs, item.root_idxs, strict=True) if root in lost]
            if places:
                self._cut(item.dep, places)

    def _cut(self, dependency: Any, places: list[int]) -> None:
        """Cut out what lay at some places before anything was cut."""
        node = dependency.target
        before = self._gone.setdefault((node, dependency.handler), [])
        now = [place - bisect_left(before, place) for place in places]
        if isinstance(node.module, nn.LayerNorm):
            shrink_norm(node.module, now)  # torch-pruning 1.6.1 puts what stays in another order
        else:
            cut = dependency(now)
        before += places
        before.sort()
        if isinstance(node.module, nn.Parameter):  # it is not cut in place
            name = self._parameters[node.module]
            owner, _, key = name.rpartition(".")
            setattr(self.model.get_submodule(owner), key, cut)
            self._parameters[cut] = name
            node.module = cut

    def _add(self, group: Group, item: Any) -> None:
        module, node = item.dep.target.module, item.dep.target
        kind = node.type.name
        if kind == "OUTPUT":
            group.stays = group.stays or "its channels are outputs of the model"
            return
        name = self._names.get(module, "")
        places = Places(module, tuple(item.idxs), tuple(item.root_idxs))
        if module in self._last and self._graph.is_out_channel_pruning_fn(item.dep.handler):
            group.stays = "its channels are outputs of the model"
        if isinstance(module, nn.MultiheadAttention):
            group.stays = (
                f"{name!r} (MultiheadAttention) ties its heads to the width of its inputs; "
                "ewnprune.separate_attention gives it layers of its own"
            )
        elif isinstance(module, nn.RNNBase):
            group.stays = f"{name!r} is a recurrent layer"
        elif isinstance(module, nn.Parameter):
            if len(places.index) != group.size or module.shape[node.pruning_dim] != group.size:
                group.stays = f"a parameter {tuple(module.shape)} is not seen to have them"
        elif isinstance(module, LAYER_TYPES):
            self._add_layer(group, name, module, kind, item.dep.handler, places)
        elif isinstance(module, nn.Embedding):
            group.embeddings.append(name)
            if module.max_norm is not None:
                group.maskable, group.opaque = False, True
        elif isinstance(module, _ACROSS_CHANNELS):
            group.maskable = False
            if channel_dim(module) is None:
                group.opaque = True
            else:
                group.norms[name] = places
            if isinstance(module, nn.GroupNorm):
                group.blocks = max(group.blocks, module.num_groups)

    def _add_layer(
        self, group: Group, name: str, layer: Any, kind: str, handler: Any, places: Places
    ) -> None:
        grouped = getattr(layer, "groups", 1)
        if kind == "DEPTHWISE_CONV":
            group.makers[name] = places
            return
        if grouped > 1:
            if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
                group.stays = f"{name!r} is a transposed convolution with {grouped} groups"
            elif layer.in_channels == grouped or layer.out_channels == grouped:
                group.stays = f"{name!r} gives or reads one channel for several"
            group.blocks = max(group.blocks, grouped)
        out = self._graph.is_out_channel_pruning_fn(handler)
        (group.makers if out else group.readers)[name] = places


def refuse_unfollowable(model: nn.Module) -> None:
    """Refuse what has neurons that cannot be told apart from others.

    Raises:
        ValueError: names a parametrized or recurrent layer, or a shared parameter.
    """
    owners: dict[int, str] = {}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise ValueError(f"{name!r} is parametrized: fold it first (ewnprune.fold)")
        if isinstance(module, nn.RNNBase):
            raise ValueError(
                f"{name!r} ({type_name(module)}) is a recurrent layer, and neurons of networks "
                "with those cannot be removed: use mask_neurons on its other layers"
            )
        for key, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in owners:
                raise ValueError(
                    f"{name}.{key} is the same parameter as {owners[id(parameter)]}: neurons of "
                    "layers that share weights cannot be removed; use mask_neurons"
                )
            if parameter is not None:
                owners[id(parameter)] = f"{name}.{key}"


def _run_and_note_last(
    forward: Forward, last: set[nn.Module], model: nn.Module, inputs: Any
) -> Any:
    """Run the model, and note the layers whose outputs are its outputs: those must stay."""
    seen: list[tuple[nn.Module, Any]] = []
    layers = [module for module in model.modules() if isinstance(module, LAYER_TYPES)]
    handles = [
        layer.register_forward_hook(lambda layer, _, output: seen.append((layer, output.grad_fn)))
        for layer in layers
    ]
    try:
        outputs = forward(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    given = {leaf.grad_fn for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)}
    last.update(layer for layer, grad_fn in seen if grad_fn in given)
    return outputs
