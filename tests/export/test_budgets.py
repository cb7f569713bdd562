"""`ewnprune export --macs 0.5` and its like: what the card says is what the files have."""

import json

import pytest
import torch
import yaml
from torch import nn
from toys.commands import fails
from toys.fits import Net, fit

from ewnprune import measure_neurons, remove_neurons, sparsity_curve
from ewnprune.cli import main
from ewnprune.export import card
from ewnprune.export.budget import budget_entry, levels_within
from ewnprune.export.trained import read_trained
from ewnprune.pruning.budget import Budget, Met


class Small(Net):
    """6-24-12-2."""

    def __init__(self):
        layers = [nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 2)]
        super().__init__(nn.Sequential(*layers))


PARAMETERS, MACS = 6 * 24 + 24 + 24 * 12 + 12 + 12 * 2 + 2, 6 * 24 + 24 * 12 + 12 * 2


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    trainer = fit(folder, Small(), max_epochs=3)
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    prune = {"parametrization": None, "scores": ["norm", "magnitude", "norm_product"]}
    config = {"model": f"{__name__}.Small", "data": "toys.data.Points", "prune": prune}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(card, "_SECONDS", 0.01)


def _export(run, output, *words):
    return main(["export", str(run), "--output", str(output), *words])


def _sizes(hidden):
    """Of 6-a-b-2, by hand."""
    a, b = hidden
    return {"parameters": 7 * a + (a + 1) * b + 2 * b + 2, "macs": 6 * a + a * b + 2 * b}


# what is left of 24 and 12 neurons at each level, from the whole down
WIDTHS = list(
    dict.fromkeys(
        tuple(n - min(round(level / 4800 * n), n - 1) for n in (24, 12)) for level in range(4800)
    )
)


@pytest.mark.parametrize(
    ("words", "cost", "limit"),
    [
        ("--macs 0.5", "macs", MACS // 2),
        ("--macs=200", "macs", 200),
        ("--parameters 0.3", "parameters", int(0.3 * PARAMETERS)),
        ("--parameters 100 --score norm", "parameters", 100),
    ],
)
def test_the_largest_network_is_written(run, tmp_path, capsys, words, cost, limit):
    assert _export(run, tmp_path / "small", *words.split()) == 0, capsys.readouterr().err
    told = json.loads((tmp_path / "small" / "card.json").read_text())
    expected = next(hidden for hidden in WIDTHS if _sizes(hidden)[cost] <= limit)
    weights = torch.load(tmp_path / "small" / "model.pt", weights_only=True)
    assert (len(weights["0.weight"]), len(weights["2.weight"])) == expected
    entry = told["pruning"]["budget"]
    assert entry == {
        "cost": cost, "asked": float(words.split()[0].partition("=")[2] or words.split()[1]),
        "limit": limit, "reached": _sizes(expected)[cost], "dense": _sizes((24, 12))[cost],
    }  # fmt: skip
    assert told[cost] == {"before": entry["dense"], "after": entry["reached"]}
    assert sum(t.numel() for t in weights.values()) == told["parameters"]["after"]
    said = f"{entry['reached']} of {entry['dense']} "
    readme = (tmp_path / "small" / "README.md").read_text().replace("\\", "")
    assert said in readme and said in capsys.readouterr().out
    if "--score" not in words:
        assert told["pruning"]["chosen"] == "score, on validation data"
        assert told["pruning"]["score"] in ("norm", "norm_product")


def test_the_score_is_the_best_at_that_cost(run, tmp_path, capsys):
    accuracy = {}
    for score in ("norm", "norm_product"):
        assert _export(run, tmp_path / score, "--macs=0.3", f"--score={score}") == 0
        told = json.loads((tmp_path / score / "card.json").read_text())
        accuracy[score] = told["accuracy"]["val"]["after"]
    assert _export(run, tmp_path / "best", "--macs=0.3") == 0, capsys.readouterr().err
    told = json.loads((tmp_path / "best" / "card.json").read_text())
    assert told["accuracy"]["val"]["after"] == max(accuracy.values())


@pytest.mark.parametrize("words", ["--macs=0.3", "--sparsity=0.5"])
def test_scores_from_data_go_by_validation_data(run, tmp_path, capsys, words):
    words = (words, "--score=taylor")
    assert _export(run, tmp_path / "small", *words) == 0, capsys.readouterr().err
    told = json.loads((tmp_path / "small" / "card.json").read_text())
    weights = torch.load(tmp_path / "small" / "model.pt", weights_only=True)
    trained = read_trained(str(run))
    taylor = measure_neurons(trained.model, trained.batches("val"))["taylor"]["net.0"]
    kept = taylor.argsort(descending=True)[: len(weights["0.weight"])].sort().values
    assert weights["0.weight"].equal(trained.model.net[0].weight[kept].detach())
    assert told["pruning"]["score"] == "taylor" and len(kept) < 24


def test_a_config_may_name_its_recipe_as_in_a_fit(run, tmp_path, monkeypatch):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["prune"] = {"recipe": "prunable", "scope": "global"}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "prunable.yaml").write_text("prune: {scores: [norm]}")  # is not the recipe
    monkeypatch.chdir(tmp_path)
    pruning = read_trained(str(run), str(tmp_path / "other.yaml")).pruning
    assert (pruning.scores, pruning.scope) == (["norm_with_bias_product"], "global")


def test_a_checkpoint_is_found_from_within_its_folder(run, monkeypatch):
    (checkpoint,) = (run / "checkpoints").glob("*.ckpt")
    monkeypatch.chdir(checkpoint.parent)
    trained = read_trained(checkpoint.name)
    assert trained.config.resolve() == run / "config.yaml"


def test_a_scope_by_sensitivity_goes_by_validation_data(run, tmp_path, capsys):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["prune"] |= {"scope": "sensitivity", "sparsities": [0, 0.3, 0.6, 0.9]}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
    words = ("--sparsity=0.5", "--score=norm", "--run_config", str(tmp_path / "other.yaml"))
    assert _export(run, tmp_path / "small", *words) == 0, capsys.readouterr().err
    trained = read_trained(str(run))
    levels, val = (0, 0.3, 0.6, 0.9), trained.batches("val")
    curve = sparsity_curve(trained.model, val, levels, per_layer=True)
    options = {"scope": "sensitivity", "sensitivity": curve.sensitivity()}
    small = remove_neurons(trained.model, 0.5, torch.zeros(1, 6), **options)
    weights = torch.load(tmp_path / "small" / "model.pt", weights_only=True)
    assert {key: value.shape for key, value in weights.items()} == {
        key.removeprefix("net."): value.shape for key, value in small.state_dict().items()
    }
    told = json.loads((tmp_path / "small" / "card.json").read_text())
    assert told["pruning"]["scope"] == "sensitivity"


@pytest.mark.parametrize(
    "name", ["state_dict", pytest.param("torch_export", marks=pytest.mark.slow)]
)
def test_bytes_are_those_of_the_file(run, tmp_path, capsys, name):
    sizes = {}
    for level in (0, 0.3, 0.33, 0.34, 0.4):
        words = (f"--sparsity={level}", f"--format={name}", "--score=norm")
        assert _export(run, tmp_path / f"{level}", *words) == 0, capsys.readouterr().err
        told = json.loads((tmp_path / f"{level}" / "card.json").read_text())
        sizes[level] = (tmp_path / f"{level}" / told["file"]).stat().st_size
    limit = sizes[0.34]
    words = (f"--bytes={limit}", f"--format={name}", "--score=norm")
    assert _export(run, tmp_path / "within", *words) == 0, capsys.readouterr().err
    told = json.loads((tmp_path / "within" / "card.json").read_text())
    written = (tmp_path / "within" / told["file"]).stat().st_size
    assert written == told["bytes"]["after"] == told["pruning"]["budget"]["reached"]
    assert written == max(size for size in sizes.values() if size <= limit)
    assert told["bytes"]["before"] == sizes[0], "under the name that it would have"


def test_a_latency_says_how_it_was_measured(run, tmp_path, capsys):
    words = ("--latency_ms=1000", "--score=norm")
    assert main(["export", str(run), *words]) == 0, capsys.readouterr().err
    told = json.loads((run / "export-state_dict-latency_ms-1000" / "card.json").read_text())
    entry = told["pruning"]["budget"]
    assert told["pruning"]["sparsity"] == 0 and entry["limit"] == 1000
    assert entry["reached"] == entry["dense"] > 0
    assert (entry["batch_size"], entry["device"], entry["threads"]) == (
        1, "cpu", torch.get_num_threads(),
    )  # fmt: skip


def test_what_cannot_be_is_one_line(run, tmp_path, capsys):
    def refused(*words, status):
        return fails(capsys, "export", str(run), *words, among=(status,))

    smallest = _sizes((1, 1))["macs"]
    assert f"has {smallest} of {MACS} MACs" in refused("--macs=8", status=1)
    assert "the smallest network that removal gives has" in refused("--latency-ms=1e-9", status=1)
    assert "rank single weights" in refused("--macs=0.5", "--score=magnitude", status=1)
    for words in (["--macs=0.5", "--bytes=0.5"], ["--macs=0.5", "--sparsity=0.5"], []):
        assert "or one of --macs, --parameters" in refused(*words, status=2)
    assert "budget macs=0.0: expected a fraction" in refused("--macs=0", status=2)
    assert not list(run.glob("export-*macs*"))


def test_a_network_that_costs_more_than_found_is_not_written():
    told = {"bytes": {"before": 1000, "after": 501}}
    with pytest.raises(ValueError, match=r"has 501 of 1,000 bytes \(50.1 %\), more than --bytes"):
        budget_entry(Budget(bytes=0.5), Met(0.3, 500, 1000), told)


def test_networks_that_nobody_can_follow_are_refused(run):
    def by_width(model, x):
        return model(x) * sum(m.out_features for m in model.modules() if isinstance(m, nn.Linear))

    arguments = (Budget(macs=0.5), ["norm"], torch.zeros(1, 6), {"forward": by_width})
    with pytest.raises(ValueError, match="cannot be removed safely"):
        levels_within(read_trained(str(run)), *arguments, lambda network: 1.0)
