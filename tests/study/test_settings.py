"""What a study was asked for, and how it goes on from what lies in its folder."""

import shutil

import pytest
import yaml

from ewnprune.cli import main
from ewnprune.study.settings import joined


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """`ewnprune compare` that trains nothing."""
    monkeypatch.setattr(
        "ewnprune.study.command.run_locally", lambda folders, workers: (each for each in ())
    )
    monkeypatch.setattr("ewnprune.study.command.check_options", lambda runs, own: None)
    monkeypatch.chdir(tmp_path)
    return lambda *words: main(["compare", "--methods=none", "--seeds=0", *words])


def test_a_study_starts_again_from_its_own_settings(compare, tmp_path, capsys):
    """Those of a file had the file's scores, which are refused among a study's options."""
    given = ["--fit_config=mnist_mlp_ewn.yaml", "--folder=first"]
    assert compare(*given) == 0, capsys.readouterr().err
    path = tmp_path / "first/study.yaml"
    settings = yaml.safe_load(path.read_text())
    assert settings["fit"]["prune"] and "scores" not in settings["fit"]["prune"]
    runs = list((tmp_path / "first/runs").iterdir())
    assert compare("--config=first/study.yaml", "--folder=first") == 0, capsys.readouterr().err
    assert compare("--config=first/study.yaml", "--folder=second") == 0, capsys.readouterr().err
    assert list((tmp_path / "first/runs").iterdir()) == runs
    assert [run.name for run in (tmp_path / "second/runs").iterdir()] == [runs[0].name]
    # a study of before goes on with what it was started with
    settings["fit"]["prune"]["scores"] = ["norm", "norm_product"]
    path.write_text(yaml.safe_dump(settings))
    assert compare(*given) == 0, capsys.readouterr().err
    assert "scores" not in yaml.safe_load(path.read_text())["fit"]["prune"]
    assert list((tmp_path / "first/runs").iterdir()) == runs


@pytest.mark.parametrize("text", ["- trainer.max_epochs: 5", "trainer"])
def test_a_fit_config_without_options_gets_one_line(text, compare, tmp_path, capsys):
    (tmp_path / "odd.yaml").write_text(text)
    assert compare("--fit_config=odd.yaml") == 2
    err = capsys.readouterr().err
    assert "--fit_config odd.yaml: it holds a " in err and err.count("\n") == 1


def test_a_study_that_grows_keeps_its_reference_and_methods(tmp_path):
    def settings(methods, reference=None, own=None):
        asked = {"fit": {}, "vary": {}, "own": own or {}, "reference": reference}
        return joined(tmp_path, asked | {"methods": methods})

    assert settings(["swn", "ewn"])["reference"] == "swn"
    checkpoint = tmp_path / "runs/0/checkpoints/last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    first = settings(["swn", "none"], own={"mine": {"scores": ["norm"]}})
    assert first["reference"] == "none"
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(first))
    grown = settings(["ewn"])
    assert (grown["methods"], grown["reference"]) == (["swn", "none", "ewn"], "none")
    assert grown["own"] == first["own"]
    assert settings(["ewn"], "ewn")["reference"] == "ewn"
    with pytest.raises(ValueError, match="another method 'mine'"):
        settings(["mine"], own={"mine": {"scores": ["random"]}})
    # what only ranks may be said anew, and what nothing was trained of too
    ranks = settings(["mine"], own={"mine": first["own"]["mine"], "by": {"trains": "none"}})
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(ranks))
    other = {"trains": "swn", "scores": ["random"]}
    assert settings(["by"], own={"by": other})["own"]["by"] == other
    shutil.rmtree(tmp_path / "runs")
    assert settings(["mine"], own={"mine": other})["methods"] == ["mine"]


@pytest.mark.parametrize("text", ["folder: mine\nfit: {model: my.Model}\n", "- none", ""])
def test_a_study_yaml_of_somebody_else_is_not_written_over(text, compare, tmp_path, capsys):
    path = tmp_path / "mine/study.yaml"
    path.parent.mkdir()
    path.write_text(text)
    assert compare("--folder=mine") == 2
    err = capsys.readouterr().err
    assert "mine/study.yaml is no file that ewnprune compare has written" in err
    assert err.count("\n") == 1 and path.read_text() == text


def test_runs_of_other_settings_go_while_nothing_is_trained(compare, tmp_path):
    """They would be told of as unfinished runs of this study."""
    runs = tmp_path / "study/runs"
    for trained, left in ((False, 1), (True, 2)):
        assert compare("--folder=study", "--seeds=0,1") == 0
        assert len([*runs.iterdir()]) == 2
        if trained:
            path = next(runs.iterdir()) / "hpc_ckpt_1.ckpt"  # as Lightning's under SLURM
            path.touch()
        (runs / "version_0").mkdir(exist_ok=True)  # of `ewnprune fit`
        assert compare("--folder=study") == 0
        assert len([*runs.iterdir()]) == left + 1
        (runs / "version_0").rmdir()
