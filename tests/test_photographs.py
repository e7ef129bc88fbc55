"""Photographs larger than the training images: which parts of them a generator is shown, and what is filled of them."""

from __future__ import annotations

from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from painting import FILL, Paint, noise

from inpaint import Generator, InpaintError, InpaintingPipeline
from inpaint.errors import UsageError
from inpaint.images.given import ImageLike, read_image
from inpaint.models.generator import GeneratorConfig
from inpaint.photographs.how import Strategy
from inpaint.photographs.windows import Window, plan

SIZE = 64


def holes(height: int, width: int, kind: str, seed: int) -> NDArray[np.bool_]:
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    if kind.startswith("a"):  # all, all but a corner, a row
        mask[: 1 if kind == "a row" else height] = 1
        mask[-1, -1] &= kind != "all but a corner"
        return mask > 0
    if kind == "specks":
        return random.random((height, width)) < 10 ** random.uniform(-4, -0.5)
    for _ in range(random.integers(1, 5)):
        ends = [(int(random.integers(-9, width + 9)), int(random.integers(-9, height + 9))) for _ in range(2)]
        if kind == "scratches":
            cv2.line(mask, *ends, 1, int(random.integers(1, 9)))
        else:
            axes = tuple(int(random.integers(0, max(2, side // 2))) for side in (width, height))
            cv2.ellipse(mask, ends[0], axes, float(random.integers(180)), 0, 360, 1, -1)
    return mask > 0


def picture(mode: str, height: int, width: int, seed: int) -> ImageLike:
    if mode == "16-bit colour":
        return np.random.default_rng(seed).integers(0, 2**16, (height, width, 3), dtype=np.uint16)
    kind = mode if mode in ("L", "LA", "RGB", "RGBA", "I;16") else "RGB"
    image = noise(kind, width, height, seed)
    return image if kind == mode else image.convert(mode)


HOLES = {
    "height": st.integers(1, 400),
    "width": st.integers(1, 400),
    "kind": st.sampled_from(["specks", "scratches", "blobs"]),
    "seed": st.integers(0, 1000),
}


def painter(size: int | None = SIZE) -> tuple[InpaintingPipeline, Paint]:
    """A pipeline that knows a training size and paints all in one colour."""
    generator = Generator(GeneratorConfig(width=2, image_size=size))
    generator.layers = paint = Paint()
    return InpaintingPipeline(generator, "cpu"), paint


def passes(hole: NDArray[np.bool_]) -> list[Window]:
    return [window for windows in plan(hole, SIZE) for window in windows]


def square(side: int, shape: tuple[int, int] = (900, 1200), at: tuple[int, int] = (300, 400)) -> NDArray[np.bool_]:
    hole = np.zeros(shape, np.bool_)
    hole[at[0] : at[0] + side, at[1] : at[1] + side] = True
    return hole


# --- where the windows are


@given(**HOLES, size=st.sampled_from([1, 4, 32, 64]))
@settings(max_examples=60, deadline=None)
def test_every_pixel_of_any_hole_is_filled_in_one_window(
    height: int, width: int, kind: str, seed: int, size: int
) -> None:
    hole = holes(height, width, kind, seed)
    unknown = hole.copy()
    for windows in plan(hole, size):
        times = np.zeros(hole.shape, int)
        for window in windows:
            assert (window.height, window.width) == tuple(min(size * window.factor, side) for side in hole.shape)
            assert 0 <= window.top <= height - window.height and 0 <= window.left <= width - window.width
            times[window.place] += window.targets(unknown[window.place])
        assert times.max() == 1
        unknown &= times == 0
    assert not unknown.any()


@pytest.mark.parametrize("side", [1, 20, 32, 33, 60, 100, 257, 500])
def test_a_hole_is_seen_at_a_size_that_the_generator_knows(side: int) -> None:
    (window,) = passes(square(side))
    assert side / window.factor <= SIZE / 2 and (window.factor == 1 or 2 * side / window.factor > SIZE / 2)
    assert window.width == min(SIZE * window.factor, 1200)
    middle = (window.left + window.width / 2, window.top + window.height / 2)
    if window.height < 900:
        assert np.abs(np.array(middle) - (400 + side / 2, 300 + side / 2)).max() <= window.factor


def test_a_window_is_moved_into_the_photograph() -> None:
    (window,) = passes(square(30, at=(0, 1170)))
    assert (window.top, window.left, window.height, window.width) == (0, 1200 - SIZE, SIZE, SIZE)


def test_a_thousand_specks_close_together_are_a_few_windows_and_a_hole_far_away_one_more() -> None:
    hole = square(200, at=(650, 900))
    hole[::10, :400:10] = True  # 3,600 of them
    windows = passes(hole)
    assert len(windows) <= 1 + (900 / (SIZE / 2) + 1) * (400 / (SIZE / 2) + 1)
    assert [window.factor for window in windows] == [1] * (len(windows) - 1) + [8]


def test_holes_with_little_between_them_are_filled_together() -> None:
    two = square(40) | square(40, at=(300, 450))
    (window,) = passes(two)
    assert window.factor == 4 and window.targets(two[window.place]).sum() == two.sum()
    assert [window.factor for window in passes(square(40) | square(40, at=(300, 700)))] == [2, 2]


def test_a_scratch_across_the_photograph_is_filled_at_the_scale_of_its_width() -> None:
    hole = np.zeros((900, 1200), np.bool_)
    hole[450:458] = True
    windows = passes(hole)
    assert {window.factor for window in windows} == {2} and 1200 / 64 <= len(windows) < 25
    for part in plan(hole, SIZE):
        for window in part:
            middles = [2 * other.cell_left + other.cells.shape[1] for other in part if other is not window]
            assert not [at for at in middles if window.left <= at < window.left + 128], "pieces of another pass"


# --- what the generator is shown


def test_the_generator_sees_the_means_of_known_pixels_and_cells_that_are_wholly_known() -> None:
    pipe, paint = painter()
    image, hole = np.asarray(noise("RGB", 300, 200)), np.zeros((200, 300), np.bool_)
    hole[81:120, 121:163] = True  # neither edge at the edge of a cell
    pipe(image, hole)
    ((masked_image, mask),) = paint.seen
    (window,) = passes(hole)
    assert window.factor == 2 and masked_image.shape == (1, 3, 64, 64)
    cells = hole[window.place].reshape(64, 2, 64, 2)
    assert np.array_equal(mask[0, 0].numpy(), cells.any((1, 3)))
    means = image[window.place].reshape(64, 2, 64, 2, 3).mean((1, 3)) / 255 * ~cells.any((1, 3))[..., None]
    assert np.allclose(masked_image[0].permute(1, 2, 0).numpy(), means, atol=1e-6)


def test_a_later_piece_of_a_scratch_sees_what_was_filled_before() -> None:
    pipe, paint = painter()
    image, hole = np.zeros((64, 200, 3), np.uint8), np.zeros((64, 200), np.bool_)
    hole[30:34] = True
    pipe(image, hole)
    first, last = paint.seen[0], paint.seen[-1]
    assert first[1][0, 0, 31].all(), "at first the whole row is unknown"
    assert last[0][0, 0, 30:34].max() > 0.9 and not last[1][0, 0, 31].all()


def test_only_what_is_larger_than_the_training_images_is_filled_in_crops() -> None:
    for size, shown in ((64, (64, 64)), (66, (64, 64))):
        pipe, paint = painter()
        hole = square(10, (size, size), (5, 5))
        pipe(noise("RGB", size, size), hole)
        assert [tuple(image.shape[2:]) for image, _ in paint.seen] == [shown]
    for strategy, shown in (("whole", (68, 68)), ("crop", (64, 64))):
        pipe, paint = painter()
        pipe(noise("RGB", 66, 66), square(10, (66, 66), (5, 5)), strategy=strategy)  # type: ignore[call-overload]
        assert [tuple(image.shape[2:]) for image, _ in paint.seen] == [shown]


def test_a_generator_that_does_not_say_its_size_fills_whole_images() -> None:
    pipe, paint = painter(None)
    hole = square(10, (100, 100), (5, 5))
    pipe(noise("RGB", 100, 100), hole)
    assert paint.seen[0][0].shape[2:] == (100, 100)
    with pytest.raises(InpaintError, match="does not say how large its training images were"):
        pipe(noise("RGB", 100, 100), hole, strategy="crop")
    with pytest.raises(UsageError, match="strategy is 'crops'; use auto, crop or whole"):
        pipe(noise("RGB", 100, 100), hole, strategy="crops")  # type: ignore[call-overload]


# --- what becomes of the photograph


SIDES = st.one_of(
    st.tuples(st.integers(1, 250), st.integers(1, 250)),
    st.tuples(st.integers(1, 5000), st.integers(1, 12)),
    st.tuples(st.integers(1, 12), st.integers(1, 5000)),
)


@given(
    sides=SIDES,
    kind=st.sampled_from(["specks", "scratches", "blobs", "all", "all but a corner", "a row"]),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "16-bit colour"]),
    strategy=st.sampled_from(get_args(Strategy)),
    size=st.sampled_from([16, 64]),
    seed=st.integers(0, 1000),
    detail=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_no_known_pixel_changes_and_the_same_call_gives_the_same_bytes(
    sides: tuple[int, int], kind: str, mode: str, strategy: Strategy, size: int, seed: int, detail: bool
) -> None:
    torch.manual_seed(seed)
    pipe = InpaintingPipeline(Generator(GeneratorConfig(width=2, bottleneck=1, image_size=size)), "cpu")
    image, hole = picture(mode, *sides, seed), holes(*sides, kind, seed)
    given = read_image(image)[0]
    filled, again = (pipe.fill(image, hole, strategy=strategy, detail=detail).pixels for _ in range(2))
    assert (filled.shape, filled.dtype) == (given.shape, given.dtype)
    assert np.array_equal(filled[~hole], given[~hole])
    assert np.array_equal(filled, again)


def test_a_fill_lies_where_its_window_was() -> None:
    pipe, _ = painter()
    image, hole = np.zeros((900, 1200, 3), np.uint8), square(100) | square(21, at=(0, 0)) | square(9, at=(891, 1191))
    image[450, 10, 2] = 1  # else the fill would be grey
    filled = np.asarray(pipe(image, hole, detail=False))
    for inner in (square(60, at=(320, 420)), square(15, at=(0, 0)), square(3, at=(897, 1197))):
        assert (filled[inner] == FILL).all()


def test_a_list_of_photographs_of_every_size_comes_back_in_order() -> None:
    pipe, _ = painter()
    images = [noise("RGB", side, side, side) for side in (100, 30, 300, 64)]
    masks = [square(9, (side, side), (8, 8)) for side in (100, 30, 300, 64)]
    filled = pipe(images, masks)
    for image, mask, result in zip(images, masks, filled, strict=True):
        assert np.array_equal(np.asarray(result), np.asarray(pipe(image, mask)))
