"""What cannot be exported is told in one line, and leaves no file."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from toys.commands import fails

from ewnprune.export import formats
from ewnprune.export.calling import Calling


def test_bad_input_is_told_in_one_line(run, tmp_path, capsys, monkeypatch):
    there = [str(run)]
    monkeypatch.chdir(tmp_path)
    yaml = str(run / "config.yaml")
    assert "no config.yaml" in fails(capsys, "export", ".", "--sparsity=0.5")
    assert "--max_drop" in fails(capsys, "export", *there)
    assert "--max_drop" in fails(capsys, "export", *there, "--sparsity=0.5", "--max-drop=1")
    assert "run" in fails(capsys, "export", "--sparsity=0.5")
    assert "no such run" in fails(capsys, "export", "nowhere", "--sparsity=0.5")
    assert "outside [0, 1)" in fails(capsys, "export", *there, "--sparsity=90")
    assert "--max_drop -1" in fails(capsys, "export", *there, "--max-drop=-1")
    assert "pickle" in fails(capsys, "export", *there, "--sparsity=0.5", "--format=pickle")
    assert "unknown score" in fails(capsys, "export", *there, "--sparsity=0.5", "--score=size")
    assert "single weights" in fails(
        capsys, "export", *there, "--sparsity=0.5", "--score=magnitude"
    )
    assert "found none" in fails(
        capsys, "export", str(tmp_path), "--sparsity=0.5", "--run_config", yaml
    )
    Path("other.yaml").write_text("a: 1\n")
    assert "has no 'model'" in fails(
        capsys, "export", *there, "--sparsity=0.5", "--run_config=other.yaml"
    )
    text = (run / "config.yaml").read_text()
    Path("wider.yaml").write_text(text.replace("- 40\n", "- 41\n"))
    assert "does not fit" in fails(
        capsys, "export", *there, "--sparsity=0.5", "--run_config=wider.yaml"
    )
    Path("blind.yaml").write_text(text.replace("val_size: 5000", "val_size: 0"))
    assert "validation" in fails(
        capsys, "export", *there, "--max-drop=1", "--run_config=blind.yaml"
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    err = fails(capsys, "export", *there, "--sparsity=0.5", "--format=onnx")
    assert "pip install onnxscript onnxruntime" in err
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".yaml"] * 3


def test_no_code_of_a_checkpoint_runs(run, tmp_path, capsys):
    path = tmp_path / "bad.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": _Trap(tmp_path / "sprung")}, path)
    err = fails(
        capsys, "export", str(path), "--sparsity=0.5", "--run_config", str(run / "config.yaml")
    )
    assert "cannot be read safely" in err or "read safely" in err
    assert not (tmp_path / "sprung").exists()
    path.write_bytes(path.read_bytes()[:100])
    assert "damaged" in fails(
        capsys, "export", str(path), "--sparsity=0.5", "--run_config", str(run / "config.yaml")
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
    assert "other outputs" in fails(capsys, "export", *words)
    assert not list(tmp_path.iterdir())


def test_weights_missing_in_a_file_show(tmp_path):
    network = nn.Linear(2, 2)
    torch.save({"weight": network.weight.detach()}, tmp_path / "model.pt")
    with pytest.raises(RuntimeError, match="bias"):
        formats.find_format("state_dict").read(tmp_path / "model.pt", Calling(network, None))
