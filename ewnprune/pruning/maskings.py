"""Mask neurons or weights while a model runs, without writing to it.

A neuron goes with its bias and its outgoing weights by silencing it where it is read: the input
of each layer that reads it is multiplied by the mask. No parameter is touched.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ewnprune.model.anatomy import Anatomy
from ewnprune.model.layers import layer_weight, spatial_dims
from ewnprune.model.readers import Flow


class Site(NamedTuple):
    """A place of a model where a mask acts."""

    module: str
    place: Literal["input", "output", "weight"]


Mask = Callable[[], Tensor]
"""Gives booleans, True for what stays, that broadcast with an input, an output or a weight."""


def neuron_sites(
    chosen: Mapping[str, nn.Module], flows: Mapping[str, Flow], modules: Mapping[str, nn.Module]
) -> dict[str, list[tuple[Site, Callable[[Tensor], Tensor]]]]:
    """Where to silence each layer's neurons, and how the mask ``(n,)`` is shaped there.

    Where the layers that read the neurons are not known, it is the layer's own output, or that
    of the BatchNorm that directly follows.
    """
    sites = {}
    for name, layer in chosen.items():
        flow = flows[name]
        if flow.unknown:
            sites[name] = [(Site(flow.norm or name, "output"), _shaper(layer, 1))]
        else:
            sites[name] = [
                (Site(reader.name, "input"), _shaper(modules[reader.name], reader.block))
                for reader in flow.consumers
            ]
    return sites


def neuron_masks(anatomy: Anatomy, keep: Mapping[str, Tensor]) -> dict[Site, Mask]:
    """The masks that keep only some neurons of each chosen layer, ``(n,)``."""
    masks: dict[Site, Mask] = {}
    sites = neuron_sites(anatomy.chosen, anatomy.flows, anatomy.modules)
    for name in (name for name in keep if not keep[name].all()):
        on_device = keep[name].to(layer_weight(anatomy.chosen[name]).device)
        for site, shape in sites[name]:
            masks[site] = partial(_same, shape(on_device))
    return masks


def _same(mask: Tensor) -> Tensor:
    return mask


@contextmanager
def masking(modules: Mapping[str, nn.Module], sites: Iterable[Site]) -> Iterator[dict[Site, Mask]]:
    """Let masks act on a model: those in the dictionary that is given, at any time, do.

    On leaving, every hook is gone and the model as it was.
    """
    active: dict[Site, Mask] = {}
    with ExitStack() as stack:
        for site in sites:
            module = modules[site.module]
            if site.place == "input":
                _mask_input(stack, module, active, site)
            elif site.place == "output":
                stack.callback(module.register_forward_hook(_masker(active, site)).remove)
            elif parametrize.is_parametrized(module, "weight"):
                weight: Any = module.parametrizations["weight"]  # type: ignore[index]
                stack.callback(weight.register_forward_hook(_masker(active, site)).remove)
            else:
                _mask_weight(stack, module, active, site)
        yield active


def _shaper(module: nn.Module, block: int) -> Callable[[Tensor], Tensor]:
    trailing = [1] * spatial_dims(module)
    return lambda keep: keep.repeat_interleave(block).view(-1, *trailing)


def _masker(active: dict[Site, Mask], site: Site) -> Any:
    silence = _Silence()

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        keep = active.get(site)
        return None if keep is None else silence(output, keep())

    return hook


def _mask_weight(stack: ExitStack, module: nn.Module, active: dict[Site, Mask], site: Site) -> None:
    put, silence = _weight_putter(stack, module), _Silence()

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        keep = active.get(site)
        if keep is not None:
            put(silence(layer_weight(module), keep()))

    stack.callback(module.register_forward_pre_hook(hook).remove)


def _mask_input(stack: ExitStack, module: nn.Module, active: dict[Site, Mask], site: Site) -> None:
    """Silence neurons where a layer reads them: in its input, or in its weight if that is smaller.

    Either gives the same products and sums, bit for bit.
    """
    silence, silence_weight = _Silence(), _Silence()
    put = _weight_putter(stack, module) if _has_input_columns(module) else None

    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        keep = active.get(site)
        if keep is None:
            return None
        values = args[0] if args else kwargs["input"]
        smaller = put is not None and layer_weight(module).numel() < values.numel()
        if put is not None and smaller and silence.by_product(values):
            put(silence_weight(layer_weight(module), keep()))
            return None
        masked = silence(values, keep())
        return ((masked, *args[1:]), kwargs) if args else (args, {**kwargs, "input": masked})

    stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)


def _has_input_columns(module: nn.Module) -> bool:
    """Whether a mask over the input broadcasts with the weight, which is a plain tensor."""
    plain = not parametrize.is_parametrized(module, "weight")
    convolution = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1
    return plain and (isinstance(module, nn.Linear) or convolution)


def _weight_putter(stack: ExitStack, module: nn.Module) -> Callable[[Tensor], None]:
    """Gives a function that puts another weight before the parameter for one forward pass.

    Attribute look-up finds it first in the instance's dictionary, where the older weight_norm and
    prune keep a tensor of their own. Only while the layer runs, so that one layer's masked weight
    exists at a time.
    """
    own = module.__dict__.get("weight")

    def put(weight: Tensor) -> None:
        module.__dict__["weight"] = weight

    def restore(*_unused: Any) -> None:
        if own is None:
            module.__dict__.pop("weight", None)
        else:
            module.__dict__["weight"] = own

    stack.callback(module.register_forward_hook(restore, always_call=True).remove)
    stack.callback(restore)  # an interrupt skips even hooks that are always called
    return put


class _Silence:
    """Values where they stay, zero elsewhere, whatever is there (infinite, NaN).

    On the CPU ``torch.where`` takes several times as long as a product, which does where all is
    finite. That is asked once of a tensor that comes again and again.
    """

    def __init__(self) -> None:
        self.last: Callable[[], Tensor | None] = lambda: None
        self.version, self.finite = -1, False

    def __call__(self, values: Tensor, keep: Tensor) -> Tensor:
        return values * keep if self.by_product(values) else torch.where(keep, values, 0)

    def by_product(self, values: Tensor) -> bool:
        """Whether zero times the values is zero; on a GPU asking would take longer."""
        if values.device.type != "cpu":
            return False
        if self.last() is not values or self.version != values._version:
            self.last, self.version = ref(values), values._version
            self.finite = bool(values.sum().isfinite())
        return self.finite
