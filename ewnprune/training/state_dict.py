"""State dicts: plain weights to reparametrized ones and back, as pure functions over keys.

Three forms of the weight of a layer ``X`` are understood wherever one is read:

* plain: ``X.weight``;
* native: ``X.parametrizations.weight.original0`` (s) and ``original1`` (v), with the mark
  ``X.parametrizations.weight.0._extra_state``, whose first number is 1 for EWN, 2 for D-Gating and
  3 for powerpropagation, which has ``original0`` alone; without the mark it is SWN, which is also
  what torch's ``parametrizations.weight_norm`` writes;
* torch's older ``nn.utils.weight_norm``: ``X.weight_g`` and ``X.weight_v``.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Size, Tensor, nn

from ewnprune.training.d_gating import DGating
from ewnprune.training.parametrizations import EWN, SWN, NeuronParametrization
from ewnprune.training.powerpropagation import Powerpropagation


def fold_state_dict(
    state_dict: Mapping[str, Any],
    parametrizations: Mapping[str, NeuronParametrization] | None = None,
) -> dict[str, Any]:
    """A state dict in which every reparametrized weight is a plain one.

    Args:
        state_dict: any of the forms above; entries of other kinds are passed on as they are.
        parametrizations: layer name to the parametrization on it, as from
            `attached_parametrizations`; only these layers are folded. By default all that the keys
            show: our own and torch's weight norm are told apart by the mark, but of other
            parametrizations with two originals the keys cannot tell the formula.

    Raises:
        ValueError: one of a layer's two tensors is missing.

    >>> from torch import nn
    >>> from ewnprune import EWN, reparametrize
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> _ = reparametrize(net, EWN())
    >>> list(fold_state_dict(net.state_dict()))
    ['0.weight', '0.bias', '2.weight', '2.bias']
    """
    if parametrizations is None:
        owners = {_owner(key, _SUFFIXES) for key in state_dict}
        older = {_owner(key, _LEGACY[:1]) for key in state_dict}
        owners |= {owner for owner in older if f"{owner}{_LEGACY[1]}" in state_dict}
        prefixes = {owner for owner in owners if owner is not None}
        known = {}
    else:
        known = {f"{name}." if name else "": p for name, p in parametrizations.items()}
        prefixes = {prefix for prefix in known if prefix + _SUFFIXES[0] in state_dict}
    folded: dict[str, Any] = {}
    for key, value in state_dict.items():
        owner = _owner(key, _KEY_ENDS)
        prefix = owner if owner in prefixes else key[: key.rfind(".") + 1]
        if prefix in prefixes and prefix + "weight" not in folded:
            # at the layer's first key, so that the weight comes before the bias as in plain layers
            folded[prefix + "weight"] = _weight(state_dict, prefix, known.get(prefix))
        if owner not in prefixes:
            folded[key] = value
    return folded


def to_native(
    state_dict: dict[str, Any], prefix: str, parametrization: NeuronParametrization, shape: Size
) -> None:
    """Rewrite one layer's weight in ``state_dict``, in place, to the form its layer loads.

    Args:
        state_dict: with any of the forms above.
        prefix: what the layer's keys begin with.
        parametrization: the one on the layer.
        shape: of the layer's first original, where the norms may be along another dimension.
    """
    native = [prefix + suffix for suffix in _SUFFIXES[: parametrization.num_originals]]
    own_mark = type(parametrization).get_extra_state is not nn.Module.get_extra_state
    mark = parametrization.get_extra_state() if own_mark else None
    found = state_dict.get(prefix + _MARK)
    # torch.distributed.checkpoint fills a template in, which has an object of its own for a mark
    template = found is not None and not isinstance(found, Tensor)
    if all(key in state_dict for key in native) and (template or same_mark(found, mark)):
        told = own_mark or type(parametrization) is SWN  # of others the keys do not tell the form
        if template or not told or state_dict[native[0]].shape == shape:
            return  # native already
    if prefix + "weight" in state_dict:
        weight = state_dict.pop(prefix + "weight")
    elif prefix + _SUFFIXES[0] in state_dict or prefix + _LEGACY[0] in state_dict:
        weight = _weight(state_dict, prefix, None)
        for end in _KEY_ENDS:
            state_dict.pop(prefix + end, None)
    else:
        return  # nothing here for this layer: load_state_dict names the missing keys
    state_dict |= zip(native, parametrization.right_inverse(weight), strict=True)
    if own_mark:
        state_dict[prefix + _MARK] = mark


def same_mark(one: Any, other: Any) -> bool:
    """Whether two marks, or none, tell of the same formula."""
    return _numbers(one) == _numbers(other)


def _numbers(mark: Any) -> list[float]:
    return mark.flatten().tolist() if isinstance(mark, Tensor) else []


def _owner(key: str, ends: Iterable[str]) -> str | None:
    """What stands before one of these names in a layer; None where a key ends otherwise."""
    owners = (key.removesuffix(end) for end in ends if key.endswith(end))
    return next((owner for owner in owners if not owner or owner.endswith(".")), None)


_SUFFIXES = ("parametrizations.weight.original0", "parametrizations.weight.original1")
_LEGACY = ("weight_g", "weight_v")
_MARK = "parametrizations.weight.0._extra_state"
_KEY_ENDS = (*_SUFFIXES, _MARK, *_LEGACY)


def _weight(
    state_dict: Mapping[str, Any], prefix: str, known: NeuronParametrization | None
) -> Tensor:
    """The plain weight of the layer from its native or older weight-norm keys."""
    found = _form(state_dict.get(prefix + _MARK), prefix) if known is None else known
    keys = _SUFFIXES[: found.num_originals] if prefix + _SUFFIXES[0] in state_dict else _LEGACY
    missing = [prefix + key for key in keys if prefix + key not in state_dict]
    if missing:
        raise ValueError(
            f"state dict has a part of layer {prefix.removesuffix('.')!r} only: expected "
            f"{missing[0]!r} beside it; load a complete checkpoint"
        )
    originals = [state_dict[prefix + key] for key in keys]
    if known is None and not originals[0].dim():  # weight_norm(dim=None): the whole is one row
        g, v = originals
        row: Tensor = SWN(dim=0)(g.view(1, 1), v.reshape(1, -1))
        return row.view_as(v).detach()
    if known is None and found.dim is None:
        _bind(found, *originals)
    weight: Tensor = found(*originals)
    return weight.detach()


def _form(mark: Any, prefix: str) -> NeuronParametrization:
    """What the mark tells of, bound to a dimension if it tells that too.

    Raises:
        ValueError: it is none of this package's.
    """
    if mark is None:
        return SWN()
    kind, *numbers = _numbers(mark) or [0.0]
    if kind == 1:
        return EWN()
    if kind == 2:
        return DGating(int(numbers[0]))
    if kind == 3:
        exponent, per_neuron, dim, groups = numbers
        made = Powerpropagation(exponent, bool(per_neuron), int(dim))
        made.groups = int(groups)
        return made
    raise ValueError(
        f"layer {prefix.removesuffix('.')!r} of the state dict has a parametrization that is not "
        "this package's: give fold_state_dict what is on it, parametrizations="
    )


def _bind(parametrization: NeuronParametrization, s: Tensor, v: Tensor) -> None:
    """Give a parametrization the dimension that the shape of ``s`` shows."""
    shape = s.shape[1:] if isinstance(parametrization, DGating) else s.shape
    grouped = len(shape) == v.dim() + 1
    by_group = shape[1:] if grouped else shape
    counted = [d for d in range(v.dim()) if by_group[d] > 1]
    kept = counted or [d for d in range(v.dim()) if by_group[d] == v.shape[d]]
    parametrization.dim = 1 if grouped and not counted else kept[0]
    parametrization.groups = shape[0] if grouped else 1
