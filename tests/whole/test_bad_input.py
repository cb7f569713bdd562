"""What is wrong with values, files or the disk is one line, and leaves nothing broken."""

from pathlib import Path

import pytest
from toys.commands import SMALL, fails

from ewnprune.cli import main

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--prune.sparsities=[0.5,0.5]"], "0.5"),
        (["--prune.sparsities=[]"], "sparsities"),
        (["--prune.layers=encoder.*"], "encoder.*"),
        (["--prune.every_n_epochs=0"], "every_n_epochs"),
        (["--prune.metric=torchmetrics.MeanSquaredError"], "MeanSquaredError"),
        (["--model=NoSuchModel"], "NoSuchModel"),
        (["--data.data_dir=no/such/place/either"], "no/such/place"),
        (["--no.such.key=1"], "no.such.key"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_leaves_nothing(words, expected, capsys, monkeypatch):
    if "data_dir" in words[0]:
        monkeypatch.setattr("lightning_modules.mnist.fetch", _no_network)
    small = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    small += ["--trainer.limit_val_batches=1"]
    err = fails(capsys, "fit", *SMALL, *small, *words)
    assert expected in err
    assert len(err) < 700, err
    assert not Path("runs").exists()


def _no_network(root, *_, **__):
    raise FileNotFoundError(f"no MNIST in {root} and no way to get it: put the four files there")


def test_bad_files_are_one_line(capsys):
    Path("broken.yaml").write_text("prune: [unclosed")
    assert "broken.yaml" in fails(capsys, "fit", "--config", "broken.yaml")
    Path("unknown.yaml").write_text("prune:\n  sparsity: [0.5]\n")
    assert "sparsity" in fails(capsys, "fit", "--config", "unknown.yaml")
    Path("not.ckpt").write_bytes(b"no checkpoint at all")
    err = fails(capsys, "sweep", *SMALL, "--ckpt_path", "not.ckpt")
    assert "not.ckpt" in err
    fails(capsys, "no-such-command")
    assert not Path("runs").exists()


def test_a_corrupt_data_file_is_named(capsys, tmp_path, mnist_dir):
    copy = tmp_path / "data"
    copy.mkdir()
    for file in Path(mnist_dir).rglob("*ubyte"):
        (copy / file.name).write_bytes(file.read_bytes())
    target = next(copy.glob("t10k-images*"))
    target.write_bytes(target.read_bytes()[:-1])
    err = fails(capsys, "fit", *SMALL, "--data.data_dir", str(copy), "--trainer.max_epochs=1")
    assert target.name in err


def test_tracebacks_on_request(monkeypatch):
    monkeypatch.setenv("EWNPRUNE_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        main(["fit", "--config=missing.yaml"])


def test_a_full_disk_is_one_line(capsys, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ewnprune.files.os.replace", full)
    words = ["fit", *SMALL, "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    err = fails(capsys, *words, "--trainer.limit_val_batches=1", "--prune.sparsities=[0,0.5]")
    assert "No space left" in err
    assert not list(Path("runs/version_0").glob("*sparsity_curve*"))
