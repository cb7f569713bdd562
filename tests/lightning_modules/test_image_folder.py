from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from lightning_modules import ImageFolderDataModule
from lightning_modules.files import CorruptFileError
from lightning_modules.image_folder import statistics


def write(folder: Path, count: int = 6, mode: str = "RGB", size: tuple[int, int] = (5, 4)) -> Path:
    """Random images of two classes, ``count`` for training and two for test of each."""
    rng = np.random.default_rng(0)
    shape = size if mode == "L" else (*size, 3)
    for part, many in (("train", count), ("test", 2)):
        for name in ("dog", "cat"):
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for i in range(many):
                pixels = rng.integers(256, size=shape, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    return folder


def module(folder: Path, **options: object) -> ImageFolderDataModule:
    data = ImageFolderDataModule(folder, **options)
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_and_classes_are_those_of_torchvision(tmp_path, mode):
    data = module(write(tmp_path, mode=mode))
    theirs = datasets.ImageFolder(str(tmp_path / "train"))  # gives RGB always
    pixels = np.stack([np.asarray(image.convert(mode)) for image, _ in theirs]) / 255.0
    pixels = pixels.transpose(0, 3, 1, 2) if mode == "RGB" else pixels[:, None]
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
    expected = (pixels - mean[:, None, None]) / std[:, None, None]
    loader = data.train_dataloader()
    loader.shuffle = False
    ((x, y),) = loader
    np.testing.assert_allclose(x, expected, atol=1e-5)
    assert x.dtype == torch.float32
    assert y.tolist() == theirs.targets
    assert data.classes == ("cat", "dog")
    assert data.num_classes == 2
    assert next(iter(data.predict_dataloader())).shape == (4, *expected.shape[1:])


def test_validation_images_are_held_out(tmp_path):
    data = module(write(tmp_path), val_size=5)
    parts = [data.train_dataloader(), data.val_dataloader()]
    images = [image.tobytes() for part in parts for image in part.images.numpy()]
    assert [len(part.images) for part in parts] == [7, 5]
    assert len(set(images)) == 12
    assert module(tmp_path).val_dataloader() == []


def test_training_images_alone_are_moved_and_mirrored(tmp_path):
    data = module(write(tmp_path), val_size=2, shift=1, flip=True)
    assert data.train_dataloader().shift == 1
    assert data.train_dataloader().flip
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        assert (loader.shift, loader.flip) == (0, False)


def test_a_grey_image_among_coloured_ones_is_one_of_them(tmp_path):
    write(tmp_path)
    pixels = np.arange(20, dtype=np.uint8).reshape(5, 4)
    Image.fromarray(pixels).save(tmp_path / "test" / "cat" / "0.png")
    image = module(tmp_path).test_dataloader().images[0]
    assert torch.equal(image, torch.from_numpy(pixels).expand(3, 5, 4))


def test_an_image_with_a_palette_has_the_colours_of_its_palette(tmp_path):
    write(tmp_path)
    image = Image.new("P", (4, 5), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "test" / "cat" / "0.png")
    found = module(tmp_path).test_dataloader().images[0]
    assert found.flatten(1).unique(dim=1).flatten().tolist() == [10, 20, 30]


def test_statistics_are_numpys():
    pixels = np.random.default_rng(1).integers(256, size=(7, 3, 5, 4), dtype=np.uint8)
    mean, std = statistics(torch.from_numpy(pixels))
    np.testing.assert_allclose(mean, (pixels / 255.0).mean((0, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(std, (pixels / 255.0).std((0, 2, 3)), rtol=1e-14)


def spoil(folder: Path, how: str) -> None:
    path = folder / "train" / "dog" / "3.png"
    if how == "size":
        Image.new("RGB", (6, 5)).save(path)
    elif how == "mode":
        Image.new("RGBA", (4, 5)).save(path)
    elif how == "class":
        (folder / "test" / "dog").rename(folder / "test" / "wolf")
    elif how == "grey test":
        write(folder / "other", mode="L")
        (folder / "test").rename(folder / "gone")
        (folder / "other" / "test").rename(folder / "test")
    elif how == "one colour":
        for part in folder.rglob("train/*/*.png"):
            Image.new("RGB", (4, 5)).save(part)
    elif how == "no test":
        (folder / "test").rename(folder / "val")
    elif how == "empty":
        for part in (folder / "train" / "dog").glob("*"):
            part.unlink()


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("size", ValueError, r"dog/3.png is 5 x 6 pixels and .*cat/0.png is 5 x 4: expected"),
        ("mode", ValueError, r"dog/3.png is of mode RGBA: expected 8 bits of grey"),
        ("class", ValueError, r"class 'dog' is not in both train and test of"),
        ("grey test", ValueError, r"are 3 x 5 x 4 in train and 5 x 4 in test: expected one size"),
        ("one colour", ValueError, r"all pixels of a channel are alike in"),
        ("no test", FileNotFoundError, r"there is no folder .*test: expected .*train/<class>"),
        ("empty", FileNotFoundError, r"Found no valid file for the classes dog"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, how, error, message):
    spoil(write(tmp_path), how)
    with pytest.raises(error, match=message) as raised:
        module(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"no image", None])
def test_a_damaged_image_is_named(tmp_path, content):
    path = write(tmp_path) / "train" / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    with pytest.raises(CorruptFileError, match=f"{path} cannot be read as an image"):
        module(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"val_size": -1}, "val_size must not be negative, got -1"),
        ({"val_size": 12}, "val_size must be less than the 12 training images, got 12"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"shift": -1}, "shift must not be negative, got -1"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        module(write(tmp_path), **options)
