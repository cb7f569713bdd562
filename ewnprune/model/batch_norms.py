"""BatchNorms that directly follow a layer, and so undo the length of its neurons."""

from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ewnprune.model.layers import LAYER_TYPES, num_neurons
from ewnprune.model.tracing import Trace, asks_fact, trace


def batch_norm_after(traced: Trace, node: fx.Node) -> str | None:
    """The BatchNorm that directly follows the call of a layer and alone reads it, if there is one.

    Args:
        traced: a traced forward pass.
        node: the only call of a Linear or convolution in it.
    """
    readers = [user for user in node.users if not asks_fact(user)]
    name = traced.layer(readers[0]) if len(readers) == 1 else None
    if name is None or len(traced.calls(name)) > 1:
        return None
    norm: Any = traced.module(name)
    layer = traced.root.get_submodule(str(node.target))
    in_columns = isinstance(layer, nn.Linear) and len(traced.shapes.get(node, "BC")) != 2
    fits = isinstance(norm, _BatchNorm) and norm.num_features == num_neurons(layer)
    return name if fits and not in_columns else None


def following_batch_norms(model: nn.Module, traced: Trace | None = None) -> dict[str, str]:
    """The BatchNorm that directly follows each layer and alone reads it, by the layer's name.

    It is read off the traced forward pass. Of a part that cannot be traced the parts are looked at,
    each by itself. No data are needed.

    Args:
        model: any module; code of its forward pass is run on symbols, so give a copy.
        traced: its forward pass, where that has been traced.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    >>> following_batch_norms(net)
    {'0': '1'}
    """
    if traced is None:
        try:
            traced = trace(model)
        except ValueError:
            return _of_parts(dict(model.named_children()))
    found: dict[str, str] = {}
    for node in traced.nodes:
        name = traced.layer(node)
        if name is None or len(traced.calls(name)) > 1:
            continue
        module = traced.module(name)
        if isinstance(module, LAYER_TYPES):
            norm = batch_norm_after(traced, node)
            found |= {} if norm is None else {name: norm}
        elif name:
            parts = {f"{name}.{key}": part for key, part in module.named_children()}
            found |= _of_parts(parts)
    return found


def _of_parts(parts: dict[str, nn.Module]) -> dict[str, str]:
    return {
        f"{name}.{layer}": f"{name}.{norm}"
        for name, part in parts.items()
        for layer, norm in following_batch_norms(part).items()
    }
