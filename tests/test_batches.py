"""The batch: which images a step sees, and that masks, crops and mirrors are where the integers say."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inpaint.config import DataConfig
from inpaint.data import batches, draws
from inpaint.data.batches import Batch, BatchLoader, draw_rows, make_batch
from inpaint.data.decoded import DecodedSplit
from inpaint.holes.kinds import HoleMixture
from inpaint.holes.rectangle import rasterise
from inpaint.holes.spec import HoleSpec
from inpaint.models.discriminators.judgement import crop
from inpaint.tables import HOLES

SIZE, NUM = 16, 25
SPEC = HoleSpec.scaled(SIZE)
RECTANGLES = HoleMixture({"rectangle": 1.0}, SPEC)


def make_images(num: int = NUM) -> DecodedSplit:
    random = np.random.default_rng(0)
    where, windows = draws.stored_holes(random.integers(0, 2**63, num, dtype=np.uint64), SPEC)
    pixels = random.integers(0, 256, (num, SIZE, SIZE, 3), dtype=np.uint8)
    return DecodedSplit(pixels, where, windows, [str(index) for index in range(num)])


PICTURES = make_images()


def config(**changes: object) -> DataConfig:
    return DataConfig(image_size=SIZE, **changes)  # type: ignore[arg-type]


def made(
    chosen: NDArray[np.int64],
    mask: torch.Tensor | None = None,
    real_windows: torch.Tensor | None = torch.tensor([[7, 8]]),  # noqa: B008
    mirrored: Sequence[bool] | NDArray[np.bool_] | None = None,
    windows: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    num = len(chosen)
    return make_batch(
        torch.from_numpy(PICTURES.pixels[chosen]),
        torch.zeros(num, 1, SIZE, SIZE) if mask is None else mask,
        torch.tensor([[1, 2]] * num) if windows is None else windows,
        real_windows,
        torch.zeros(num, dtype=torch.bool) if mirrored is None else torch.as_tensor(mirrored),
        SPEC.window_px,
        dtype,
    )


def assert_equal(batch: Batch, other: Batch) -> None:
    for name, tensor in vars(batch).items():
        assert torch.equal(tensor, getattr(other, name)), name


# --- from integers to tensors


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_mask_is_1_in_the_hole_and_nowhere_else(seed: int) -> None:
    where = draws.resampled_holes(6, RECTANGLES, seed, 1)[0][:, 1:].astype(int)
    mask = rasterise(torch.from_numpy(where), SIZE)
    batch = made(np.arange(6), mask=mask, dtype=torch.float64)
    expected = torch.zeros(6, 1, SIZE, SIZE, dtype=torch.float64)
    for picture, (x, y, width, height) in enumerate(where):
        for row in range(y, y + height):
            for column in range(x, x + width):
                expected[picture, 0, row, column] = 1
    assert torch.equal(batch.mask, expected)
    assert torch.equal(batch.masked_image, torch.where(expected > 0, 0, batch.image))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_holds_the_pixels_as_they_are(dtype: torch.dtype) -> None:
    batch = made(np.arange(1), dtype=dtype)
    assert (batch.image.shape, batch.image.dtype, batch.mask.dtype) == ((1, 3, SIZE, SIZE), dtype, dtype)
    assert batch.image[0, 1, 4, 9] == torch.tensor(PICTURES.pixels[0, 4, 9, 1].item(), dtype=dtype) / 255
    assert (batch.windows.tolist(), batch.real_windows.tolist()) == ([[1, 2]], [[7, 8]])


def test_a_mirrored_image_is_mirrored_and_its_neighbours_are_not() -> None:
    mask = torch.rand(3, 1, SIZE, SIZE) > 0.5  # of no shape that has coordinates
    plain = made(np.arange(3), mask=mask)
    for real_window, seen in ((torch.tensor([[7, 8]] * 3), [7, 8]), (None, [SIZE - 1 - SPEC.window_px, 2])):
        batch = made(np.arange(3), mask, real_window, mirrored=(False, True, False))
        for name in ("image", "mask"):
            one, other = getattr(batch, name), getattr(plain, name)
            assert torch.equal(one[[0, 2]], other[[0, 2]]) and torch.equal(one[1], other[1].flip(-1))
        assert batch.windows.tolist() == [[1, 2], [SIZE - 1 - SPEC.window_px, 2], [1, 2]]
        assert batch.real_windows[1].tolist() == seen


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
    batch = next(BatchLoader(PICTURES, config(), 0, 12).batches(1, 0))
    parts = batch.split(4)
    assert [len(part.image) for part in parts] == [4, 4, 4]
    assert_equal(
        Batch(*(torch.cat(tensors) for tensors in zip(*(vars(p).values() for p in parts), strict=True))), batch
    )


# --- the plan of an epoch


@pytest.mark.parametrize("holes", ["stored", "resampled"])
def test_a_mirrored_images_hole_is_mirrored_with_it(holes: str) -> None:
    settings_ = [config(flip=flip, holes=holes, local_real="hole") for flip in (True, False)]
    (chosen, seen), (_, plain) = (BatchLoader(PICTURES, each, 0, NUM).global_batch(1, 0) for each in settings_)
    flips = draw_rows(chosen, NUM, settings_[0], 0, 1)[:, 1]
    assert 0 < flips.sum() < NUM
    for index, is_flipped in enumerate(flips):
        mask, (x, y) = plain.mask[index], plain.windows[index].tolist()
        assert torch.equal(seen.mask[index], mask.flip(-1) if is_flipped else mask)
        assert seen.windows[index].tolist() == ([SIZE - x - SPEC.window_px, y] if is_flipped else [x, y])
        assert mask[:, y : y + SPEC.window_px, x : x + SPEC.window_px].sum() == mask.sum() > 0
    assert torch.equal(seen.real_windows, seen.windows)


def test_stored_holes_stay_and_resampled_ones_change_with_the_epoch() -> None:
    for epoch in (1, 2):
        chosen, batch = BatchLoader(PICTURES, config(holes="stored"), 0, NUM).global_batch(epoch, 0)
        assert torch.equal(batch.mask, PICTURES.masks(chosen))
        assert np.array_equal(batch.windows, PICTURES.windows[chosen])
    fresh = [draw_rows(np.arange(NUM), NUM, config(holes="resampled"), 0, epoch) for epoch in (1, 2)]
    assert not np.array_equal(fresh[0][:, 6:], fresh[1][:, 6:])
    for epoch, rows in enumerate(fresh, start=1):
        holes, windows = draws.resampled_holes(NUM, RECTANGLES, 0, epoch)
        assert np.array_equal(rows[:, 6:].copy().view(np.float32), holes)
        assert np.array_equal(rows[:, 4:6], windows)
        assert np.array_equal(rows[:, 2:4], draws.real_windows(NUM, SPEC, 0, epoch))


def test_options_do_not_shift_one_anothers_numbers() -> None:
    plain, other = (
        draw_rows(np.arange(NUM), NUM, config(**changes), 3, 2)  # type: ignore[arg-type]
        for changes in ({}, {"holes": "resampled", "flip": True})
    )
    assert np.array_equal(plain[:, 2:4], other[:, 2:4])


@pytest.mark.parametrize("name", HOLES)
def test_what_is_drawn_for_some_images_is_what_is_drawn_for_all(name: str) -> None:
    """To the last bit, whichever they are and however many: else it would depend on the number of processes."""
    num, settings = 500, config(holes="resampled", hole_kinds={name: 1.0}, flip=True)
    everything = draw_rows(np.arange(num), num, settings, 3, 2)
    order = np.random.default_rng(0).permutation(num)
    for chosen in (order[:1], order[1:4], order[4:41], order[41:]):
        assert np.array_equal(draw_rows(chosen, num, settings, 3, 2), everything[chosen])


def test_numbers_at_places_are_those_of_numpys_own_generator() -> None:
    for stream, epoch, num in (("holes", 1, 1003), ("flips", 7, 5)):
        expected = draws.make_rng(2**40 + 3, stream, epoch).random(num)
        places = np.random.default_rng(0).permutation(num)
        assert np.array_equal(draws.uniforms_at(places, 2**40 + 3, stream, epoch), expected[places])
    far = 2**35 + 3  # beyond what 32 bits hold
    numbers = draws.make_rng(1, "holes", 1)
    numbers.bit_generator.advance(far // 4)
    assert np.array_equal(draws.uniforms_at(far + np.arange(5), 1, "holes", 1), numbers.random(8)[3:])


@pytest.mark.parametrize("world_size", [1, 4])
def test_a_process_draws_for_its_own_images_and_not_far_ahead(world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holes of millions of images, drawn for an epoch in every process, would keep the first step for minutes."""
    monkeypatch.setattr(batches, "DRAWN_AT_ONCE", 8)
    num, drawn = 4000, []
    draw = batches.draw_rows
    monkeypatch.setattr(batches, "draw_rows", lambda chosen, *rest: drawn.extend(chosen) or draw(chosen, *rest))
    feed = BatchLoader(make_images(num), config(holes="resampled"), 0, 8, world_size - 1, world_size)
    steps = feed.batches(1, 0)
    for _ in range(20):
        next(steps)
    steps.close()
    # 20 steps, the block that is ahead, and the first one of the next epoch.
    assert len(drawn) <= 20 * feed.share + 2 * 8
    own = draws.epoch_order(num, 0, 1)[: 20 * 8].reshape(20, world_size, -1)[:, -1]
    assert set(own.flatten().tolist()) <= set(drawn)


# --- the feed


def direct(batch_size: int, count: int, seed: int = 0) -> list[Batch]:
    """The first batches of a run, worked out one by one."""
    found, epoch = [], 0
    while len(found) < count:
        epoch += 1
        order = draws.epoch_order(NUM, seed, epoch)
        holes, windows_of = draws.resampled_holes(NUM, RECTANGLES, seed, epoch)
        real_of, flips = draws.real_windows(NUM, SPEC, seed, epoch), draws.flips(NUM, seed, epoch)
        for start in range(0, NUM - batch_size + 1, batch_size):
            chosen = order[start : start + batch_size]
            mask = rasterise(torch.from_numpy(holes[chosen, 1:]), SIZE)
            windows, real_windows = (torch.from_numpy(each[chosen]) for each in (windows_of, real_of))
            found.append(made(chosen, mask, real_windows, flips[chosen], windows))
    return found[:count]


@pytest.mark.parametrize("batch_size", [1, 4, 12, 25])
def test_the_feed_is_the_order_cut_in_batches_without_the_last_partial_one(batch_size: int) -> None:
    feed = BatchLoader(PICTURES, config(holes="resampled", flip=True), 0, batch_size)
    assert feed.steps_per_epoch == NUM // batch_size
    batches = feed.batches(1, 0)
    for batch, expected in zip(batches, direct(batch_size, 30), strict=False):
        assert_equal(batch, expected)
    batches.close()


@given(st.integers(0, 14), st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_a_resume_from_anywhere_sees_what_would_have_come(done: int, seed: int) -> None:
    """5 batches of 5 an epoch; at an epoch's end the position is all its steps."""
    feed = BatchLoader(PICTURES, config(holes="resampled", flip=True), seed, 5)
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
        BatchLoader(PICTURES, config(holes="resampled", flip=True), 0, 12, rank, world_size)
        for rank in range(world_size)
    ]
    sources = [feed.batches(1, 0) for feed in feeds]
    for expected, *shares in zip(whole, *sources, strict=False):
        joined = (torch.cat(tensors) for tensors in zip(*(vars(share).values() for share in shares), strict=True))
        assert_equal(Batch(*joined), expected)
    for source in sources:
        source.close()


def test_a_split_in_the_devices_memory_gives_the_same_batches() -> None:
    feed = BatchLoader(PICTURES, config(holes="resampled", flip=True, device_cache="on"), 0, 4)
    batches = feed.batches(1, 0)
    for batch, expected in zip(batches, direct(4, 9), strict=False):
        assert_equal(batch, expected)
    batches.close()


def test_a_closed_feed_leaves_no_thread() -> None:
    import threading

    batches = BatchLoader(PICTURES, config(), 0, 4).batches(1, 0)
    next(batches)
    assert any(thread.name.startswith("loader") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("loader") for thread in threading.enumerate())


def test_a_fault_while_gathering_reaches_the_loop() -> None:
    class Torn(np.ndarray):
        def __getitem__(self, key: object) -> object:  # type: ignore[override]
            raise OSError("the cache is gone")

    images = DecodedSplit(PICTURES.pixels.view(Torn), PICTURES.holes, PICTURES.windows, PICTURES.sources)
    with pytest.raises(OSError, match="the cache is gone"):
        next(BatchLoader(images, config(), 0, 4).batches(1, 0))
