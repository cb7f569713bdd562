"""The recipe for any model: in Python, on the command line, and in the shipped config."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from toys import fits

from ewnprune import EWN, WeightNormPruning, prunable_recipe
from ewnprune.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = [
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


class Mine(fits.Net):
    """A network of two hidden layers, of a user."""

    def __init__(self):
        torch.manual_seed(0)
        layers = nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 2)
        super().__init__(nn.Sequential(*layers))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "of_mine", sys.modules[__name__])


def _fit(*words):
    # under a name that a command line can import
    words = ["fit", "--data=toys.data.Points", *SMALL, "--model=of_mine.Mine", *words]
    assert main(words) == 0
    runs = sorted(Path("runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    (checkpoint,) = (runs[-1] / "checkpoints").glob("*.ckpt")
    config = yaml.safe_load((runs[-1] / "config.yaml").read_text())
    return config, torch.load(checkpoint, weights_only=True)["state_dict"]


def _set(callback):
    return {key: value for key, value in vars(callback).items() if not key.startswith("_")}


def _made(config):
    """The callbacks that a config spells out, made by hand."""
    import ewnprune

    made = []
    for entry in config["trainer"]["callbacks"]:
        package, _, name = entry["class_path"].rpartition(".")
        assert package == "ewnprune"
        made.append(getattr(ewnprune, name)(**entry["init_args"]))
    return made


def test_the_command_line_has_what_the_function_gives():
    config, trained = _fit("--prune.recipe=prunable")
    *others, pruning = prunable_recipe()
    made = _made(config)
    assert [type(one) for one in made] == [type(one) for one in others]
    for one, other in zip(made, others, strict=True):
        assert _set(one) == _set(other)
    assert config["prune"]["scores"] == [*pruning.scores]
    assert config["prune"]["parametrization"]["class_path"] == "ewnprune.EWN"
    assert isinstance(pruning.parametrization, EWN) and "recipe" not in config["prune"]
    # the config of the run, and the shipped one, are the same run
    for words in (["--config", "runs/version_0/config.yaml"], ["--config", "prunable.yaml"]):
        _, again = _fit(*words)
        assert all(torch.equal(again[key], trained[key]) for key in trained)
    _, without = _fit()
    assert any(not torch.equal(without[key], trained[key]) for key in trained)


def test_what_else_is_asked_for_goes_with_it():
    Path("mine.yaml").write_text(
        "trainer: {callbacks: [{class_path: ewnprune.AsymptoticRelations}]}\n"
        "prune: {recipe: prunable, scores: [norm_product], layers: [net.2]}\n"
    )
    config, _ = _fit("--config", "mine.yaml")
    names = [entry["class_path"] for entry in config["trainer"]["callbacks"]]
    recipe = [f"ewnprune.{type(one).__name__}" for one in prunable_recipe()[:3]]
    assert names == [*recipe, "ewnprune.AsymptoticRelations"]
    nested = config["trainer"]["callbacks"][1]["init_args"]
    assert nested["layers"] == ["net.2"] and nested["share"] == 0.5
    assert config["prune"]["scores"] == ["norm_product"]
    added, _ = _fit("--prune.recipe=prunable", "--trainer.callbacks+=ewnprune.AsymptoticRelations")
    assert [entry["class_path"] for entry in added["trainer"]["callbacks"]] == names


@pytest.mark.parametrize(
    ("name", "method"),
    [("mnist_mlp_prunable", "recipe_every"), ("mnist_mlp_lasso_prunable", "lasso_every")],
)
def test_the_configs_of_mnist_are_those_of_their_study(name, method):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    study = yaml.safe_load((CONFIGS.parent / "benchmarks" / "recipe_every.yaml").read_text())
    own = study["own"][method]["fit"]
    assert _plain(config["data"]) == _plain(study["fit"]["data"])
    assert config["trainer"]["max_epochs"] == study["fit"]["trainer"]["max_epochs"]
    assert _plain(config["trainer"]["callbacks"]) == _plain(own["trainer"]["callbacks"])
    assert _plain(config["model"]) == _plain(own["model"])
    assert _plain(config["prune"]["parametrization"]) == _plain(own["prune"]["parametrization"])
    assert config["prune"]["scores"] == study["own"][method]["scores"]


def _plain(spec):
    """A class by its path alone is one without options."""
    if isinstance(spec, list):
        return [_plain(item) for item in spec]
    if not isinstance(spec, dict):
        return spec
    return (
        spec["class_path"] if [*spec] == ["class_path"] else {k: _plain(v) for k, v in spec.items()}
    )


@pytest.mark.parametrize("name", ["mnist_cnn_prunable", "cifar_resnet20_prunable"])
def test_behind_batch_norms_it_is_their_scales(name):
    """What is trained along is ranked as the network's curve ranks it first."""
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert config["prune"]["parametrization"]["init_args"] == {"batchnorm": True}
    alpha, nested = (entry["init_args"] for entry in config["trainer"]["callbacks"])
    assert alpha == {"rate": 10}
    assert (nested["share"], nested["score"]) == (0.5, config["prune"]["scores"][0])


def test_an_unknown_recipe_is_one_line(capsys):
    assert main(["fit", "--prune.recipe=prunabel"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "prune.recipe" in told and "prunable" in told


def test_a_trainer_of_ones_own(tmp_path):
    model = Mine()
    callbacks = prunable_recipe(sparsities=(0, 0.5), layers=["net.0"], scores=["norm"])
    fits.fit(tmp_path, model, *callbacks)
    assert isinstance(callbacks[-1], WeightNormPruning)
    assert {p.score for p in callbacks[-1].curve} == {"norm"}
    assert callbacks[1].layers == ["net.0"]
    with pytest.raises(TypeError, match="parametrization"):
        prunable_recipe(parametrization=None)
