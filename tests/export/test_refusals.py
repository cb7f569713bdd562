"""What cannot be exported is told in one line, and leaves no file."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ewnprune.cli import main
from ewnprune.export import formats
from ewnprune.export.calling import Calling


def _fails(capsys, *words):
    assert main(["export", *words]) in (1, 2)
    err = capsys.readouterr().err
    assert err.startswith("ewnprune: error: ") and err.count("\n") == 1, err
    return err


def test_bad_input_is_told_in_one_line(run, tmp_path, capsys, monkeypatch):
    there = [str(run)]
    monkeypatch.chdir(tmp_path)
    yaml = str(run / "config.yaml")
    assert "no config.yaml" in _fails(capsys, ".", "--sparsity=0.5")
    assert "--max_drop" in _fails(capsys, *there)
    assert "--max_drop" in _fails(capsys, *there, "--sparsity=0.5", "--max-drop=1")
    assert "run" in _fails(capsys, "--sparsity=0.5")
    assert "no such run" in _fails(capsys, "nowhere", "--sparsity=0.5")
    assert "outside [0, 1)" in _fails(capsys, *there, "--sparsity=90")
    assert "--max_drop -1" in _fails(capsys, *there, "--max-drop=-1")
    assert "pickle" in _fails(capsys, *there, "--sparsity=0.5", "--format=pickle")
    assert "unknown score" in _fails(capsys, *there, "--sparsity=0.5", "--score=size")
    assert "single weights" in _fails(capsys, *there, "--sparsity=0.5", "--score=magnitude")
    assert "found none" in _fails(capsys, str(tmp_path), "--sparsity=0.5", "--run_config", yaml)
    Path("other.yaml").write_text("a: 1\n")
    assert "has no 'model'" in _fails(capsys, *there, "--sparsity=0.5", "--run_config=other.yaml")
    text = (run / "config.yaml").read_text()
    Path("wider.yaml").write_text(text.replace("- 40\n", "- 41\n"))
    assert "does not fit" in _fails(capsys, *there, "--sparsity=0.5", "--run_config=wider.yaml")
    Path("blind.yaml").write_text(text.replace("val_size: 5000", "val_size: 0"))
    assert "validation" in _fails(capsys, *there, "--max-drop=1", "--run_config=blind.yaml")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    err = _fails(capsys, *there, "--sparsity=0.5", "--format=onnx")
    assert "pip install onnxscript onnxruntime" in err
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".yaml"] * 3


def test_no_code_of_a_checkpoint_runs(run, tmp_path, capsys):
    path = tmp_path / "bad.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": _Trap(tmp_path / "sprung")}, path)
    err = _fails(capsys, str(path), "--sparsity=0.5", "--run_config", str(run / "config.yaml"))
    assert "cannot be read safely" in err or "read safely" in err
    assert not (tmp_path / "sprung").exists()
    path.write_bytes(path.read_bytes()[:100])
    assert "damaged" in _fails(
        capsys, str(path), "--sparsity=0.5", "--run_config", str(run / "config.yaml")
    )


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_file_that_reads_back_otherwise_is_no_success(run, tmp_path, capsys, monkeypatch):
    right = formats._FORMATS["state_dict"]

    def read(path, calling):
        state = torch.load(path, weights_only=True)
        state["fc2.weight"][0] += 0.1
        torch.save(state, path)
        return right.read(path, calling)

    monkeypatch.setitem(formats._FORMATS, "state_dict", right._replace(read=read))
    words = [
        str(*run.glob("checkpoints/*.ckpt")),
        "--sparsity=0.5",
        "--output",
        str(tmp_path / "small"),
    ]
    assert "other outputs" in _fails(capsys, *words)
    assert not list(tmp_path.iterdir())


def test_weights_missing_in_a_file_show(tmp_path):
    network = nn.Linear(2, 2)
    torch.save({"weight": network.weight.detach()}, tmp_path / "model.pt")
    with pytest.raises(RuntimeError, match="bias"):
        formats.find_format("state_dict").read(tmp_path / "model.pt", Calling(network, None))
