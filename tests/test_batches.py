"""The batch: which pictures a step sees, and that masks, crops and mirrors are where the integers say."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inpaint.config import DataConfig
from inpaint.data import draws
from inpaint.data.batches import Batch, Feed, make_batch, plan_epoch
from inpaint.data.pictures import Pictures
from inpaint.holes.spec import HoleSpec
from inpaint.models.discriminators.judgement import crop

SIZE, NUM = 16, 25
SPEC = HoleSpec.scaled(SIZE)


def make_pictures(num: int = NUM) -> Pictures:
    random = np.random.default_rng(0)
    where, windows = draws.stored_holes(random.integers(0, 2**63, num, dtype=np.uint64), SPEC)
    pixels = random.integers(0, 256, (num, SIZE, SIZE, 3), dtype=np.uint8)
    return Pictures(pixels, where, windows, [str(index) for index in range(num)])


PICTURES = make_pictures()


def config(**changes: object) -> DataConfig:
    return DataConfig(image_size=SIZE, **changes)  # type: ignore[arg-type]


def assert_equal(batch: Batch, other: Batch) -> None:
    for name, tensor in vars(batch).items():
        assert torch.equal(tensor, getattr(other, name)), name


# --- from integers to tensors


def coordinates(hole: list[int], window: list[int], real_window: list[int], mirrored: int) -> torch.Tensor:
    return torch.tensor([[*hole, *window, *real_window, mirrored]], dtype=torch.int32)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_mask_is_1_in_the_hole_and_nowhere_else(seed: int) -> None:
    where, windows = draws.resampled_holes(6, SPEC, seed, 1)
    rows = np.concatenate([where, windows, windows, np.zeros((6, 1), np.int32)], axis=1)
    batch = make_batch(torch.from_numpy(PICTURES.pixels[:6]), torch.from_numpy(rows), torch.float64)
    expected = torch.zeros(6, 1, SIZE, SIZE, dtype=torch.float64)
    for picture, (x, y, width, height) in enumerate(where):
        for row in range(y, y + height):
            for column in range(x, x + width):
                expected[picture, 0, row, column] = 1
    assert torch.equal(batch.mask, expected)
    assert torch.equal(batch.masked_image, torch.where(expected > 0, 0, batch.image))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_holds_the_pixels_as_they_are(dtype: torch.dtype) -> None:
    batch = make_batch(torch.from_numpy(PICTURES.pixels[:1]), coordinates([2, 3, 5, 6], [1, 2], [7, 8], 0), dtype)
    assert (batch.image.shape, batch.image.dtype, batch.mask.dtype) == ((1, 3, SIZE, SIZE), dtype, dtype)
    assert batch.image[0, 1, 4, 9] == torch.tensor(PICTURES.pixels[0, 4, 9, 1].item(), dtype=dtype) / 255
    assert (batch.windows.tolist(), batch.real_windows.tolist()) == ([[1, 2]], [[7, 8]])


def test_a_mirrored_picture_is_mirrored_and_its_neighbours_are_not() -> None:
    rows = torch.cat([coordinates([0, 0, 5, 5], [0, 0], [0, 0], mirrored) for mirrored in (0, 1, 0)])
    pixels = torch.from_numpy(PICTURES.pixels[:3])
    image = make_batch(pixels, rows).image
    plain = make_batch(pixels, rows * torch.tensor([1] * 8 + [0])).image
    assert torch.equal(image[[0, 2]], plain[[0, 2]])
    assert torch.equal(image[1], plain[1].flip(-1))


def test_the_crop_by_hand() -> None:
    image = torch.arange(2 * 3 * 5 * 7).view(2, 3, 5, 7)
    windows = torch.tensor([[0, 0], [4, 2]])
    cut = crop(image, windows, 3)
    assert torch.equal(cut[0], image[0, :, 0:3, 0:3])
    assert torch.equal(cut[1], image[1, :, 2:5, 4:7])


def test_the_crop_passes_its_gradient_to_the_place_it_is_from() -> None:
    image = torch.rand(1, 3, 6, 6, requires_grad=True)
    crop(image, torch.tensor([[1, 2]]), 3).sum().backward()
    expected = torch.zeros(1, 3, 6, 6)
    expected[:, :, 2:5, 1:4] = 1
    assert torch.equal(image.grad, expected)  # type: ignore[arg-type]


def test_micro_batches_are_the_batch_cut_in_order() -> None:
    batch = next(Feed(PICTURES, config(), 0, 12).batches(1, 0))
    parts = batch.split(4)
    assert [len(part.image) for part in parts] == [4, 4, 4]
    assert_equal(
        Batch(*(torch.cat(tensors) for tensors in zip(*(vars(p).values() for p in parts), strict=True))), batch
    )


# --- the plan of an epoch


def test_a_mirrored_pictures_hole_is_mirrored_with_it() -> None:
    plan, plain = (plan_epoch(PICTURES, config(flip=flip, local_real="hole"), 0, 1) for flip in (True, False))
    assert 0 < plan.flips.sum() < NUM
    assert not plain.flips.any()
    for index in range(NUM):
        x, y, width, height = plain.holes[index]
        seen = [SIZE - x - width, y, width, height] if plan.flips[index] else [x, y, width, height]
        assert plan.holes[index].tolist() == seen
        x, y = plain.windows[index]
        assert plan.windows[index].tolist() == ([SIZE - x - SPEC.window_px, y] if plan.flips[index] else [x, y])
    assert np.array_equal(plan.real_windows, plan.windows)


def test_stored_holes_stay_and_resampled_ones_change_with_the_epoch() -> None:
    stored = [plan_epoch(PICTURES, config(holes="stored"), 0, epoch) for epoch in (1, 2)]
    for plan in stored:
        assert np.array_equal(plan.holes, PICTURES.holes)
        assert np.array_equal(plan.windows, PICTURES.crops)
    fresh = [plan_epoch(PICTURES, config(holes="resampled"), 0, epoch) for epoch in (1, 2)]
    assert not np.array_equal(fresh[0].holes, fresh[1].holes)
    for epoch, plan in enumerate(fresh, start=1):
        assert np.array_equal(plan.holes, draws.resampled_holes(NUM, SPEC, 0, epoch)[0])
        assert np.array_equal(plan.real_windows, draws.real_windows(NUM, SPEC, 0, epoch))
        assert np.array_equal(plan.order, draws.epoch_order(NUM, 0, epoch))


def test_options_do_not_shift_one_anothers_numbers() -> None:
    plain, other = (
        plan_epoch(PICTURES, config(**changes), 3, 2)  # type: ignore[arg-type]
        for changes in ({}, {"holes": "resampled", "flip": True})
    )
    assert np.array_equal(plain.order, other.order)
    assert np.array_equal(plain.real_windows, other.real_windows)


# --- the feed


def direct(batch_size: int, count: int, seed: int = 0) -> list[Batch]:
    """The first batches of a run, worked out one by one."""
    settings, found, epoch = config(holes="resampled", flip=True), [], 0
    while len(found) < count:
        epoch += 1
        plan = plan_epoch(PICTURES, settings, seed, epoch)
        for start in range(0, NUM - batch_size + 1, batch_size):
            chosen = plan.order[start : start + batch_size]
            rows = [plan.holes, plan.windows, plan.real_windows, plan.flips[:, None]]
            rows = torch.from_numpy(np.concatenate([row[chosen] for row in rows], axis=1).astype(np.int32))
            found.append(make_batch(torch.from_numpy(PICTURES.pixels[chosen]), rows))
    return found[:count]


@pytest.mark.parametrize("batch_size", [1, 4, 12, 25])
def test_the_feed_is_the_order_cut_in_batches_without_the_last_partial_one(batch_size: int) -> None:
    feed = Feed(PICTURES, config(holes="resampled", flip=True), 0, batch_size)
    assert feed.steps_per_epoch == NUM // batch_size
    batches = feed.batches(1, 0)
    for batch, expected in zip(batches, direct(batch_size, 30), strict=False):
        assert_equal(batch, expected)
    batches.close()


@given(st.integers(0, 14), st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_a_resume_from_anywhere_sees_what_would_have_come(done: int, seed: int) -> None:
    """5 batches of 5 an epoch; at an epoch's end the position is all its steps."""
    feed = Feed(PICTURES, config(holes="resampled", flip=True), seed, 5)
    expected = direct(5, 18, seed)[done:]
    places = [(1 + done // 5, done % 5)]
    if done and done % 5 == 0:
        places.append((done // 5, 5))
    for epoch, position in places:
        batches = feed.batches(epoch, position)
        for batch, later in zip(islice(batches, 4), expected, strict=False):
            assert_equal(batch, later)
        batches.close()


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_the_shares_of_the_processes_are_the_global_batch_in_order(world_size: int) -> None:
    whole = direct(12, 5)
    feeds = [
        Feed(PICTURES, config(holes="resampled", flip=True), 0, 12, rank, world_size) for rank in range(world_size)
    ]
    plan = plan_epoch(PICTURES, feeds[0].config, 0, 1)
    indices: NDArray[np.int64] = np.concatenate([feed.indices(plan, p) for p in range(2) for feed in feeds])
    assert indices.tolist() == plan.order[:24].tolist()
    sources = [feed.batches(1, 0) for feed in feeds]
    for expected, *shares in zip(whole, *sources, strict=False):
        joined = (torch.cat(tensors) for tensors in zip(*(vars(share).values() for share in shares), strict=True))
        assert_equal(Batch(*joined), expected)
    for source in sources:
        source.close()


def test_a_split_in_the_devices_memory_gives_the_same_batches() -> None:
    feed = Feed(PICTURES, config(holes="resampled", flip=True, device_cache="on"), 0, 4)
    batches = feed.batches(1, 0)
    for batch, expected in zip(batches, direct(4, 9), strict=False):
        assert_equal(batch, expected)
    batches.close()


def test_a_closed_feed_leaves_no_thread() -> None:
    import threading

    batches = Feed(PICTURES, config(), 0, 4).batches(1, 0)
    next(batches)
    assert any(thread.name.startswith("feed") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("feed") for thread in threading.enumerate())


def test_a_fault_while_gathering_reaches_the_loop() -> None:
    class Torn(np.ndarray):
        def __getitem__(self, key: object) -> object:  # type: ignore[override]
            raise OSError("the cache is gone")

    pictures = Pictures(PICTURES.pixels.view(Torn), PICTURES.holes, PICTURES.crops, PICTURES.sources)
    with pytest.raises(OSError, match="the cache is gone"):
        next(Feed(pictures, config(), 0, 4).batches(1, 0))
