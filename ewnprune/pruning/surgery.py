"""Cut neurons out of the modules that have something for them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ewnprune.model.anatomy import Anatomy
from ewnprune.model.layers import layer_weight, neuron_dim, neuron_rows, num_neurons, to_weight


def refuse_unremovable(model: nn.Module, anatomy: Anatomy, keep: Mapping[str, Tensor]) -> None:
    """Refuse what cannot be cut out safely.

    Raises:
        ValueError: names the layers with the reasons.
    """
    refuse_unwritable(model, anatomy)
    refused = {name: flow.unknown for name, flow in anatomy.flows.items() if flow.unknown}
    used = anatomy.trace.parameters_used() if anatomy.trace is not None else set()
    for name in anatomy.chosen:
        for touched in _touched(anatomy, name):
            if any(parameter.rpartition(".")[0] == touched for parameter in used):
                refused.setdefault(name, f"parameters of {touched!r} are used outside of it")
    refused = {**unequal_groups(anatomy, keep), **refused}
    _refuse(refused, "removed safely", ", or use mask_neurons")


def unequal_groups(anatomy: Anatomy, keep: Mapping[str, Tensor]) -> dict[str, str]:
    """Layers that leave the groups of a grouped convolution unequal, each with the reason."""
    refused: dict[str, str] = {}
    rows, columns = _cuts(anatomy, keep)
    for cuts, side in ((rows, "outputs"), (columns, "inputs")):
        for name, kept in cuts.items():
            groups = _groups(anatomy.modules[name])
            left = kept.view(groups, -1).sum(1).unique().tolist()
            if len(left) > 1 or 0 in left:
                source = name if cuts is rows else _source(anatomy, name)
                refused.setdefault(
                    source,
                    f"the {groups} groups of {name!r} would keep different numbers of {side}",
                )
    return refused


def refuse_unwritable(model: nn.Module, anatomy: Anatomy) -> None:
    """Refuse parameters that cannot be written to, or not for one layer alone.

    Raises:
        ValueError: names the layers with the reasons.
    """
    owners = _owners(model)
    refused: dict[str, str] = {}
    for name in anatomy.chosen:
        for touched in _touched(anatomy, name):
            reason = _why_unwritable(touched, anatomy.modules[touched], owners)
            if reason:
                refused.setdefault(name, reason)
    _refuse(refused, "removed", "")


def _refuse(refused: Mapping[str, str], what: str, remedy: str) -> None:
    if refused:
        reasons = "; ".join(f"{name!r} ({reason})" for name, reason in refused.items())
        raise ValueError(
            f"neurons cannot be {what} from {reasons}: leave these layers with "
            f"exclude={list(refused)}{remedy}"
        )


def shrink(anatomy: Anatomy, keep: Mapping[str, Tensor]) -> None:
    """Cut the neurons out of their layers, the BatchNorms they pass and the layers they feed."""
    rows, columns = _cuts(anatomy, keep)
    for name in {**rows, **columns}:
        shrink_layer(anatomy.modules[name], rows.get(name), columns.get(name))
    for name in keep:
        for reader in anatomy.flows[name].channelwise:
            kept = keep[name].repeat_interleave(reader.block)
            _shrink_channels(anatomy.modules[reader.name], kept)


def silence_parameters(anatomy: Anatomy, keep: Mapping[str, Tensor]) -> None:
    """Set to zero, in place, all that belongs to the neurons that do not stay."""
    rows, columns = _cuts(anatomy, keep)
    with torch.no_grad():
        for name in {**rows, **columns}:
            layer = anatomy.modules[name]
            cells = _cells(layer, rows.get(name), columns.get(name))
            weight = layer_weight(layer)
            weight.masked_fill_(~to_weight(layer, cells).to(weight.device), 0)
            if name in rows:
                _zero(layer.bias, rows[name])
        for name in keep:
            for reader in anatomy.flows[name].scaled:
                module = anatomy.modules[reader.name]
                kept = keep[name].repeat_interleave(reader.block)
                if not isinstance(module, nn.PReLU):  # which leaves zero at zero
                    # without scale and shift of its own, zero stays zero around a mean of zero
                    affine = module.weight is not None
                    for part in ("weight", "bias") if affine else ("running_mean",):
                        _zero(getattr(module, part), kept)


def _zero(tensor: Any, keep: Tensor) -> None:
    if tensor is not None:
        tensor.masked_fill_(~keep.to(tensor.device), 0)


def shrink_layer(layer: Any, rows: Tensor | None, columns: Tensor | None) -> None:
    """Cut a layer down to some of its neurons and of its inputs, ``(n,)`` each; None keeps all."""
    groups = _groups(layer)
    kernel = () if isinstance(layer, nn.Linear) else tuple(layer.kernel_size)
    cells = _cells(layer, rows, columns).to(layer.weight.device)
    outputs = num_neurons(layer) if rows is None else int(rows.sum())
    inputs = _inputs(layer) if columns is None else int(columns.sum())
    left = neuron_rows(layer)[cells]
    if neuron_dim(layer) == 0:
        weight = left.view(outputs, inputs // groups, *kernel)
    else:  # transposed convolutions have (in, out / groups, *kernel)
        weight = left.view(groups, outputs // groups, inputs // groups, *kernel)
        weight = weight.transpose(1, 2).reshape(inputs, outputs // groups, *kernel)
    _replace(layer, "weight", weight)
    if rows is not None and layer.bias is not None:
        _replace(layer, "bias", layer.bias[rows.to(layer.bias.device)])
    if isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = inputs, outputs
    else:
        layer.in_channels, layer.out_channels = inputs, outputs


def _shrink_channels(module: nn.Module, keep: Tensor) -> None:
    for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
        if tensor is not None and tensor.ndim:
            _replace(module, name, tensor[keep.to(tensor.device)])
    size = "num_parameters" if isinstance(module, nn.PReLU) else "num_features"
    setattr(module, size, int(keep.sum()))


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    value = value.detach().clone()
    if name in module._parameters:
        old = module._parameters[name]
        assert old is not None
        module._parameters[name] = nn.Parameter(value, requires_grad=old.requires_grad)
    else:
        module._buffers[name] = value


def _cells(layer: nn.Module, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """Which weights stay, ``(n, fan_in)``, where only some neurons and some inputs do."""
    groups, neurons, inputs = _groups(layer), num_neurons(layer), _inputs(layer)
    kernel = neuron_rows(layer).shape[1] // (inputs // groups)
    rows = torch.ones(neurons, dtype=torch.bool) if rows is None else rows
    columns = torch.ones(inputs, dtype=torch.bool) if columns is None else columns
    both = rows.view(groups, -1, 1, 1) & columns.view(groups, 1, -1, 1)
    return both.expand(-1, -1, -1, kernel).reshape(neurons, -1)


def _cuts(
    anatomy: Anatomy, keep: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """For each layer, which of its neurons stay; for each, which of its inputs."""
    rows = {name: kept for name, kept in keep.items() if not kept.all()}
    columns = {
        reader.name: kept.repeat_interleave(reader.block)
        for name, kept in rows.items()
        for reader in anatomy.flows[name].consumers
    }
    return rows, columns


def _touched(anatomy: Anatomy, name: str) -> list[str]:
    flow = anatomy.flows[name]
    return [name, *(reader.name for reader in (*flow.scaled, *flow.consumers))]


def _source(anatomy: Anatomy, consumer: str) -> str:
    return next(
        name
        for name, flow in anatomy.flows.items()
        if consumer in (reader.name for reader in flow.consumers)
    )


def _groups(layer: nn.Module) -> int:
    return 1 if isinstance(layer, nn.Linear) else int(layer.groups)  # type: ignore[arg-type]


def _inputs(layer: Any) -> int:
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)


def _owners(model: nn.Module) -> dict[int, dict[int, str]]:
    """For each parameter, the modules that hold it: by id, their names."""
    owners: dict[int, dict[int, str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), {})[id(module)] = name
    return owners


def _why_unwritable(
    name: str, module: nn.Module, owners: Mapping[int, Mapping[int, str]]
) -> str | None:
    if parametrize.is_parametrized(module):
        return f"{name!r} is parametrized: fold it first (ewnprune.fold)"
    if not isinstance(getattr(module, "weight", None), nn.Parameter | None):
        return f"the weight of {name!r} is no parameter (the older weight_norm, or prune?)"
    for key, parameter in module._parameters.items():
        others = {} if parameter is None else owners[id(parameter)]
        for other in others.values():
            if len(others) > 1 and other != name:
                return f"{name!r} shares its {key} with {other!r}"
    return None
