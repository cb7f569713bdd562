from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.utilities import CombinedLoader

from lightning_modules import ImageLoader


def loader(n: int = 10, batch_size: int = 3, **options: object) -> ImageLoader:
    """Images whose only pixel, and whose label, is their number."""
    numbers = torch.arange(n)
    pixels = (numbers % 256).to(torch.uint8).reshape(n, 1, 1)
    return ImageLoader(pixels, numbers, batch_size, **{"mean": 0.0, "std": 1.0, **options})


def numbers(batches: ImageLoader) -> list[int]:
    return [number for _, y in batches for number in y.tolist()]


sizes = st.integers(1, 60)


@settings(deadline=None)
@given(n=sizes, batch_size=st.integers(1, 70), seed=st.integers(0, 2**40), epoch=st.integers(0, 99))
def test_an_epoch_is_a_permutation_in_batches_of_the_size_asked(n, batch_size, seed, epoch):
    batches = loader(n, batch_size, shuffle=True, seed=seed)
    batches.set_epoch(epoch)
    got = [y.tolist() for _, y in batches]
    assert sorted(number for batch in got for number in batch) == list(range(n))
    assert len(got) == len(batches)
    assert all(len(batch) == batch_size for batch in got[:-1])


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        batches = loader(100, seed=seed, shuffle=True)
        batches.set_epoch(epoch)
        torch.manual_seed(epoch)  # must not matter
        return tuple(numbers(batches))

    assert order(0, 1) == order(0, 1)
    assert len({order(seed, epoch) for seed in range(4) for epoch in range(4)}) == 16


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    numbers(loader(shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_shuffle_the_order_is_that_of_the_images():
    assert numbers(loader()) == list(range(10))


@settings(deadline=None)
@given(n=sizes, world_size=st.integers(1, 5), batch_size=st.integers(1, 20), shuffle=st.booleans())
def test_processes_share_the_images_out(n, world_size, batch_size, shuffle):
    if n < world_size:
        with pytest.raises(ValueError, match=f"{n} images cannot be shared by {world_size}"):
            loader(n, world_size=world_size)
        return
    shares = []
    for rank in range(world_size):
        batches = loader(n, batch_size, shuffle=shuffle, rank=rank, world_size=world_size)
        shares.append([y.tolist() for _, y in batches])
        assert len(shares[-1]) == len(batches)
        assert all(shares[-1])  # an empty batch has no mean loss
    assert len({len(share) for share in shares}) == 1  # else processes would wait for each other
    seen = sorted(number for share in shares for batch in share for number in batch)
    assert len(set(seen)) == len(seen)  # disjoint
    assert len(seen) == (n - n % world_size if shuffle else n)


@settings(deadline=None)
@given(n=sizes, batch_size=st.integers(1, 9), epoch=st.integers(0, 3), data=st.data())
def test_a_loaded_state_goes_on_where_the_other_stood(n, batch_size, epoch, data):
    first = loader(n, batch_size, shuffle=True)
    first.set_epoch(epoch)
    done = data.draw(st.integers(0, len(first)))
    iterator = iter(first)
    before = [number for _ in range(done) for number in next(iterator)[1].tolist()]
    state = first.state_dict()

    second = loader(n, batch_size, shuffle=True)
    second.load_state_dict(state)
    iterator = iter(second)  # as Lightning does it: first the iterator, then the epoch
    second.set_epoch(epoch)
    after = [number for _, y in iterator for number in y.tolist()]
    assert sorted(before + after) == list(range(n))
    if done < len(first):
        assert second.state_dict() == {"epoch": epoch, "batch": len(first)}
    second.set_epoch(epoch + 1)
    assert len(numbers(second)) == n  # the next epoch is whole again


def test_pixels_are_normalised():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1)
    (x,) = ImageLoader(images, None, 3, mean=0.2, std=0.5)
    assert x.shape == (3, 1, 1, 1)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.flatten(), torch.tensor([-0.4, 0.0, 1.6]))


def test_lightning_finds_the_state_and_the_epoch():
    combined = CombinedLoader(loader())
    next(iter(combined))
    assert combined._state_dicts() == [{"epoch": 0, "batch": 1}]
    assert combined.sampler is combined.flattened[0]


def test_shifts_move_each_image_by_whole_pixels_both_ways():
    images = torch.arange(1, 1 + 40 * 12).view(40, 3, 4).remainder(250).add(1).to(torch.uint8)
    batches = ImageLoader(images, torch.arange(40), 16, mean=0.0, std=1 / 255, shift=2)
    seen = set()
    for x, y in batches:
        for image, number in zip(x[:, 0].round().int(), y.tolist(), strict=True):
            moved = []
            for down in range(-2, 3):
                for right in range(-2, 3):
                    expected = torch.zeros(3, 4, dtype=torch.int)
                    for i in range(3):
                        for j in range(4):
                            if 0 <= i + down < 3 and 0 <= j + right < 4:
                                expected[i + down, j + right] = int(images[number, i, j])
                    moved += [(down, right)] * torch.equal(image, expected)
            assert moved
            seen |= set(moved)
    assert len(seen) > 15


def test_shifts_are_new_in_each_epoch_and_the_same_when_resumed():
    def epoch(number: int, resumed: int = 0) -> list[torch.Tensor]:
        images = torch.arange(12 * 36).remainder(256).view(12, 6, 6).to(torch.uint8)
        batches = ImageLoader(images, None, 4, mean=0.0, std=1.0, shift=1, shuffle=True, seed=5)
        batches.set_epoch(number)
        batches.load_state_dict({"epoch": number, "batch": resumed})
        return list(batches)

    assert all(torch.equal(a, b) for a, b in zip(epoch(1)[2:], epoch(1, 2), strict=True))
    assert not torch.equal(torch.cat(epoch(0)).sort(0)[0], torch.cat(epoch(1)).sort(0)[0])


def test_a_negative_shift_is_refused():
    with pytest.raises(ValueError, match="shift must not be negative, got -1"):
        loader(shift=-1)


def coloured(**options: object) -> ImageLoader:
    pixels = torch.arange(2000 * 2 * 2 * 3).remainder(251).to(torch.uint8).view(2000, 2, 2, 3)
    whole = {"mean": (0.0, 0.0), "std": (1 / 255, 1 / 255), **options}
    return ImageLoader(pixels, torch.arange(2000), 500, **whole)


def test_channels_have_a_mean_and_a_deviation_each():
    loader = coloured(mean=(0.1, 0.2), std=(0.5, 2.0))
    x = next(iter(loader))[0]
    expected = loader.images[:500].double() / 255
    torch.testing.assert_close(x[:, 0].double(), (expected[:, 0] - 0.1) / 0.5)
    torch.testing.assert_close(x[:, 1].double(), (expected[:, 1] - 0.2) / 2)


def test_half_of_the_images_are_mirrored_left_to_right():
    loader, mirrored = coloured(flip=True), 0
    for x, y in loader:
        for image, number in zip(x.round().to(torch.uint8), y, strict=True):
            whole = loader.images[number]
            back = torch.tensor(whole.numpy()[:, :, ::-1].copy())
            assert torch.equal(image, whole) or torch.equal(image, back)
            mirrored += torch.equal(image, back)
    assert abs(mirrored - 1000) < 5 * (2000 / 4) ** 0.5  # five standard errors


def test_all_channels_of_an_image_move_and_turn_together():
    images = torch.arange(1, 13, dtype=torch.uint8).view(1, 1, 3, 4).expand(300, 3, 3, 4)
    loader = ImageLoader(images, None, 300, mean=0.0, std=1 / 255, shift=1, flip=True)
    (x,) = loader
    assert torch.equal(x[:, 0], x[:, 1])
    assert torch.equal(x[:, 0], x[:, 2])
    seen = {tuple(image.flatten().round().int().tolist()) for image in x[:, 0]}
    assert len(seen) == 9 * 2  # all shifts, mirrored or not


def test_flips_leave_the_shifts_as_they_are():
    moved = torch.cat([x for x, _ in coloured(shift=1)])
    turned = torch.cat([x for x, _ in coloured(shift=1, flip=True)])
    same = (moved == turned).flatten(1).all(1)
    back = (moved == turned.flip(3)).flatten(1).all(1)
    assert bool((same | back).all())
    assert not bool(same.all())


def test_flips_are_new_in_each_epoch_and_the_same_when_resumed():
    def epoch(number: int, resumed: int = 0) -> list[torch.Tensor]:
        loader = coloured(flip=True, seed=5)
        loader.set_epoch(number)
        loader.load_state_dict({"epoch": number, "batch": resumed})
        return [x for x, _ in loader]

    assert all(torch.equal(a, b) for a, b in zip(epoch(1)[2:], epoch(1, 2), strict=True))
    assert not torch.equal(torch.cat(epoch(0)), torch.cat(epoch(1)))
