"""`ewnprune fit` with no options: which settings it has, what is drawn beside, how it ends."""

from pathlib import Path

import pytest
import yaml

from ewnprune import Curve, CurvePoint, read_curve
from ewnprune.callback.closing import closing_lines
from ewnprune.callback.first_run import with_first_run
from ewnprune.callback.sweeping import SweepingTrainer
from ewnprune.cli import main
from ewnprune.configs import shipped_config
from ewnprune.pruning.ranking import SPARSITIES
from ewnprune.study.options import _as_fit_reads

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("fit", True),
        ("fit --trainer.max_epochs 9 --seed_everything=3 --trainer.callbacks+=Timer", True),
        ("fit --config mine.yaml", False),
        ("fit -c mine.yaml", False),
        ("fit -cmine.yaml", False),
        ("fit --model my.Model", False),
        ("fit --model.network.hidden=[40]", False),
        ("fit --data=my.Data", False),
        ("fit --prune.parametrization=null", False),
        ("sweep --ckpt_path a.ckpt", False),
        ("-c mine.yaml fit", False),
    ],
)
def test_who_says_nothing_of_what_to_train_gets_the_first_run(words, first):
    given = words.split()
    expected = [given[0], "--config", str(shipped_config("first_run.yaml")), *given[1:]]
    assert with_first_run(given) == (expected if first else given)


@pytest.mark.parametrize(
    ("words", "drawn"),
    [
        ("", True),
        ("--config saved.yaml", True),
        ("--seed_everything=3 --trainer.default_root_dir=there --trainer.accelerator=cpu", True),
        ("--config first_run.yaml", True),
        ("--trainer.max_epochs=7", False),
        ("--trainer.limit_train_batches=9", False),
        ("--config first_run.yaml --data.batch_size=64", False),
        ("--config first_run.yaml --prune.scope=global", False),
        ("--config mnist_mlp_ewn.yaml", False),
    ],
)
def test_plain_training_is_drawn_in_where_the_settings_are_its_own(
    words, drawn, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    beside = []

    def fit(trainer, *_, **__):
        beside.extend(c.curves.beside for c in trainer.callbacks if hasattr(c, "curves"))

    monkeypatch.setattr(SweepingTrainer, "_fit_impl", fit)
    if "saved.yaml" in words:
        with pytest.raises(SystemExit):
            main(["fit", "--print_config"])
        Path("saved.yaml").write_text(capsys.readouterr().out)
    assert main(["fit", *words.split()]) == 0
    (curve,) = beside
    assert {point.method for point in curve} == ({"plain training, stored"} if drawn else set())


def test_the_stored_curve_is_of_the_same_data_and_epochs():
    first, plain = (
        yaml.safe_load((CONFIGS / name).read_text())
        for name in ("first_run.yaml", "first_run_plain.yaml")
    )
    assert first["data"] == plain["data"] and first["trainer"] == plain["trainer"]
    assert plain["prune"] == {"parametrization": None}
    curve = read_curve(CONFIGS / "first_run_plain.csv")
    assert [point.sparsity for point in curve] == [*SPARSITIES]
    assert {(p.method, p.split, p.total) for p in curve} == {("plain", "val", 5000)}
    assert {p.epoch for p in curve} == {first["trainer"]["max_epochs"] - 1}
    # 55,000 images in batches of 128, the last one cut off or not
    assert {p.step for p in curve} == {6 * (55_000 // 128 + 1)}


def test_a_study_compares_methods_as_they_come():
    usual = _as_fit_reads({})
    assert not usual["trainer"]["callbacks"] and usual["trainer"]["max_epochs"] == 5
    assert usual["data"]["init_args"]["shift"] == 0
    assert usual["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.1


def _points(*correct, score="norm", **options):
    options = {"method": "EWN", "split": "val", "step": 9, "epoch": 5, **options}
    levels = (0.0, 0.5, 0.9)
    return Curve(
        tuple(
            CurvePoint(sparsity=level, accuracy=right, score=score, **options)
            for level, right in zip(levels, correct, strict=True)
        )
    )


def test_the_last_lines_say_what_can_go_and_what_to_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/version_0")
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "sparsity_curve.png").touch()
    path = folder / "checkpoints" / "a.ckpt"
    path.touch()
    curve = _points(0.98, 0.99, 0.99, step=5, epoch=2)  # of before
    curve += _points(0.98, 0.971, 0.96) + _points(0.98, 0.96, 0.95, score="random")
    text = closing_lines(folder, curve, str(path.absolute()), compares=True)
    assert text.splitlines() == [
        "within 1 point  50 % of the neurons removed: 97.10 % (whole 98.00 %, validation data)",
        "figure          runs/version_0/sparsity_curve.png",
        "checkpoint      runs/version_0/checkpoints/a.ckpt",
        "next            ewnprune export runs/version_0 --max-drop 1",
        "                ewnprune compare",
    ]
    # which checkpoint to export must be said where there are two
    (folder / "checkpoints" / "b.ckpt").touch()
    text = closing_lines(folder, curve, str(path), compares=False)
    assert text.splitlines()[-1].split() == [
        *["next", "ewnprune", "export", "runs/version_0/checkpoints/a.ckpt", "--max-drop", "1"]
    ]
    # and the config, where it is not found from the checkpoint
    text = closing_lines(folder, curve, "best/my a.ckpt", compares=False)
    assert text.splitlines()[-1].split(maxsplit=1)[1] == (
        "ewnprune export 'best/my a.ckpt' --run_config runs/version_0/config.yaml --max-drop 1"
    )
    # nothing can go, nothing was measured, or nothing kept
    lost = closing_lines(folder, _points(0.98, 0.9, 0.8), str(path), compares=False)
    assert "0 % of the neurons removed" in lost and "export" not in lost
    assert closing_lines(Path("elsewhere"), None, "", compares=False) == ""
    losses = Curve((CurvePoint(sparsity=0.0, loss=1.0, split="val"),))
    assert "within" not in closing_lines(folder, losses, str(path), compares=False)
