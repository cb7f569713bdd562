"""The callbacks for those who ``import lightning.pytorch``: same hooks, that package's base class.

Lightning comes under two names whose classes are not each other's, and a Trainer takes callbacks of
its own only: https://github.com/Lightning-AI/pytorch-lightning/issues/17485
"""

from lightning.pytorch import Callback

from ewnprune.callback.hooks import PruningHooks
from ewnprune.callback.relations import RelationsHooks


class WeightNormPruning(PruningHooks, Callback):  # noqa: D101
    __doc__ = PruningHooks.__doc__


class AsymptoticRelations(RelationsHooks, Callback):  # noqa: D101
    __doc__ = RelationsHooks.__doc__
