"""What ``ewnprune predict`` leaves: the outputs of the network, in a file."""

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from ewnprune.callback.run_files import run_folder
from ewnprune.files import replacing


class PredictionFile(Callback):
    """Saves what ``Trainer.predict`` returns, as ``predictions.pt`` in the run's folder.

    `torch.load` gives that list: what ``predict_step`` returned, batch by batch. Of several
    processes each saves its own part, as ``predictions_0.pt`` and so on. Nothing is saved of a dry
    run, nor with ``--return_predictions=false``.
    """

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = run_folder(trainer)
        predictions = trainer.predict_loop.predictions
        if trainer.fast_dev_run or not predictions:  # type: ignore[attr-defined]
            return
        name = f"predictions_{trainer.global_rank}" if trainer.world_size > 1 else "predictions"
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / f"{name}.pt") as unfinished:
            torch.save(predictions, unfinished)
        print(f"written:\n  {folder / f'{name}.pt'}", flush=True)
