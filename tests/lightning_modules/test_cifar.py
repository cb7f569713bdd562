"""CIFAR-10 in small: the same files with fewer images, and the numbers of those."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from lightning_modules import CIFAR10DataModule, cifar
from lightning_modules.in_memory import Images


def some(count: int, seed: int) -> tuple[np.ndarray, list[int]]:
    """Images ``(N, 32, 32, 3)`` and classes, as many of each."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 10).tolist()
    return rng.integers(256, size=(count, 32, 32, 3), dtype=np.uint8), labels


TRAIN, TEST = some(20, 0), some(10, 1)


def write_batches(folder: Path, monkeypatch: pytest.MonkeyPatch, **more: object) -> None:
    """torchvision's files, with more in each, whose MD5 sums torchvision is then told."""
    base = folder / "cifar-10-batches-py"
    base.mkdir()
    files = {"data_batch_1": TRAIN, "test_batch": TEST}
    sums = []
    for name, (pixels, labels) in files.items():
        rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
        content = pickle.dumps({"data": rows, "labels": labels, **more}, protocol=4)
        (base / name).write_bytes(content)
        sums.append([name, hashlib.md5(content).hexdigest()])
    meta = pickle.dumps({"label_names": list(cifar.CLASSES)})
    (base / "batches.meta").write_bytes(meta)
    known = {"filename": "batches.meta", "key": "label_names", "md5": hashlib.md5(meta).hexdigest()}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", sums[:1])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", sums[1:])
    monkeypatch.setattr(datasets.CIFAR10, "meta", known)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def write_folders(folder: Path) -> None:
    for part, (pixels, labels) in (("train", TRAIN), ("test", TEST)):
        for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            place = folder / part / cifar.CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{i}.png")


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Lets few images pass; the folders that were checked."""
    checked: list[Path] = []
    monkeypatch.setattr(cifar, "check", lambda train, test, folder: checked.append(folder))
    return checked


def module(folder: Path) -> CIFAR10DataModule:
    data = CIFAR10DataModule(folder, val_size=4)
    data.prepare_data()
    data.setup()
    return data


def test_both_kinds_of_files_give_the_same_images_in_the_same_order(
    tmp_path, monkeypatch, unchecked
):
    batches, folders, below = (tmp_path / name for name in ("batches", "folders", "below"))
    for folder in (batches, folders, below / "CIFAR10"):
        folder.mkdir(parents=True)
    write_batches(batches, monkeypatch)
    write_folders(folders)
    write_folders(below / "CIFAR10")
    found = [module(folder) for folder in (batches, folders, below)]
    assert unchecked == [batches, folders, below / "CIFAR10"]
    for part in ("train_dataloader", "val_dataloader", "test_dataloader"):
        first, *others = (getattr(data, part)() for data in found)
        for other in others:
            assert torch.equal(first.images, other.images)
            assert torch.equal(first.labels, other.labels)
    # the test images are those written, with their classes
    tests = found[0].test_dataloader()
    got = {
        im.permute(1, 2, 0).numpy().tobytes(): int(y)
        for im, y in zip(tests.images, tests.labels, strict=True)
    }
    assert got == {im.tobytes(): y for im, y in zip(*TEST, strict=True)}


def test_a_folder_that_cannot_be_written_to_is_read(tmp_path, monkeypatch):
    write_batches(tmp_path, monkeypatch)
    monkeypatch.setattr(cifar, "alone", lambda root: 1 / 0)  # which makes a file
    CIFAR10DataModule(tmp_path).prepare_data()
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(ZeroDivisionError):
        CIFAR10DataModule(tmp_path).prepare_data()


def test_of_the_batches_arrays_alone_are_read(tmp_path, monkeypatch):
    """Their sums were checked, and then they were read again, and all that was in them."""
    write_batches(tmp_path, monkeypatch, filenames=["a.png"], trap=Trap(tmp_path / "sprung"))
    with pytest.raises(ValueError, match=r"a pickle asks for .*, expected arrays only: refused"):
        module(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_pixels_are_normalized_by_channel(tmp_path, unchecked):
    write_folders(tmp_path)
    loader = module(tmp_path).test_dataloader()
    ((x, _),) = loader
    mean, std = np.array(cifar.MEAN)[:, None, None], np.array(cifar.STD)[:, None, None]
    np.testing.assert_allclose(x, (loader.images.numpy() / 255 - mean) / std, atol=1e-5)


def cifar_alike() -> tuple[Images, Images]:
    """What has the shapes and classes of CIFAR-10, and none of its pixels; takes no memory."""

    def part(count: int) -> Images:
        pixel = torch.zeros((), dtype=torch.uint8)
        return Images(pixel.expand(count, 3, 32, 32), torch.arange(count) % 10)

    return part(50_000), part(10_000)


def test_what_is_not_cifar_10_is_refused(monkeypatch):
    train, test = cifar_alike()
    with pytest.raises(ValueError, match=r"here has training images of \(10000, 3, 32, 32\)"):
        cifar.check(test, test, Path("here"))
    with pytest.raises(ValueError, match=r"here has \[50000, 0, .* by class: expected 5,000"):
        cifar.check(Images(train.pixels, torch.zeros(50_000).long()), test, Path("here"))
    # the pixels themselves are not looked at: 150 million would take a second
    numbers = [list(cifar.MEAN), list(cifar.STD)]
    monkeypatch.setattr(cifar, "statistics", lambda _: numbers)
    cifar.check(train, test, Path("here"))
    numbers[1] = [0.2470, 0.2435, 0.2616]
    with pytest.raises(ValueError, match=r"have means and deviations 0.49.*, 0.2470.*: expected"):
        cifar.check(train, test, Path("here"))


def test_other_classes_are_refused(tmp_path):
    write_folders(tmp_path)
    for part in ("train", "test"):
        (tmp_path / part / "truck").rename(tmp_path / part / "lorry")
    with pytest.raises(ValueError, match=r"has images of .*lorry.*: expected CIFAR-10's classes"):
        module(tmp_path)


def test_where_there_is_nothing_it_is_downloaded_or_said_what_to_do(tmp_path, monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", unreachable)
    data = CIFAR10DataModule(tmp_path / "new")
    with pytest.raises(RuntimeError, match=r"cannot get CIFAR-10 \(no route to host\): connect"):
        data.prepare_data()
    with pytest.raises(FileNotFoundError, match=r"no CIFAR-10 in .*new, or a damaged one: call"):
        data.setup()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"data_dir is .*file, a file; expected a folder"):
        CIFAR10DataModule(tmp_path / "file").prepare_data()


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match=r"val_size must be from 0 to 49999 .*, got 50000"):
        CIFAR10DataModule(val_size=50_000)
