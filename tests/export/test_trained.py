"""Runs of models with torch's own parametrizations on some layers, or with compiled parts."""

import json
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm
from toys.fits import TrainsOnly

from ewnprune import EWN, remove_neurons, reparametrize
from ewnprune.cli import main
from ewnprune.export.trained import read_trained

NORMS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "older": weight_norm,
}


class Compiled(TrainsOnly):
    def __init__(self, whole: bool):
        super().__init__()
        self.net = torch.compile(self.net, backend="eager")
        if not whole:
            self.after = nn.Linear(2, 2)

    def forward(self, x):
        return self.after(self.net(x)) if hasattr(self, "after") else self.net(x)


class Normed(TrainsOnly):
    def __init__(self, norm: str):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)  # of the older one
            first = NORMS[norm](nn.Linear(6, 8))
        others = (nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 2))
        super().__init__(nn.Sequential(first, nn.ReLU(), *others))


def checkpoint(folder, model, layers, **arguments):
    """A file as a fit leaves it, and the config of the run."""
    content = {"state_dict": model.state_dict(), "pytorch-lightning_version": "2.6.6"}
    torch.save(content, folder / "last.ckpt")
    named = f"{{class_path: {__name__}.{type(model).__name__}, init_args: {arguments}}}"
    Path(folder, "mine.yaml").write_text(
        f"model: {named}\ndata: {{class_path: toys.data.Points}}\nprune: {{layers: {layers}}}\n"
    )
    return str(folder / "last.ckpt"), str(folder / "mine.yaml")


@pytest.mark.parametrize("norm", NORMS)
def test_norms_of_torchs_own_on_other_layers_are_read_and_left(norm, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Normed.__module__])
    model, x = Normed(norm), torch.randn(5, 6)
    model(x)  # a step of the power iteration of spectral norm
    reparametrize(model, EWN(), layers="net.4")
    expected = model.eval()(x)
    run = checkpoint(tmp_path, model, "net.4", norm=norm)
    trained = read_trained(*run).model
    torch.testing.assert_close(trained(x), expected)
    small = remove_neurons(trained, 0.4, x, layers="net.4")
    assert small.net[4].out_features == 4
    assert all(parameter.requires_grad for parameter in small.parameters())
    words = ["export", run[0], "--run_config", run[1], "--sparsity=0.4"]
    assert main([*words, f"--output={tmp_path / 'small'}"]) == 0
    weights = torch.load(tmp_path / "small" / "model.pt", weights_only=True)
    assert {key: value.shape for key, value in weights.items()} == {
        key: value.shape for key, value in small.net.state_dict().items()
    }


@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_part_is_written_as_what_was_compiled(whole, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Compiled.__module__])
    run = checkpoint(tmp_path, Compiled(whole), layers="net._orig_mod.0", whole=whole)
    words = ["export", run[0], "--run_config", run[1], "--sparsity=0.4"]
    for kind in ("state_dict", "torch_export"):
        assert main([*words, f"--format={kind}", f"--output={tmp_path / kind}"]) == 0
    weights = torch.load(tmp_path / "state_dict" / "model.pt", weights_only=True)
    named = [key for key in weights if key.endswith("0.weight")]
    assert named == ["0.weight" if whole else "net._orig_mod.0.weight"]
    told = json.loads((tmp_path / "state_dict" / "card.json").read_text())
    assert told["source"]["module"] == ("net._orig_mod" if whole else "")
    small = torch.export.load(tmp_path / "torch_export" / "model.pt2").module()
    assert small(torch.randn(3, 6)).shape == (3, 2)
