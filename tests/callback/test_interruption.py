"""Runs that end early, of one process and of several."""

import shlex
from types import SimpleNamespace

import pytest
from pytorch_lightning.loggers import CSVLogger
from toys.fits import make_trainer

from ewnprune.callback.interruption import Interruption


class _Trainer:
    """One of two processes; the other has gone, and does not answer."""

    def __init__(self, folder, rank=0):
        self.logger = CSVLogger(folder, name="")
        self.loggers, self.default_root_dir = [self.logger], folder
        self.global_step, self.current_epoch, self.world_size = 0, 2, 2
        self.is_global_zero = rank == 0
        self.state = SimpleNamespace(fn="fit")
        self.checkpoint_callback = SimpleNamespace(best_model_path=f"{folder}/a.ckpt")

    @property
    def log_dir(self):
        raise AssertionError("this waits for the other process")


@pytest.mark.parametrize("rank", [0, 1])
def test_the_line_to_go_on_with_can_be_typed_and_is_said_once(rank, tmp_path, capsys):
    trainer = _Trainer(tmp_path / "of mine", rank)
    interruption = Interruption()
    interruption.remember(trainer)
    interruption.on_exception(trainer, None, KeyboardInterrupt())
    lines = capsys.readouterr().out.splitlines()
    if rank:
        assert not lines
        return
    config = str(tmp_path / "of mine/version_0/config.yaml")
    checkpoint = str(tmp_path / "of mine/a.ckpt")
    expected = ["ewnprune", "fit", "--config", config, "--ckpt_path", checkpoint]
    assert shlex.split(lines[-1]) == expected


@pytest.mark.parametrize(("rank", "steps"), [(0, 0), (0, 3), (1, 0)])
def test_what_a_stillborn_run_has_written_goes_without_the_other_process(rank, steps, tmp_path):
    """An error of one process ended in silence: it waited for the others, and they for it."""
    trainer = _Trainer(tmp_path / "runs", rank)
    interruption = Interruption()
    interruption.remember(trainer)
    (tmp_path / "runs/version_0").mkdir(parents=True, exist_ok=True)
    (tmp_path / "runs/version_0/config.yaml").touch()
    interruption.on_exception(trainer, None, ValueError("of this process alone"))
    trainer.global_step = steps
    interruption.remove_stillborn()
    assert (tmp_path / "runs").exists() == (rank > 0 or steps > 0)


def test_runs_that_start_together_have_folders_of_their_own(tmp_path, monkeypatch):
    """Both looked, saw the same number to be free, and one ended in an error."""
    monkeypatch.setattr(CSVLogger, "_get_next_version", lambda _: 0)
    first, second = Interruption(), Interruption()
    trainers = [_Trainer(tmp_path / "runs"), _Trainer(tmp_path / "runs")]
    first.remember(trainers[0])
    second.remember(trainers[1])
    assert [trainer.logger.log_dir for trainer in trainers] == [
        str(tmp_path / "runs/version_0"),
        str(tmp_path / "runs/version_1"),
    ]
    second.remove_stillborn()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["version_0"]
    first.remove_stillborn()
    assert not (tmp_path / "runs").exists()


def test_all_processes_have_the_folder_of_the_first(tmp_path):
    """It is there when the others look for the next number."""
    first, other = _Trainer(tmp_path), _Trainer(tmp_path, rank=1)
    Interruption().remember(first)
    interruption = Interruption()
    interruption.remember(other)
    other.strategy = SimpleNamespace(broadcast=lambda _: first.logger.version)
    interruption.setup(other, None, "fit")
    assert other.logger.log_dir == first.logger.log_dir == str(tmp_path / "version_0")


def test_all_processes_stop_after_the_same_batch(tmp_path):
    """Each went by the signal that it had itself: one left while another waited for it."""
    trainer, asked = _Trainer(tmp_path), []

    def any_asks(decision, all):
        asked.append((decision, all))
        return len(asked) == 3  # the other process, in this batch

    trainer.strategy = SimpleNamespace(reduce_boolean_decision=any_asks)
    interruption = Interruption()
    interruption.on_train_batch_end(trainer)
    interruption.on_train_batch_end(trainer)
    with pytest.raises(KeyboardInterrupt):
        interruption.on_train_batch_end(trainer)
    assert asked == [(False, False)] * 3


@pytest.mark.parametrize("logger", [None, False, "tensorboard"])
def test_the_folder_is_lightnings(logger, tmp_path):
    given = CSVLogger(tmp_path, name="mine") if logger is None else logger == "tensorboard"
    trainer = make_trainer(tmp_path, logger=given)
    interruption = Interruption()
    interruption.remember(trainer)
    assert str(interruption._folder) == str(trainer.log_dir)
    dry = make_trainer(tmp_path, logger=True, fast_dev_run=True)
    interruption.remember(dry)
    assert (interruption._folder, dry.log_dir) == (None, None)
