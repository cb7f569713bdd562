"""Turn layers into reparametrized ones and back, on any ``nn.Module``."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ewnprune.model.layers import LayerPatterns, Selection
from ewnprune.model.parametrized import parametrization_on, parametrizations_of
from ewnprune.model.sharding import is_dtensor
from ewnprune.model.tensors import holders_of_parameters
from ewnprune.training.parametrizations import EWN, NeuronParametrization
from ewnprune.training.places import bind, places_of, select_places
from ewnprune.training.state_dict import to_native
from ewnprune.training.unfit import refuse_unfit, try_form


def reparametrize(
    model: nn.Module,
    parametrization: NeuronParametrization,
    layers: LayerPatterns | None = None,
    exclude: LayerPatterns | None = None,
) -> Selection:
    """Give the chosen layers a weight of the form ``scale(s) * v / ||v||``, in place.

    The model's outputs stay the same to rounding. The optimizer must be made afterwards: the
    layer's ``weight`` is no parameter any more, ``s`` and ``v`` are
    (``layer.parametrizations.weight.original0`` and ``original1``). Under ``EWN(batchnorm=True)``
    they are those of the BatchNorm that directly follows a layer; ``v``, a sign, does not train.
    Under ``EWN(inputs=True)`` a layer that reads the inputs has one ``s`` per input.

    Args:
        model: any module.
        parametrization: `EWN()`, `SWN()` or another `NeuronParametrization`; each layer gets a
            copy of its own.
        layers: which layers, see `select_layers`; by default every Linear and convolution but
            the last one.
        exclude: which of them to leave.

    A frozen layer is left, bit for bit as it is, and its reason is "frozen"; so is one whose
    BatchNorm is, where that has the scale. Where it is to train later in the fit, attach first and
    freeze then.

    Returns:
        The layers chosen, and those left with the reason.

    Raises:
        ValueError: no layer matches, or a chosen layer is lazy, shares its weight with another
            module, is parametrized already, is sharded or on the meta device, has no real numbers
            as weights, infinite ones or zeros only, or all are frozen; or no BatchNorm follows
            any, where their scales are asked for, or none reads the inputs, where gates are. The
            model is then unchanged.

    >>> from ewnprune import EWN
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> print(reparametrize(net, EWN()))
      chosen  0: Linear, 3 neurons
      left    2: the last layer: its outputs are the model's
    >>> [name for name, _ in net.named_parameters()][:3]  # doctest: +NORMALIZE_WHITESPACE
    ['0.bias', '0.parametrizations.weight.original0', '0.parametrizations.weight.original1']
    """
    if not isinstance(parametrization, nn.Module):
        raise TypeError(
            f"parametrization={parametrization!r}: expected an instance such as EWN() or SWN()"
        )
    selection = select_places(model, parametrization, layers, exclude)
    holders = holders_of_parameters(model)
    bound = {}
    for name, layer in places_of(selection).items():
        module, remedy = model.get_submodule(name), f"leave it with exclude={layer!r}"
        refuse_unfit(name, module, holders, remedy)
        bound[name] = bind(parametrization, selection, name, module)
        try_form(name, bound[name], module, remedy)
    for name, parametrized in bound.items():
        module = model.get_submodule(name)
        parametrize.register_parametrization(module, "weight", parametrized)
        parametrized.load_hook = module.register_load_state_dict_pre_hook(_accept_other_forms)
        if name in selection.scales.values():  # a sign, which gets no gradient
            module.parametrizations["weight"].original1.requires_grad_(False)  # type: ignore[index,union-attr]
    return selection


def check_attached(
    model: nn.Module,
    parametrization: NeuronParametrization,
    layers: LayerPatterns | None = None,
    exclude: LayerPatterns | None = None,
) -> Selection:
    """What `reparametrize` would say of the model, which it was called with before.

    Raises:
        ValueError: it was called with others.

    >>> from ewnprune import EWN
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> _ = reparametrize(net, EWN())
    >>> check_attached(net, EWN()).chosen.keys()
    dict_keys(['0'])
    """
    selection = select_places(model, parametrization, layers, exclude)
    found = {name: str(one) for name, one in attached_parametrizations(model).items()}
    asked = {
        name: str(bind(parametrization, selection, name, model.get_submodule(name)))
        for name in places_of(selection)
    }
    for name in found | asked:
        before, now = found.get(name, "plain"), asked.get(name, "plain")
        if before != now:
            raise ValueError(
                f"layer {name!r} of the model is {before} already, and here it is to be {now}: "
                "call ewnprune.fold(model) first, or give the layers and options that it has"
            )
    return selection


def fold(model: nn.Module) -> list[str]:
    """Turn every reparametrized layer back into a plain one, in place, same function.

    Parametrizations that are not this package's are left alone.

    Returns:
        The names of the layers folded.

    Raises:
        ValueError: a layer is sharded by FSDP2, or another parametrization lies on top of this
            package's. The model is then unchanged.

    >>> from ewnprune import SWN
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> _ = reparametrize(net, SWN())
    >>> fold(net), list(net.state_dict())
    (['0'], ['0.weight', '0.bias', '2.weight', '2.bias'])
    """
    folded = attached_parametrizations(model)
    for name in folded:
        if any(is_dtensor(p) for p in model.get_submodule(name).parameters()):
            raise ValueError(
                f"layer {name!r} is sharded (DTensor), and cannot be folded where it is: save a "
                "checkpoint, and give its state_dict to ewnprune.fold_state_dict"
            )
        each = parametrizations_of(model.get_submodule(name))["weight"]
        on_top = [type(other).__name__ for other in each]
        if len(on_top) > 1:
            raise ValueError(
                f"layer {name!r} has {on_top[1]} on top of {on_top[0]}, and folding would take "
                "both off: fold before it is put on, or take them off yourself with "
                "torch.nn.utils.parametrize.remove_parametrizations"
            )
    for name, parametrization in folded.items():
        layer = model.get_submodule(name)
        # by its number: in a copy of the network the handle is still that of the original's hook
        layer._load_state_dict_pre_hooks.pop(parametrization.load_hook.id, None)
        # Removing deletes the property from the layer's class, which deep copies of the layer
        # share: give this one a class of its own first. torch/nn/utils/parametrize.py
        cls = type(layer)
        layer.__class__ = type(cls.__name__, cls.__bases__, dict(cls.__dict__))
        trains = any(p.requires_grad for p in layer.parametrizations["weight"].parameters())  # type: ignore[index,union-attr]
        # without gradients it comes back as a buffer, be it frozen or not: so it does here always
        with torch.inference_mode(False), torch.no_grad():
            parametrize.remove_parametrizations(layer, "weight")
        weight = nn.Parameter(layer._buffers.pop("weight"), requires_grad=trains)  # type: ignore[arg-type]
        layer.register_parameter("weight", weight)
        for other in [key for key in layer._parameters if key != "weight"]:
            layer._parameters[other] = layer._parameters.pop(other)  # weight first, as before
    return list(folded)


def attached_parametrizations(
    model: nn.Module, remove_duplicate: bool = True
) -> dict[str, NeuronParametrization]:
    """The parametrization on each reparametrized layer, by layer name.

    Args:
        model: any module.
        remove_duplicate: give a layer that the model has under several names only once.
    """
    return {
        name: parametrization
        for name, layer in model.named_modules(remove_duplicate=remove_duplicate)
        if isinstance(parametrization := parametrization_on(layer), NeuronParametrization)
    }


def ewn_alphas(model: nn.Module, asking: str) -> list[Tensor]:
    """The log-norms of all EWN layers: one entry per neuron each, or per input of the first layers.

    Raises:
        ValueError: there is no such layer.
    """
    names = [k for k, p in attached_parametrizations(model).items() if isinstance(p, EWN)]
    if not names:
        raise ValueError(
            f"{asking} works on the log-norms of EWN, and no layer is under it: set "
            "prune.parametrization to EWN, or leave the callback out"
        )
    return [model.get_parameter(f"{name}.parametrizations.weight.original0") for name in names]


def _accept_other_forms(
    layer: nn.Module, state_dict: dict[str, Any], prefix: str, *_unused: Any
) -> None:
    """Load plain weights, and torch's weight-norm forms, into a reparametrized layer."""
    parametrization = parametrization_on(layer)
    if isinstance(parametrization, NeuronParametrization):  # in a plain copy there is none
        shape = cast(Any, layer).parametrizations["weight"].original0.shape
        to_native(state_dict, prefix, parametrization, shape)
