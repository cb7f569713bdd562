"""Which operations keep neurons apart: each output depends on one neuron only."""

import operator
from collections.abc import Collection

import torch
from torch import fx, nn
from torch.nn import functional

from ewnprune.model.in_out import origin_of
from ewnprune.model.layers import LAYER_TYPES, plain_type
from ewnprune.model.recurrent import RECURRENT
from ewnprune.model.tracing import Trace

_POOL_KINDS = (
    *("MaxPool", "AvgPool", "LPPool", "AdaptiveMaxPool", "AdaptiveAvgPool"),
    *("ZeroPad", "ConstantPad", "ReflectionPad", "ReplicationPad", "CircularPad"),
)
POOLS = {
    getattr(nn, f"{kind}{dims}d"): dims
    for kind in _POOL_KINDS
    for dims in (1, 2, 3)
    if hasattr(nn, f"{kind}{dims}d")
}
POOL_FUNCTIONS = {
    getattr(functional, f"{kind}{dims}d"): dims
    for kind in ("max_pool", "avg_pool", "lp_pool", "adaptive_max_pool", "adaptive_avg_pool")
    for dims in (1, 2, 3)
    if hasattr(functional, f"{kind}{dims}d")
}
ELEMENTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid),
    *(nn.Hardswish, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.Threshold, nn.RReLU),
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout),
)
ELEMENTWISE_NAMES = (
    *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "celu"),
    *("gelu", "silu", "mish", "sigmoid", "sigmoid_", "logsigmoid", "tanh", "tanh_", "softplus"),
    *("softsign", "hardtanh", "hardsigmoid", "hardswish", "tanhshrink", "softshrink"),
    *("hardshrink", "threshold", "dropout", "dropout1d", "dropout2d", "dropout3d"),
    *("alpha_dropout", "abs", "exp", "square", "sqrt", "pow", "neg", "clamp", "clamp_", "clip"),
    *("add", "sub", "mul", "div", "truediv", "contiguous", "clone", "detach", "float", "double"),
    *("half", "bfloat16", "to"),
)
RESHAPE_NAMES = ("flatten", "reshape", "view", "unflatten", "squeeze", "unsqueeze")
PERMUTE_NAMES = ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis")
_NAMESPACES = (torch, functional, operator)
ELEMENTWISE_FUNCTIONS = {
    getattr(space, name)
    for space in _NAMESPACES
    for name in ELEMENTWISE_NAMES
    if hasattr(space, name)
}
RESHAPE_FUNCTIONS = {getattr(torch, name) for name in RESHAPE_NAMES if hasattr(torch, name)}
PERMUTE_FUNCTIONS = {getattr(torch, name) for name in PERMUTE_NAMES}
_FORWARD = {"forward", "_conv_forward"}


def is_elementwise(trace: Trace, node: fx.Node) -> bool:
    """Whether an operation treats each number by itself."""
    if node.op == "call_module":
        return stock_kind(trace.root.get_submodule(str(node.target)), ELEMENTWISE) is not None
    names = ELEMENTWISE_NAMES if node.op == "call_method" else ELEMENTWISE_FUNCTIONS
    return node.op in ("call_method", "call_function") and node.target in names


def stock_kind(module: nn.Module, kinds: Collection[type[nn.Module]]) -> type[nn.Module] | None:
    """Which of some kinds a module is, running that kind's own forward; None if none of them.

    A subclass is what its parent is as long as it computes nothing of its own.

    >>> class Named(nn.ReLU):
    ...     pass
    >>> class Shifted(nn.ReLU):
    ...     def forward(self, x):
    ...         return super().forward(x) + 1
    >>> stock_kind(Named(), ELEMENTWISE), stock_kind(Shifted(), ELEMENTWISE)
    (<class 'torch.nn.modules.activation.ReLU'>, None)
    """
    own = plain_type(module)
    kind = next((cls for cls in own.__mro__ if cls in kinds), None)
    if kind is None or not _FORWARD.isdisjoint(vars(module)):  # put on this one module
        return None
    parts = (getattr(own, name, None) is getattr(kind, name, None) for name in _FORWARD)
    return kind if all(parts) else None


def is_stock(layer: nn.Module) -> bool:
    """Whether a layer that can be pruned runs torch's own forward, or transformers'."""
    origin = origin_of(plain_type(layer))
    kinds = (*LAYER_TYPES, *RECURRENT) if origin is None else (origin,)
    return stock_kind(layer, kinds) is not None
