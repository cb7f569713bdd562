"""What the callback cannot work with, by name; and how to tell when a model builds its layers."""

import warnings
from collections.abc import Iterable
from typing import Any

from ewnprune.model.sharding import is_sharded
from ewnprune.namespaces import has_own, is_a
from ewnprune.training.attach import attached_parametrizations
from ewnprune.training.optimizers import EWNSGD, SWNSGD
from ewnprune.training.parametrizations import EWN, SWN
from ewnprune.training.weight_space import marked

_AVERAGING = "WeightAveraging", "StochasticWeightAveraging"


def builds_layers_later(pl_module: Any) -> bool:
    """Whether the model overrides ``setup`` or ``configure_model``."""
    return any(has_own(pl_module, hook) for hook in ("setup", "configure_model"))


def refuse_flattened(trainer: Any) -> None:
    """Check that weights are there as layers have them, to attach to and to measure.

    Raises:
        ValueError: the Trainer's strategy flattens them.
    """
    strategy = type(trainer.strategy).__name__
    if strategy.startswith(("FSDP", "DeepSpeed")):
        raise ValueError(
            f"WeightNormPruning cannot work under {strategy}, which flattens the parameters: use "
            "DDP, or FSDP2 (ModelParallelStrategy) with ewnprune.reparametrize in configure_model"
        )


def refuse_what_cannot_work(callback: Any, trainer: Any, later: bool) -> None:
    """Name what would train or average the wrong thing, before anything is attached.

    Args:
        callback: the `PruningHooks` that is about to attach.
        trainer: its Trainer.
        later: whether it attaches after the other callbacks' ``setup``.

    Raises:
        ValueError: a precision or callback that cannot work beside it, or a callback that would
            decide by the curve of an epoch before.
    """
    attaches = callback.parametrization is not None and not callback.attachment.weight_space
    if trainer.precision == "16-true" and attaches:
        raise ValueError(
            "WeightNormPruning cannot work with precision='16-true', in which exp(alpha) overflows "
            "above alpha = 11: use '16-mixed', 'bf16-mixed' or '32-true'"
        )
    if trainer.precision == "bf16-true" and attaches:
        warnings.warn(
            "precision='bf16-true' stores alpha with 8 bits, about 1 % of the norm: "
            "'bf16-mixed' keeps it exact",
            stacklevel=2,
        )
    if getattr(trainer.strategy, "_layer_sync", None) and getattr(
        callback.parametrization, "batchnorm", False
    ):
        raise ValueError(
            "EWN(batchnorm=True) cannot work with the Trainer's sync_batchnorm=True, which puts "
            "other modules in the place of BatchNorms: convert the model yourself, by "
            "torch.nn.SyncBatchNorm.convert_sync_batchnorm, and leave sync_batchnorm out"
        )
    before = True
    for other in trainer.callbacks:
        if other is callback:
            before = False
        elif is_a(other, "PruningHooks"):
            raise ValueError("two WeightNormPruning callbacks: expected one; merge their options")
        elif is_a(other, "ModelPruning"):
            raise ValueError(
                "ModelPruning beside WeightNormPruning: it would skip every reparametrized layer "
                "without a word; remove one of the two"
            )
        elif (before or later) and (harm := _harm(other, callback.method != "plain")):
            remedy = (
                "put WeightNormPruning before it in the Trainer's callbacks"
                if before
                else "build the layers in __init__, not in setup or configure_model"
            )
            raise ValueError(f"{type(other).__name__} {harm}: {remedy}")
        else:
            _refuse_early_decision(other, trainer)


def _harm(other: Any, normalizes: bool) -> str:
    """What a callback does to a model that is attached to after it; or empty."""
    if is_a(other, *_AVERAGING):
        return (
            "copies the model before it is reparametrized, and would average the wrong parameters"
        )
    if normalizes and is_a(other, "BaseFinetuning"):
        return (
            "freezes layers before they are reparametrized, which would train plain once unfrozen"
        )
    return ""


def put_behind(callbacks: list[Any]) -> None:
    """Move what must come after `PruningHooks` to just behind it, of two behind the last."""
    *_, own = [place for place, each in enumerate(callbacks) if is_a(each, "PruningHooks")]
    harming = [each for each in callbacks[:own] if _harm(each, normalizes=True)]
    others = [each for each in callbacks[:own] if each not in harming]  # they may have to be first
    callbacks[: own + 1] = [*others, callbacks[own], *harming]


def _refuse_early_decision(other: Any, trainer: Any) -> None:
    """Check that a callback which monitors a curve's value waits for that of the epoch.

    Curves are taken when an epoch of training ends, and a callback that decides earlier sees the
    value of the one before: pytorch_lightning/callbacks/model_checkpoint.py:642-664,
    early_stopping.py:159-162.
    """
    options = {
        "_save_on_train_epoch_end": "save_on_train_epoch_end=True",
        "_check_on_train_epoch_end": "check_on_train_epoch_end=True",
    }
    (own,) = [name for name in options if hasattr(other, name)] or [""]
    if not own or not str(other.monitor).startswith(("prune/", "prune_finetuned/")):
        return
    at_the_end = getattr(other, own)
    if at_the_end is None:  # by how often the Trainer validates
        once = trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch == 1
        at_the_end = once and getattr(trainer, "_val_check_time_interval", None) is None
    if not at_the_end:
        raise ValueError(
            f"{type(other).__name__} monitors {other.monitor!r} and decides after a validation, "
            f"before the curve of that epoch is taken: give it {options[own]}"
        )
    if getattr(other, "_every_n_epochs", 1) < 1:
        raise ValueError(
            f"{type(other).__name__} monitors {other.monitor!r} and decides in the middle of an "
            "epoch, whose curve is taken at its end: give it every_n_epochs alone, to say how often"
        )


def refuse_pruning_in_fit(option: str, trainer: Any, pl_module: Any) -> None:
    """Name what pruning within a fit cannot work with.

    Args:
        option: the callback's option that asks for it.
        trainer: the Trainer.
        pl_module: its module.

    Raises:
        ValueError: finetuning without a number of epochs or beside what unfreezes layers in the
            optimizer, or something that would bring pruned neurons back: averages of weights,
            undone epochs, shards.
    """
    if option == "finetune" and trainer.max_epochs in (None, -1):
        raise ValueError(
            "finetune needs to know when the ordinary epochs are over: give the Trainer max_epochs"
        )
    if option == "finetune" and (unfreezing := _of_kinds(trainer, "BaseFinetuning")):
        raise ValueError(
            f"finetune beside {unfreezing[0]}, which changes the optimizer's groups by their "
            "number, and finetuning makes the optimizer anew: remove one of the two"
        )
    averaging = averaging_callbacks(trainer)
    if averaging:
        raise ValueError(
            f"{option} beside {averaging[0]}, which would average pruned weights with those "
            "of before: remove one of the two"
        )
    if is_a(pl_module, "LossDrivenTraining"):
        raise ValueError(
            f"{option} with LossDrivenTraining, which may undo the epoch before: use another model"
        )
    if is_sharded(pl_module) or type(trainer.strategy).__name__ == "ModelParallelStrategy":
        raise ValueError(f"{option} does not work with sharded models: use DDP")


def averaging_callbacks(trainer: Any, *kinds: str) -> list[str]:
    """Names of callbacks that put averaged weights into the model at the end of training."""
    return _of_kinds(trainer, *(kinds or _AVERAGING))


def _of_kinds(trainer: Any, *kinds: str) -> list[str]:
    return [type(callback).__name__ for callback in trainer.callbacks if is_a(callback, *kinds)]


def refuse_other_optimizers(parametrization: Any, optimizers: Iterable[Any]) -> None:
    """Check that the weights marked for training in weight space are held as they need to be.

    Raises:
        ValueError: by another optimizer; or by the right one, made before they were marked.
    """
    wanted = {EWN: EWNSGD, SWN: SWNSGD}[type(parametrization)]
    remedy = (
        f"on the command line give --model.optimizer=ewnprune.{wanted.__name__} "
        "--model.optimizer.lr=..."
    )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if not any(marked(parameter) for parameter in group["params"]):
                continue
            if not isinstance(optimizer, wanted):
                raise ValueError(
                    f"weight_space=True needs the optimizer {wanted.__name__} and "
                    f"configure_optimizers made {type(optimizer).__name__}: {remedy}"
                )
            if group["weight_norm"] is None:
                raise ValueError(
                    f"weight_space=True, and {wanted.__name__} was made before the layers were "
                    "chosen: make it in configure_optimizers, from self.parameters()"
                )


def refuse_unheld(pl_module: Any, optimizers: Iterable[Any]) -> None:
    """Check that the optimizers hold the parameters that were attached.

    Raises:
        RuntimeError: they hold others, made before; nothing attached would train, without a word.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    held = {id(parameter) for group in groups for parameter in group["params"]}
    for name, parametrization in attached_parametrizations(pl_module).items():
        originals = pl_module.get_submodule(name).parametrizations["weight"].parameters()
        if held and any(p.requires_grad and id(p) not in held for p in originals):
            raise RuntimeError(
                f"no optimizer holds the {type(parametrization).__name__} parameters of layer "
                f"{name!r}, which would not train: make the optimizer in configure_optimizers, "
                "from self.parameters() (LightningCLI makes it too early unless you pass it "
                "auto_configure_optimizers=False), or leave the layer with exclude"
            )


def refuse_scaled_gradients(trainer: Any, optimizer: Any, asking: str) -> None:
    """Check that gradients before a step are those of the loss, and not of a multiple of it.

    Fused optimizers undo in their own step what a ``GradScaler`` multiplies by, and gradients are
    not clipped there either: pytorch_lightning/plugins/precision/amp.py:81, 107.

    Args:
        trainer: the Trainer.
        optimizer: the one that is about to step.
        asking: the name of the callback.

    Raises:
        ValueError: they are of a multiple.
    """
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        return
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise ValueError(
            f"{asking} under precision={trainer.precision!r} with {type(optimizer).__name__}"
            "(fused=True), which unscales gradients in its own step: the callback would take them "
            "for 65536 times as large; leave out fused=True, or use 'bf16-mixed'"
        )
