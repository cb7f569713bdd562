"""Hooks of a LightningModule that the callback goes along with, for its own come at other times."""

from collections.abc import Callable
from types import MethodType
from typing import Any


def once_built(pl_module: Any, attach: Callable[[Any], None]) -> None:
    """Call ``attach`` with a model that makes layers in its ``setup`` or ``configure_model``.

    It is reached right after those. No hook of a callback comes between them and the optimizer:
    pytorch_lightning/trainer/call.py:107-110 and trainer/trainer.py:1041-1054.
    """

    def configure_model(module: Any) -> None:
        del module.configure_model  # this wrapper, so that the class's own shows again
        module.configure_model()
        attach(module)

    pl_module.configure_model = MethodType(configure_model, pl_module)


def take_off(pl_module: Any) -> None:
    """Take off what `once_built` put on a model whose ``configure_model`` was never reached."""
    if _is_ours(pl_module, "configure_model"):
        del pl_module.configure_model


def go_along(
    pl_module: Any, saved: Callable[[Any, Any], None], epoch_ended: Callable[[Any], None]
) -> None:
    """Call functions after two hooks of a module.

    Args:
        pl_module: the module.
        saved: after ``on_save_checkpoint``, with the module and the checkpoint.
            ``save_weights_only`` leaves out the callbacks' hook, and calls the module's:
            pytorch_lightning/trainer/connectors/checkpoint_connector.py:503-510
        epoch_ended: after ``on_train_epoch_end``, with the module. Callbacks come before the module
            has logged its epoch, which loss levels ask for, and may have undone it
            (LossDrivenTraining): pytorch_lightning/loops/fit_loop.py:482-484
    """

    def on_save_checkpoint(module: Any, checkpoint: dict[str, Any]) -> None:
        type(module).on_save_checkpoint(module, checkpoint)
        saved(module, checkpoint)

    def on_train_epoch_end(module: Any) -> None:
        type(module).on_train_epoch_end(module)
        epoch_ended(module)

    pl_module.on_save_checkpoint = MethodType(on_save_checkpoint, pl_module)
    pl_module.on_train_epoch_end = MethodType(on_train_epoch_end, pl_module)


def goes_along(pl_module: Any) -> bool:
    """Whether `go_along` was called, by a fit that goes on, or that was cut off."""
    return _is_ours(pl_module, "on_save_checkpoint")


def _is_ours(pl_module: Any, hook: str) -> bool:
    return getattr(vars(pl_module).get(hook), "__module__", "") == __name__
