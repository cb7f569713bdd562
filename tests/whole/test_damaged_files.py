"""Files that were cut off or damaged are never taken for good, and are named in one line."""

import zipfile
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from toys.fits import Net, fit

from ewnprune import EWN, WeightNormPruning, read_curve
from ewnprune.callback.checkpoint import read_checkpoint
from ewnprune.study.run import _FINAL, CHECKPOINTS, _furthest_checkpoint, _steps

LEVELS = (0, 0.5, 0.9)


def test_a_checkpoint_that_was_cut_off_is_never_gone_on_from(tmp_path):
    keep = ModelCheckpoint(tmp_path / "fit")
    fit(tmp_path, Net(), WeightNormPruning(EWN(), LEVELS), keep)
    content = Path(keep.best_model_path).read_bytes()
    older = tmp_path / "fit_0/checkpoints/interrupted.ckpt"
    older.parent.mkdir(parents=True)
    older.write_bytes(content)
    (tmp_path / CHECKPOINTS[0]).parent.mkdir()
    assert _furthest_checkpoint(tmp_path) == older
    for path in (tmp_path / CHECKPOINTS[0], tmp_path / _FINAL):
        for length in (0, 1, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            assert _steps(path) is None
            assert _furthest_checkpoint(tmp_path) == older


def test_truncated_and_flipped_checkpoints_are_one_line(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"w": torch.arange(1000.0)}}, path)
    content = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for length in torch.randint(len(content), (20,), generator=generator).tolist():
        path.write_bytes(content[:length])
        with pytest.raises(
            ValueError, match=r"a\.ckpt is no checkpoint that can be read"
        ) as caught:
            read_checkpoint(path)
        assert "\n" not in str(caught.value)
    refused = 0
    for place in torch.randint(len(content), (40,), generator=generator).tolist():
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            read_checkpoint(path)
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused >= 2  # torch checks no sum of the tensors themselves: the rest is read


def test_bytes_that_the_unpickler_stumbles_over_are_one_line(tmp_path):
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/version", "3")
        file.writestr("a/byteorder", "little")
        file.writestr("a/data.pkl", b"\x80\x02a.")  # append to a list that is not there
    with pytest.raises(ValueError, match=r"a\.ckpt is no checkpoint .* \(IndexError\)"):
        read_checkpoint(path)


@pytest.mark.parametrize("line", ["first", "second"])
def test_a_quote_that_is_never_closed_is_one_line(tmp_path, line):
    path = tmp_path / "curve.csv"
    path.write_text("sparsity," + ('"weights' if line == "first" else 'weights\n0,"1'))
    with pytest.raises(ValueError, match=r"curve\.csv holds no curve \("):
        read_curve(path)
