"""A run that is over: its model with the trained weights, its data, and how it was pruned.

Which classes are built is for the config file to say, the one that the user named or that lies in
the run folder the user named: a config is code as much as a script is. Nothing of the checkpoint
but tensors and plain types is read, and no class is taken from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser, Namespace
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor

import lightning_modules  # noqa: F401  its classes can then be named without the module
from ewnprune.callback import WeightNormPruning
from ewnprune.callback.checkpoint import read_checkpoint, stored
from ewnprune.callback.sweeping import folder_above
from ewnprune.configs import config_path, shipped_config
from ewnprune.export.batches import Batches
from ewnprune.files import local_path
from ewnprune.model.preserve import run_eagerly
from ewnprune.pruning.recalibration import with_statistics
from ewnprune.training.state_dict import fold_state_dict


@dataclass(frozen=True)
class Trained:
    """What a run left.

    Attributes:
        model: the model with the weights of the checkpoint, plain, in eval mode.
        data: the data of the run.
        pruning: the run's pruning callback; the defaults where it had none.
        config: the config file.
        checkpoint: the checkpoint file.
        epoch: epochs trained.
        step: optimizer steps trained.
        seed: seed of the run.
        initial_norms: the neurons' norms at initialisation, by layer; may be empty.
    """

    model: LightningModule
    data: LightningDataModule
    pruning: WeightNormPruning
    config: Path
    checkpoint: Path
    epoch: int | None
    step: int | None
    seed: int | None
    initial_norms: Mapping[str, Tensor]

    def batches(self, split: str) -> Batches | None:
        """The data of ``"val"``, ``"test"`` or ``"train"``; None where there are none."""
        return Batches.of(self.data, self.model, split)

    def training_batches(self, always: bool = False) -> Batches | None:
        """So many batches as a run estimates statistics of BatchNorms on, the same every time.

        None where there are no training data, the run had it turned off, or there are no such
        statistics, unless they are needed ``always``.
        """
        count = self.pruning.measuring.recalibrate
        if not count or not (always or with_statistics(self.model)):
            return None
        batches = self.batches("train")
        return None if batches is None else replace(batches, first=count, seed=self.seed)


def read_trained(run: str, config: str | None = None) -> Trained:
    """Build the model and the data of a run, and load its weights.

    Args:
        run: the run's folder, with ``config.yaml`` and ``checkpoints``, or a checkpoint of it.
        config: the config file, where it is not the run's.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is not what it should be, or the checkpoint is of another model.
    """
    config_file, checkpoint_path = _find_files(run, config)
    content = read_checkpoint(checkpoint_path)
    seed, made = _instantiate(config_file)
    own = made.model.state_dict()
    # torch's weight norm that the model itself has is not for us to fold
    kept = {key: value for key, value in content["state_dict"].items() if key in own}
    rest = {key: value for key, value in content["state_dict"].items() if key not in own}
    try:
        made.model.load_state_dict(kept | fold_state_dict(rest), strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{checkpoint_path} does not fit the model of {config_file} ({reason}...): give the "
            "config that it was trained with"
        ) from error
    run_eagerly(made.model)  # as its smaller networks are: they are held against each other
    return Trained(
        made.model.eval(),
        made.data,
        made.prune,
        config_file,
        checkpoint_path,
        content.get("epoch"),
        content.get("global_step"),
        seed,
        stored(content).get("initial_norms", {}),
    )


def _find_files(run: str, config: str | None) -> tuple[Path, Path]:
    path = local_path(run)
    if not path.exists():
        raise FileNotFoundError(
            f"{run}: there is no such run or checkpoint: give the folder that ewnprune fit made, "
            "or a .ckpt file"
        )
    folder = path if path.is_dir() else folder_above(path)  # of RUN/checkpoints/FILE
    own = _own_config(folder)
    if config is None and not own.is_file():
        raise FileNotFoundError(
            f"there is no {own}: give the config that the run was trained with, by --run_config"
        )
    config_file = Path(config_path(str(own) if config is None else config, "--run_config"))
    if path.is_file():
        return config_file, path
    found = sorted((folder / "checkpoints").glob("*.ckpt"))
    # a run of a study keeps the last of each epoch too, to go on from
    found = [path for path in found if path.name == "final.ckpt"] or found
    if len(found) != 1:
        listing = ", ".join(path.name for path in found) or "none"
        raise ValueError(
            f"{run}: expected one checkpoint in {folder / 'checkpoints'}, found {listing}: name "
            "the file itself"
        )
    return config_file, found[0]


def _own_config(folder: Path) -> Path:
    """The config that a run wrote: one of a study writes it for each attempt, beside the asked."""
    attempts = [path for path in folder.glob("fit_*/config.yaml") if path.parent.name[4:].isdigit()]
    return max(attempts, key=lambda path: int(path.parent.name[4:]), default=folder / "config.yaml")


def _instantiate(path: Path) -> tuple[int | None, Namespace]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    missing = [key for key in ("model", "data") if key not in (content or ())]
    if missing:
        raise ValueError(
            f"{path} has no {missing[0]!r}: expected a config of a run, with its model and data"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model", required=True)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    parser.add_class_arguments(WeightNormPruning, "prune")
    parser.set_defaults({"prune.parametrization": None})
    wanted = {key: content[key] for key in ("model", "data", "prune") if key in content}
    prune = wanted.get("prune")
    recipe = prune.pop("recipe", None) if isinstance(prune, dict) else None
    if recipe is not None:  # as in a fit its options lie below those of the config
        shipped = Path(config_path(str(shipped_config(f"{recipe}.yaml")), "prune.recipe"))
        below = yaml.safe_load(shipped.read_text(encoding="utf-8"))["prune"]
        wanted["prune"] = below | prune
    made = parser.instantiate_classes(parser.parse_object(wanted))
    return content.get("seed_everything"), made
