"""The part of the callback that prunes step by step while the network trains.

What went stays zero, as in finetuning, under the optimizer and the schedule that the fit has.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ewnprune.callback.attachment import Attachment
from ewnprune.callback.gradual import Gradual, refuse_beside, refuse_exchanged_weights
from ewnprune.callback.holding import hold_at_zero, neuron_masks, pruned_first, set_to_zero
from ewnprune.callback.measuring import Measuring
from ewnprune.callback.ordinary import ordinary_steps, steps_done
from ewnprune.callback.pruned import Pruned
from ewnprune.callback.refusals import refuse_pruning_in_fit
from ewnprune.callback.run_files import run_folder, unused
from ewnprune.files import write_rows
from ewnprune.model.copying import plain_network
from ewnprune.model.layers import neuron_rows
from ewnprune.model.preserve import evaluating
from ewnprune.pruning.found import Found
from ewnprune.pruning.score_names import find_scores


class GradualPruning:
    """Prunes at the steps of the schedule, and holds at zero what went.

    Args:
        options: how to prune; None is not at all.
        measuring: how the network is measured; the first of its scores ranks the neurons.
        attachment: what is attached to it.
        finetune: what was asked of finetuning, which does not go together with it.

    Attributes:
        pruned: None before; then how, what sparsity was reached, the masks, and for each layer the
            step at which each neuron went, -1 for those that are there.
    """

    def __init__(
        self,
        options: Gradual | None,
        measuring: Measuring,
        attachment: Attachment,
        finetune: object = None,
    ) -> None:
        if not isinstance(options, Gradual | None):
            raise ValueError(f"gradual={options!r}: expected Gradual(to=...), or None")
        if options is not None:
            refuse_beside(options, measuring, finetune)
        self.options, self.measuring, self.attachment = options, measuring, attachment
        self.pruned: dict[str, Any] | None = None
        self._steps = 0.0
        self._found: Found | None = None
        self._handles: Sequence[RemovableHandle] = ()
        self._path: Path | None = None

    def reset(self, trainer: Any, pl_module: Any) -> None:
        """Begin a fit.

        Raises:
            ValueError: pruning in its course cannot work with it.
        """
        self.pruned, self._found = None, None
        if self.options is not None:
            refuse_pruning_in_fit("gradual", trainer, pl_module)
            refuse_exchanged_weights(pl_module)

    def network(self) -> Pruned | None:
        """The network as it is pruned now; None where nothing is."""
        if self.pruned is None:
            return None
        how = f"gradually to {self.pruned['options']['to']:g}"
        return Pruned(how, self.pruned["sparsity"], self.pruned["masks"])

    def resume(self, trainer: Any, pl_module: Any) -> None:
        """Hold what had gone when the run was interrupted."""
        if self.options is not None and self.pruned is not None:
            self._handles = hold_at_zero(pl_module, self.pruned["masks"], trainer.optimizers)

    def begin(self, trainer: Any) -> None:
        """Learn how long the fit is, and where its folder; an error where nobody can tell."""
        if self.options is None:
            return
        self._steps = ordinary_steps(trainer, "gradual")
        folder = run_folder(trainer)
        writes = trainer.is_global_zero and not trainer.fast_dev_run
        self._path = unused(folder, "gradual_neurons", [".csv"])[0] if writes else None

    def before_batch(self, trainer: Any, pl_module: Any, batch: Any) -> None:
        """Prune, where it is the time; before the first step find what could go."""
        if self.options is None:
            return
        if self._found is None:
            self._found = self._find(trainer, pl_module, batch)
        level = self.options.sparsity(steps_done(trainer), int(self._steps))
        if level > (0 if self.pruned is None else self.pruned["sparsity"]):
            with evaluating(pl_module):
                masks, _ = self._masks(pl_module, level)
            # each process has running statistics of its own batches until the next forward pass
            self._prune(trainer, pl_module, level, trainer.strategy.broadcast(masks))

    def told(self, trainer: Any) -> list[str]:
        """Lines that say what went, and whether that was less than it was to be."""
        if self.options is None or not self._steps:
            return []
        reached = 0.0 if self.pruned is None else self.pruned["sparsity"]
        gone = {} if self.pruned is None else self.pruned["gone"]
        counts = ", ".join(f"{int((g >= 0).sum())} of {len(g)} of {n}" for n, g in gone.items())
        lines = [f"ewnprune: pruned while training: {counts or 'nothing'}"]
        if reached < self.options.to:
            lines[0] += (
                f"; to {reached:.3g} and not {self.options.to:g}, for the fit was stopped at step "
                f"{steps_done(trainer)} of {int(self._steps)}"
            )
        if gone and self._path is not None:
            lines.append(f"ewnprune: which, and when: {self._path}")
        return lines

    def end(self) -> None:
        """Let the model go; at the end of a fit, or where it was cut off."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._found, self._steps = (), None, 0.0

    def state_dict(self) -> dict[str, Any]:
        """What was pruned."""
        return {} if self.pruned is None else {"gradual": self.pruned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what was pruned."""
        self.pruned = state.get("gradual")

    def go_on(self) -> None:
        """Check that a run which is resumed prunes as it did.

        Raises:
            ValueError: it was pruned otherwise.
        """
        if self.pruned is None:
            return
        before = Gradual(**self.pruned["options"])
        ((score, _),) = find_scores(self.measuring.first_score).items()
        if self.options != before or score != self.pruned["score"]:
            raise ValueError(
                f"the checkpoint is of a run that was pruned by {self.pruned['score']} with "
                f"{before}: resume it with the gradual= and first score that it had, or start anew "
                "from its weights"
            )

    def _find(self, trainer: Any, pl_module: Any, batch: Any) -> Found:
        """The groups of the network, once a fit; and a rehearsal of the last pruning."""
        assert self.options is not None
        measuring = self.measuring
        with evaluating(pl_module), trainer.precision_plugin.forward_context():
            inputs, _ = measuring.batch(batch)
            choice = measuring.choice(self.attachment.initial_norms)
            found = choice.find(plain_network(pl_module), measuring.forward, inputs)
        self._found = found
        with evaluating(pl_module):
            _, notes = self._masks(pl_module, float(self.options.to))
        for note in notes:  # no curve tells of them: another score may be swept
            warnings.warn(str(note), stacklevel=2)
        return found

    def _masks(self, pl_module: Any, level: float) -> tuple[dict[str, Tensor], list[Any]]:
        """What goes at a level, by the weights as they are now: first what is gone already."""
        assert self._found is not None
        ((name, score),) = find_scores(self.measuring.first_score).items()
        if self.pruned is not None:
            score = pruned_first(name, score, pl_module, self.pruned["masks"])
        choice = self.measuring.choice(self.attachment.initial_norms)
        ranking, notes = choice.rank(replace(self._found, network=pl_module), name, score)
        if ranking.unit != "neurons":
            raise ValueError(
                f"gradual: the first score, {name!r}, ranks single weights: expected one that "
                "ranks neurons, such as 'norm_product'"
            )
        masks = neuron_masks(self._found, choice.units(self._found, ranking, level))
        return {key: keep.cpu() for key, keep in masks.items()}, notes

    @torch.no_grad()
    def _prune(self, trainer: Any, pl_module: Any, level: float, masks: dict[str, Tensor]) -> None:
        assert self._found is not None and self.options is not None
        step, gone = trainer.global_step, {}
        before = {} if self.pruned is None else self.pruned["gone"]
        for name in self._found.anatomy.chosen:
            keep = masks.get(f"{name}.weight".lstrip("."))
            if keep is None:
                continue
            stays = neuron_rows(pl_module.get_submodule(name), keep).any(1)
            when = before.get(name, torch.full((len(stays),), -1, device="cpu"))
            gone[name] = torch.where(stays | (when >= 0), when, step)
        ((score, _),) = find_scores(self.measuring.first_score).items()
        self.pruned = {
            "options": asdict(self.options),
            "score": score,
            "sparsity": level,
            "masks": masks,
            "gone": gone,
        }
        set_to_zero(pl_module, masks)
        for handle in self._handles:
            handle.remove()
        self._handles = hold_at_zero(pl_module, masks, trainer.optimizers)
        self._write(trainer)

    def _write(self, trainer: Any) -> None:
        """How many are gone to the loggers, and which to the run's folder."""
        assert self.pruned is not None
        if not trainer.is_global_zero:
            return
        gone = self.pruned["gone"]
        numbers = {f"gradual/{name}/neurons": int((when < 0).sum()) for name, when in gone.items()}
        numbers["gradual/sparsity"] = self.pruned["sparsity"]
        for logger in trainer.loggers:
            logger.log_metrics(numbers, trainer.global_step)
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"step": int(when[neuron]), "layer": name, "neuron": neuron}
            for name, when in gone.items()
            for neuron in (when >= 0).nonzero().flatten().tolist()
        ]
        rows.sort(key=lambda row: row["step"])
        write_rows(self._path, rows, ["step", "layer", "neuron"], "\n")
