"""Tables and page of a study to loggers that keep files, by the methods that theirs have."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from jsonargparse import ArgumentError
from pytorch_lightning.loggers import CSVLogger, Logger

from ewnprune.study.artifacts import configured_loggers, log_artifacts

CALLS = []


def _note(*args, **options):
    CALLS.append((args, options))


class OfNeither(Logger):
    """Keeps numbers alone."""

    experiment, name, version = None, "", ""

    def log_metrics(self, metrics, step=None):
        raise AssertionError("no numbers are to be logged")

    def log_hyperparams(self, params, *args, **kwargs):
        raise AssertionError

    def finalize(self, status):
        _note(status)


class LikeWandb(OfNeither):
    experiment = SimpleNamespace(log_artifact=_note)

    def log_table(self, *args, **kwargs):
        raise AssertionError


class LikeMlflow(OfNeither):
    def __init__(self, run_id: str = "run"):
        super().__init__()
        self.run_id = run_id

    # its client has a method for single files too
    experiment = SimpleNamespace(log_artifacts=_note, log_artifact=None, log_figure=None)


@pytest.fixture(autouse=True)
def _of_mine(monkeypatch):
    monkeypatch.setitem(sys.modules, "of_mine", sys.modules[__name__])
    CALLS.clear()


def test_each_library_gets_the_folder_its_way():
    mlflow = {"class_path": "of_mine.LikeMlflow", "init_args": {"run_id": "r1"}}
    given = ["of_mine.LikeWandb", mlflow, "of_mine.OfNeither"]
    loggers = configured_loggers({"trainer": {"logger": given}})
    assert not CALLS
    log_artifacts(loggers, Path("study/report"), "study")
    assert CALLS == [
        (("study/report",), {"name": "study", "type": "study"}),
        (("success",), {}),
        (("r1", "study/report", "study"), {}),
        (("success",), {}),
        (("success",), {}),
    ]


def test_one_logger_or_none(tmp_path):
    one = {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path)}}
    (logger,) = configured_loggers({"trainer": {"logger": one}})
    assert isinstance(logger, CSVLogger)
    log_artifacts([logger], tmp_path, "study")
    for fit in ({}, {"trainer": {}}, {"trainer": {"logger": True}}):
        assert configured_loggers(fit) == []
    with pytest.raises(ArgumentError, match="NoLogger"):
        configured_loggers({"trainer": {"logger": "NoLogger"}})
