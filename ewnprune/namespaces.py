"""Whose a class or a hook is, under either of the names that Lightning is installed by."""

from typing import Any

_OWN = "pytorch_lightning.core.", "lightning.pytorch.core."


def is_a(thing: Any, *names: str) -> bool:
    """Whether it is of a class with one of these names, of either of Lightning's namespaces.

    >>> from pytorch_lightning.callbacks import ModelCheckpoint
    >>> is_a(ModelCheckpoint(), "Timer", "Checkpoint")
    True
    """
    return not {*names}.isdisjoint(base.__name__ for base in type(thing).__mro__)


def has_own(of: Any, hook: str) -> bool:
    """Whether a module, or a data module, has another hook of this name than Lightning's own.

    >>> from pytorch_lightning import LightningDataModule
    >>> has_own(LightningDataModule(), "train_dataloader")
    False
    >>> has_own(LightningDataModule.from_datasets([0]), "train_dataloader")
    True
    """
    if hook in vars(of):  # as LightningDataModule.from_datasets puts it there
        return True
    module = getattr(getattr(of, hook), "__module__", None) or ""
    return not module.startswith(_OWN)
