"""Checkpoints that a model which never heard of this package loads, and that still resume exactly.

The checkpoint's ``state_dict`` holds plain weights under plain keys. The originals, which a plain
weight cannot give back bit for bit (it has lost the length of ``v``), lie beside them::

    checkpoint["ewnprune"] = {
        "format": 1,
        "layers": {"network.1": "ewnprune.EWN"},
        "originals": {"network.1.parametrizations.weight.original0": tensor, ...},
        "averages": {"current_model_state": {...}},  # originals of what averaging callbacks keep
        "initial_norms": {"network.1": tensor, ...},
        "passed_levels": [-10.0],
        "curve": "{...}",  # what was measured so far, as in sparsity_curve.json
        "finetuning": None,  # or since which epoch, at what sparsity, by which score, the masks
        "teacher": {...},  # where it is finetuned with distillation: the network before
        "gradual": {...},  # where it prunes while training: how, how much, masks, who went when
    }

All of it is tensors and plain Python types: ``torch.load(..., weights_only=True)`` reads it.
"""

import os
import pathlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.serialization import safe_globals

from ewnprune.callback.averages import fold_averages, unfold_averages
from ewnprune.model.sharding import is_sharded
from ewnprune.training.attach import attached_parametrizations
from ewnprune.training.state_dict import fold_state_dict, same_mark

KEY = "ewnprune"

# what hyperparameters are often made of beside plain types: paths, and NumPy's single numbers,
# which are a function of a type and of bytes
HARMLESS: list[Any] = [
    *(pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath),
    *(np.dtype, *(type(np.dtype(code)) for code in "?bhilqBHILQefd")),
    np.float64(0).__reduce__()[0],
]


def read_checkpoint(path: str | os.PathLike[str], map_location: str = "cpu") -> dict[str, Any]:
    """Read a checkpoint as tensors, plain types, paths and NumPy numbers.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be read safely, or holds no state dict.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such checkpoint")
    try:
        with safe_globals(HARMLESS):
            content = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # damaged bytes are instructions that can fail in any way
        held = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
        if held:
            raise ValueError(
                f"{path} is no checkpoint that can be read safely: it holds a {held[1]}, and only "
                "tensors, plain types, paths and NumPy numbers are read: leave that out of "
                "save_hyperparameters(ignore=[...]); for a file that you trust, "
                "ewnprune fit, validate, test, predict and sweep have --weights_only=false"
            ) from error
        raise ValueError(
            f"{path} is no checkpoint that can be read safely, or it is damaged "
            f"({type(error).__name__}): give one that Lightning wrote, whole"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise ValueError(f"{path}: expected a Lightning checkpoint, with a state_dict in it")
    return content


def stored(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """All that the callback has stored; nothing if the run had none."""
    found: dict[str, Any] = checkpoint.get(KEY, {})
    return found


def fold_checkpoint(model: nn.Module, checkpoint: dict[str, Any], parts: dict[str, Any]) -> None:
    """Put plain weights in place of the originals in ``checkpoint``, and the originals beside.

    Those of a model under FSDP2 stay as they are: Lightning loads such a file before anybody could
    translate it. `fold_state_dict` makes plain weights of them.

    Args:
        model: the model, reparametrized.
        checkpoint: what is about to be saved.
        parts: what else is to be stored, by name.
    """
    attached = attached_parametrizations(model, remove_duplicate=False)
    state = checkpoint["state_dict"]
    sharded = is_sharded(model)
    folded = state if sharded else fold_state_dict(state, attached)
    averages = {} if sharded else fold_averages(checkpoint, attached)
    checkpoint["state_dict"] = folded
    checkpoint[KEY] = {
        "format": 1,
        "layers": {name: _path(parametrization) for name, parametrization in attached.items()},
        "originals": {key: value for key, value in state.items() if key not in folded},
        **({"averages": averages} if averages else {}),
        **parts,
    }


def restore_originals(model: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Write the originals of a checkpoint back into the reparametrized ``model``.

    The checkpoint has them again, too, for callbacks that load averages of it.

    Raises:
        ValueError: the checkpoint's reparametrized layers are not the model's.
    """
    attached = attached_parametrizations(model, remove_duplicate=False)
    expected = {name: _path(p) for name, p in attached.items()}
    found = checkpoint.get(KEY, {"layers": {}, "originals": {}})
    trained = {name: _public(path) for name, path in found["layers"].items()}
    if trained != expected:
        raise ValueError(
            f"the checkpoint was trained with {_describe(trained)}, and this run has "
            f"{_describe(expected)}: resume with the parametrization and layers of that run, or "
            "start anew from its weights"
        )
    state = model.state_dict(keep_vars=True)
    for key, value in found["originals"].items():
        if key.endswith("_extra_state") and not same_mark(value, state.get(key)):
            layer = key.partition(".parametrizations.")[0]
            raise ValueError(
                f"layer {layer!r} of the checkpoint was trained with other options of the "
                f"parametrization than this run's {attached[layer]}: resume with those"
            )
    with torch.no_grad():
        for key, value in found["originals"].items():
            if not isinstance(state.get(key), Tensor):
                continue
            if state[key].shape != value.shape:  # rows in the one, columns in the other
                raise ValueError(
                    f"{key} is {tuple(value.shape)} in the checkpoint and "
                    f"{tuple(state[key].shape)} in this run: resume with the parametrization of "
                    "that run, EWN's dim and inputs too, or start anew from its weights"
                )
            state[key].copy_(value)
    unfold_averages(checkpoint, found["originals"], found.get("averages", {}))


def _path(parametrization: nn.Module) -> str:
    return _public(f"{type(parametrization).__module__}.{type(parametrization).__qualname__}")


def _public(path: str) -> str:
    """The name that stays when files move: classes of this package go without their module.

    >>> _public("ewnprune.parametrizations.EWN"), _public("mine.layers.EWN")
    ('ewnprune.EWN', 'mine.layers.EWN')
    """
    package, _, rest = path.partition(".")
    return f"{package}.{rest.rpartition('.')[2]}" if package == "ewnprune" else path


def _describe(layers: dict[str, str]) -> str:
    if not layers:
        return "no reparametrized layer"
    return ", ".join(f"{path.rpartition('.')[2]} on {name!r}" for name, path in layers.items())
