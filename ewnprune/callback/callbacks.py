"""The callbacks for ``pytorch_lightning``; `ewnprune.lightning` has the same for ``lightning``."""

from pytorch_lightning import Callback

from ewnprune.callback.hooks import PruningHooks
from ewnprune.callback.relations import RelationsHooks


class WeightNormPruning(PruningHooks, Callback):  # noqa: D101
    __doc__ = PruningHooks.__doc__


class AsymptoticRelations(RelationsHooks, Callback):  # noqa: D101
    __doc__ = RelationsHooks.__doc__
