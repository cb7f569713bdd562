"""Which modules of a model a parametrization goes on, and how it is bound to each."""

from dataclasses import replace

from torch import nn

from ewnprune.model.layers import LayerPatterns, Selection, select_layers
from ewnprune.training.gates import find_gates
from ewnprune.training.parametrizations import NeuronParametrization
from ewnprune.training.scales import find_scales


def select_places(
    model: nn.Module,
    parametrization: NeuronParametrization,
    layers: LayerPatterns | None,
    exclude: LayerPatterns | None,
) -> Selection:
    """The layers chosen that train, with their scales and gates where these are asked for.

    Args:
        model: the model.
        parametrization: what is to be attached, or is.
        layers: which layers.
        exclude: which of them to leave.

    Raises:
        ValueError: there are none.
    """
    selection = select_layers(model, layers, exclude)
    if getattr(parametrization, "batchnorm", False):
        selection = replace(selection, scales=find_scales(model, selection.chosen))
    if getattr(parametrization, "inputs", False):
        selection = replace(selection, gates=find_gates(model, selection.chosen))
    return leave_frozen(model, selection)


def places_of(selection: Selection) -> dict[str, str]:
    """The modules that are attached to, each with the chosen layer that it is for.

    >>> places_of(Selection({"0": nn.Linear(2, 1)}, {}, scales={"0": "1"}))
    {'1': '0'}
    """
    places: dict[str, str] = {}
    for layer in selection.chosen:
        gated = [layer] if layer in selection.gates else []
        places |= dict.fromkeys([selection.scales.get(layer, layer), *gated], layer)
    return places


def bind(
    parametrization: NeuronParametrization, selection: Selection, name: str, module: nn.Module
) -> NeuronParametrization:
    """A copy of a parametrization for one of the `places_of` a selection.

    Args:
        parametrization: as the user gave it.
        selection: the layers chosen.
        name: the name of the module.
        module: the module.
    """
    gated = name in selection.gates
    return parametrization.for_inputs(module) if gated else parametrization.for_layer(module)


def leave_frozen(model: nn.Module, selection: Selection) -> Selection:
    """The same without frozen layers, which come to the other layers left.

    Args:
        model: the model that the layers were chosen from.
        selection: the layers chosen.

    Raises:
        ValueError: all are.
    """
    names = {name: selection.scales.get(name, name) for name in selection.chosen}
    weights = {k: model.get_submodule(v)._parameters.get("weight") for k, v in names.items()}
    frozen = {
        n: "frozen" if names[n] == n else "its BatchNorm is frozen"
        for n, w in weights.items()
        if w is not None and not w.requires_grad
    }
    chosen = {name: layer for name, layer in selection.chosen.items() if name not in frozen}
    if not chosen:
        listed = ", ".join(map(repr, list(frozen)[:3])) + (", ..." if len(frozen) > 3 else "")
        raise ValueError(
            f"all layers chosen are frozen ({listed}), and none would train: unfreeze one, choose "
            "others with layers=, or freeze them after they are reparametrized"
        )
    scales = {name: norm for name, norm in selection.scales.items() if name in chosen}
    # without a weight of its own it is attached to already, and may have been frozen afterwards
    own = {
        name: chosen[name]._parameters.get("weight") for name in selection.gates if name in chosen
    }
    gates = tuple(name for name, weight in own.items() if weight is None or weight.requires_grad)
    return Selection(chosen, {**selection.left, **frozen}, scales, gates)
