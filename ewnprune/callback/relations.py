"""The asymptotic relations of a model's neurons, logged while it trains."""

import csv
from pathlib import Path
from typing import Any

import torch

from ewnprune.callback.refusals import refuse_scaled_gradients
from ewnprune.callback.run_files import run_folder, unused
from ewnprune.model.layers import LayerPatterns, neuron_rows, select_layers
from ewnprune.model.parametrized import sources_of
from ewnprune.training.relations import Relations, gradient_rows, relate, spread


class RelationsHooks:
    """Logs the asymptotic relations of a model's neurons while it trains.

    Before every n-th step of the optimizer, from the gradient that it is about to follow; of
    several optimizers before their steps in every n-th batch, each for the layers that it trains.
    The loggers get, per layer, ``relations/<layer>/product_spread`` (largest over smallest, tends
    to 1 under EWN), ``quotient_spread`` (to 1 under SWN and plain training) and ``cosine`` (the
    mean, to -1), each over the neurons at least half as long as the layer's longest. The numbers of
    every neuron go to ``relations.csv`` in the run's folder, a numbered one where another run has
    that.

    Args:
        every_n_steps: how often.
        layers: globs over module names, or layer types; by default every Linear and convolution
            but the last one.
        exclude: which of them to leave.

    Raises:
        ValueError: ``every_n_steps`` is below 1, or a pattern matches no layer.
    """

    def __init__(
        self,
        every_n_steps: int = 50,
        layers: LayerPatterns | None = None,
        exclude: LayerPatterns | None = None,
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps}: expected a number of steps >= 1")
        self.every_n_steps, self.layers, self.exclude = every_n_steps, layers, exclude
        self._path: Path | None = None
        self._name = ""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Begin anew; a checkpoint that the fit goes on from comes later."""
        self._name = ""

    def state_dict(self) -> dict[str, Any]:
        """The name of the file."""
        return {"file": self._name}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the file of the run that is resumed."""
        self._name = state["file"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find the run's folder, which asks all processes."""
        folder, self._path = run_folder(trainer), None
        if trainer.is_global_zero and not trainer.fast_dev_run:
            folder.mkdir(parents=True, exist_ok=True)
            # a run that goes on has begun its file; another one of this folder has its own
            begun = folder / self._name
            (new,) = unused(folder, "relations", [".csv"])
            self._path = begun if self._name and begun.exists() else new
            self._name = self._path.name

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Log, when it is the time."""
        batches = trainer.fit_loop.epoch_loop.batch_progress.total.completed
        # several may take turns, and each n-th step be of the same one
        done = trainer.global_step if len(trainer.optimizers) == 1 else batches
        if done % self.every_n_steps:
            return
        refuse_scaled_gradients(trainer, optimizer, "AsymptoticRelations")
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, layer in select_layers(pl_module, self.layers, self.exclude).chosen.items():
            gradient = gradient_rows(layer)
            if gradient is None or not trained & {id(p) for p in sources_of(layer, "weight")}:
                continue
            found = relate(neuron_rows(layer), gradient)
            long = found.norm >= 0.5 * found.norm.max()
            metrics = {
                f"relations/{name}/product_spread": spread(found.product, found.norm),
                f"relations/{name}/quotient_spread": spread(found.quotient, found.norm),
                f"relations/{name}/cosine": found.cosine[long].mean().item(),
            }
            # module.log would repeat them at every step until the next time
            for logger in trainer.loggers:
                logger.log_metrics(metrics, trainer.global_step)
            if self._path is not None:
                _append(self._path, trainer.global_step, name, found)


def _append(path: Path, step: int, layer: str, found: Relations) -> None:
    columns = {key: values.tolist() for key, values in vars(found).items()}
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if file.tell() == 0:
            writer.writerow(["step", "layer", "neuron", *columns])
        writer.writerows(
            [step, layer, u, *row] for u, row in enumerate(zip(*columns.values(), strict=True))
        )
