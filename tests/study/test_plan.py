"""How the options of a study's runs come together."""

from pathlib import Path

import pytest
import torch
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint

from ewnprune.study.command import _prepare
from ewnprune.study.methods import METHODS, Method
from ewnprune.study.plan import Run, expand, merge, nested
from ewnprune.study.run import _furthest_checkpoint

MINE = {"class_path": "toys.data.Points"}


def _run(base, vary=None, method="none"):
    return expand(Path("f"), {method: METHODS[method]}, [3], nested(base), vary or {}, {})[0]


@pytest.mark.parametrize(
    ("model", "vary", "merged"),
    [
        ("my.M", "model.init_args.width", {"class_path": "my.M", "init_args": {"width": 3}}),
        ("my.M", "model.width", {"class_path": "my.M", "init_args": {"width": 3}}),
        (
            {"class_path": "my.M", "init_args": {"depth": 2}},
            "model.width",
            {"class_path": "my.M", "init_args": {"depth": 2, "width": 3}},
        ),
        (None, "model.init_args.width", {"init_args": {"width": 3}}),
    ],
)
def test_a_class_by_its_name_stays_where_its_arguments_vary(model, vary, merged):
    assert _run({} if model is None else {"model": model}, {vary: [3]}).config["model"] == merged


@pytest.mark.parametrize("key", ["data.init_args.batch_size", "data.batch_size"])
@pytest.mark.parametrize(
    ("base", "name"),
    [
        ({}, "lightning_modules.MNISTDataModule"),
        ({"data": "MNISTDataModule"}, "MNISTDataModule"),
        ({"data": {"val_size": 9}}, "lightning_modules.MNISTDataModule"),
        ({"data.val_size": 9}, "lightning_modules.MNISTDataModule"),
    ],
)
def test_arguments_of_the_data_vary_without_their_class(base, name, key):
    data = _run(base, {key: [64]}).config["data"]
    assert data["class_path"] == name
    rest = {"val_size": 9} if "val_size" in str(base) else {}
    assert data["init_args"] == {"batch_size": 64, "seed": 3, **rest}


def test_data_without_a_seed_or_none_at_all_stay_as_they_are():
    assert _run({"data": "toys.data.Points"}).config["data"] == "toys.data.Points"
    assert _run({"data": None}).config["data"] is None


@pytest.mark.parametrize(
    ("given", "first"), [(None, []), ([MINE], [MINE]), (MINE, [MINE]), ("my.C", ["my.C"])]
)
def test_callbacks_of_any_form_stand_before_those_of_methods(given, first, tmp_path):
    run = _run({"trainer": {"callbacks": given}}, method="group_lasso")
    made = run.config["trainer"]["callbacks"]
    made = [one["class_path"] if one == {"class_path": "my.C"} else one for one in made]
    assert made[:-1] == first
    assert made[-1]["class_path"] == "ewnprune.GroupLasso"
    plain = Run(tmp_path / "run", "none", 0, None, {"trainer": {"callbacks": given}})
    assert _prepare([plain]) == [plain]
    assert len(merge({"callbacks": []}, {"callbacks": given})["callbacks"]) == len(first)


def test_options_by_the_names_of_a_command_line_lie_below_those_of_methods():
    run = _run({"prune.realize": "remove", "prune.parametrization": "EWN", "prune": {"a": 1}})
    asked = run.config["prune"]
    assert (asked["realize"], asked["parametrization"], asked["a"]) == ("remove", None, 1)
    assert "magnitude" not in asked["scores"]  # which removes nothing that could be built


def test_a_run_for_one_level_is_not_pruned_unless_its_method_says_where():
    """Else all levels of its curve would count as that one."""
    base = {"prune": {"sparsities": [0, 0.5, 0.9]}}
    told = {"prune": {"sparsities": [0.5]}}
    for fit, options, levels in (({}, {}, [0.0]), (told, {}, [0.5]), ({}, told, [0.5])):
        own = {"mine": Method(fit, ("norm",), parts={0.5: options})}
        (run,) = expand(Path("f"), own, [0], base, {}, own)
        assert (run.part, run.config["prune"]["sparsities"]) == (0.5, levels)


def test_a_run_has_one_device_unless_one_is_named(tmp_path):
    for given, devices in (({}, 1), ({"devices": "auto"}, 1), ({"devices": [2]}, [2])):
        run = Run(tmp_path / str(given), "none", 0, None, {"trainer": given})
        _prepare([run])
        text = (run.folder / "config.yaml").read_text()
        assert nested(yaml.safe_load(text))["trainer"]["devices"] == devices


def test_a_run_keeps_checkpoints_of_its_own_whatever_the_trainer_was_told(tmp_path):
    given = {"enable_checkpointing": False, "default_root_dir": ".", "callbacks": []}
    _prepare([Run(tmp_path / "run", "none", 0, None, {"trainer": given})])
    trainer = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["trainer"]
    assert trainer["enable_checkpointing"] is True
    assert trainer["default_root_dir"] == str(tmp_path / "run")
    (kept,) = [c for c in trainer["callbacks"] if "ModelCheckpoint" in c["class_path"]]
    mine = ModelCheckpoint(save_last=True)
    assert ModelCheckpoint(**kept["init_args"]).state_key != mine.state_key


def test_of_the_checkpoints_of_a_run_that_with_the_most_steps_counts(tmp_path):
    names = ("checkpoints/last", "fit_0/checkpoints/interrupted", "hpc_ckpt_1")
    for most in names:
        for name in names:
            path = tmp_path / f"{name}.ckpt"
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"state_dict": {}, "global_step": 3 + 4 * (name == most)}, path)
        assert _furthest_checkpoint(tmp_path) == tmp_path / f"{most}.ckpt"


def test_names_of_folders_fit_a_file_system_and_tell_runs_apart():
    models = [{"class_path": "my.M", "init_args": {"é" * 150: width}} for width in (3, 4)]
    runs = expand(Path("f"), {"none": METHODS["none"]}, [0], {}, {"model": models}, {})
    names = {run.folder.name for run in runs}
    assert len(names) == 2
    assert all(len(name.encode()) <= 255 for name in names)
