"""Where holes are: inside their window inside the image, and a function of (seed, epoch, image) alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inpaint.data import draws
from inpaint.holes.kinds import HoleMixture
from inpaint.holes.rectangle import scale_holes
from inpaint.holes.spec import HoleSpec
from inpaint.sources.keys import SPLITS, key_hash, split_of

PAPER = HoleSpec.scaled(64)
KEYS = np.array([key_hash(f"lake/{number}.jpg") for number in range(20_000)], dtype=np.uint64)


@st.composite
def specs(draw: st.DrawFn) -> HoleSpec:
    image = draw(st.integers(1, 300))
    window = draw(st.integers(1, image))
    largest = draw(st.integers(1, window))
    return HoleSpec(image, draw(st.integers(1, largest)), largest, window)


def assert_nested(hole: NDArray[np.int32], window: NDArray[np.int32], spec: HoleSpec) -> None:
    """Each hole lies in its window, each window in the image."""
    assert (window >= 0).all()
    assert (window + spec.window_px <= spec.image_size).all()
    assert (hole[:, :2] >= window).all()
    assert (hole[:, :2] + hole[:, 2:] <= window + spec.window_px).all()
    assert (hole[:, 2:] >= 1).all()


def resampled(num: int, spec: HoleSpec, seed: int = 0, epoch: int = 1) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Rectangles and windows of an epoch."""
    holes, windows = draws.resampled_holes(num, HoleMixture({"rectangle": 1.0}, spec), seed, epoch)
    assert not holes[:, 0].any()
    return holes[:, 1:].astype(np.int32), windows


def both(spec: HoleSpec, seed: int = 0) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    return [resampled(2_000, spec, seed), draws.stored_holes(KEYS[:2_000], spec)]


# --- geometry


@given(specs(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_every_hole_is_in_its_window_in_the_image(spec: HoleSpec, seed: int) -> None:
    assert spec.faults() == []
    for hole, window in both(spec, seed):
        assert_nested(hole, window, spec)
        assert (hole[:, 2:] >= spec.min_px).all()
        assert (hole[:, 2:] <= spec.max_px).all()
    window = draws.real_windows(2_000, spec, seed, 1)
    assert (window >= 0).all()
    assert (window + spec.window_px <= spec.image_size).all()


@pytest.mark.parametrize("which", [0, 1])
def test_every_size_and_place_is_reached_and_sizes_are_even(which: int) -> None:
    """The paper's: sides 20 to 25, both ends included, anywhere in 64 x 64."""
    hole, window = [resampled(20_000, PAPER), draws.stored_holes(KEYS, PAPER)][which]
    for side in (hole[:, 2], hole[:, 3]):
        values, counts = np.unique(side, return_counts=True)
        assert values.tolist() == [20, 21, 22, 23, 24, 25]
        assert (abs(counts / len(side) - 1 / 6) < 0.02).all()
    assert abs(np.corrcoef(hole[:, 2], hole[:, 3])[0, 1]) < 0.03
    for axis in (0, 1):
        assert hole[:, axis].min() == 0
        assert (hole[:, axis] + hole[:, 2 + axis]).max() == 64
        assert (window[:, axis].min(), window[:, axis].max()) == (0, 64 - 28)
        slack = hole[:, axis] - window[:, axis]
        assert (slack.min(), slack.max()) == (0, 8)


def test_real_windows_reach_everywhere() -> None:
    window = draws.real_windows(20_000, PAPER, 0, 1)
    assert [np.unique(axis).tolist() for axis in window.T] == [list(range(37))] * 2


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (HoleSpec(64, 0, 25, 28), "at least 1"),
        (HoleSpec(64, 26, 25, 28), "larger than the largest"),
        (HoleSpec(64, 20, 29, 28), "larger than its local window"),
        (HoleSpec(64, 20, 25, 65), "larger than the image"),
        (HoleSpec(64, 20, 25, 28, (0, 0.25)), "the area of holes is [0, 0.25]; it must be 0 < smallest"),
        (HoleSpec(64, 20, 25, 28, (0.3, 0.25)), "[0.3, 0.25]; it must be 0 < smallest <= largest"),
        (HoleSpec(64, 20, 25, 28, (0.3, 0.91)), "largest <= 0.9"),
    ],
)
def test_faults_of_a_geometry(spec: HoleSpec, words: str) -> None:
    (fault,) = spec.faults()
    assert words in fault


@pytest.mark.parametrize(
    ("size", "scaled"), [(64, (20, 25, 28)), (128, (40, 50, 56)), (32, (10, 12, 14)), (16, (5, 6, 7))]
)
def test_sizes_scale_with_the_image(size: int, scaled: tuple[int, int, int]) -> None:
    assert HoleSpec.scaled(size) == HoleSpec(size, *scaled)
    assert HoleSpec.scaled(size).faults() == []
    assert HoleSpec.scaled(size, min_px=3, window_px=16) == HoleSpec(size, 3, scaled[1], 16)


# --- of (seed, epoch, image) alone


@given(st.integers(0, 2**32 - 1), st.integers(1, 1000))
@settings(max_examples=25, deadline=None)
def test_every_stream_depends_on_seed_and_epoch_and_on_nothing_else(seed: int, epoch: int) -> None:
    def drawn(seed: int, epoch: int) -> list[bytes]:
        arrays = [
            draws.epoch_order(200, seed, epoch),
            *resampled(200, PAPER, seed, epoch),
            draws.real_windows(200, PAPER, seed, epoch),
            draws.flips(200, seed, epoch),
        ]
        return [array.tobytes() for array in arrays]

    first = drawn(seed, epoch)
    np.random.seed(epoch)
    assert drawn(seed, epoch) == first
    for other in (drawn(seed + 1, epoch), drawn(seed, epoch + 1), drawn(epoch, seed) if seed != epoch else []):
        assert not set(first) & set(other)


def test_streams_are_independent() -> None:
    numbers = {stream: draws.make_rng(7, stream, 3).random(4).tobytes() for stream in draws.STREAMS}
    assert len(set(numbers.values())) == len(draws.STREAMS)


def test_a_stored_hole_belongs_to_its_key() -> None:
    """Whatever other images there are, and in whatever order."""
    hole, window = draws.stored_holes(KEYS[:100], PAPER)
    chosen = np.random.default_rng(0).permutation(100)[:40]
    some_hole, some_window = draws.stored_holes(KEYS[chosen], PAPER)
    assert np.array_equal(some_hole, hole[chosen])
    assert np.array_equal(some_window, window[chosen])
    assert len(np.unique(np.concatenate([hole, window], axis=1), axis=0)) > 95


def test_an_order_is_a_permutation() -> None:
    assert sorted(draws.epoch_order(1000, 0, 5).tolist()) == list(range(1000))


def test_half_are_mirrored() -> None:
    assert 0.48 < draws.flips(20_000, 0, 1).mean() < 0.52


def test_the_numbers_never_change() -> None:
    """One value a stream: runs and datasets of the past depend on them."""
    assert draws.epoch_order(10, 0, 1).tolist() == [6, 8, 0, 7, 3, 1, 2, 5, 4, 9]
    hole, window = resampled(2, PAPER)
    assert (hole.tolist(), window.tolist()) == ([[17, 34, 25, 21], [34, 33, 20, 24]], [[15, 34], [26, 31]])
    hole, window = draws.stored_holes(KEYS[:2], PAPER)
    assert (hole.tolist(), window.tolist()) == ([[1, 38, 20, 24], [30, 30, 23, 24]], [[1, 35], [29, 28]])
    assert draws.real_windows(2, PAPER, 0, 1).tolist() == [[5, 29], [10, 36]]
    assert draws.flips(12, 0, 1).astype(int).tolist() == [0, 1, 1, 0, 1, 0, 1, 0, 0, 0, 0, 1]
    assert key_hash("lake/0.jpg") == 8953107015091064821
    assert key_hash("höhle/\udcff.jpg") == 4518160500077538532


# --- splits


def test_85_10_5() -> None:
    splits = [split_of(int(key)) for key in KEYS]
    assert [round(splits.count(name) / len(splits), 2) for name in SPLITS] == [0.85, 0.10, 0.05]


def test_the_borders_between_the_splits() -> None:
    assert [split_of(position) for position in (0, 8_499, 8_500, 9_499, 9_500, 9_999, 10_000)] == [
        "train", "train", "validation", "validation", "test", "test", "train",
    ]  # fmt: skip


# --- coordinates at another size


@given(specs(), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_scaling_up_and_back_is_exact(spec: HoleSpec, factor: int) -> None:
    large = HoleSpec(spec.image_size * factor, spec.min_px * factor, spec.max_px * factor, spec.window_px * factor)
    hole, window = resampled(200, spec)
    up = scale_holes(hole, window, spec.image_size, large)
    assert np.array_equal(up[0], hole * factor)
    assert np.array_equal(up[1], window * factor)
    back = scale_holes(*up, large.image_size, spec)
    assert np.array_equal(back[0], hole)
    assert np.array_equal(back[1], window)


@given(specs(), specs())
@settings(max_examples=60, deadline=None)
def test_scaled_coordinates_are_nested_whatever_the_sizes(spec: HoleSpec, other: HoleSpec) -> None:
    scaled = scale_holes(*resampled(200, spec), spec.image_size, other)
    assert_nested(*scaled, other)


def test_each_image_is_scaled_from_its_own_side() -> None:
    hole, window = np.array([[8, 4, 20, 24]] * 2, dtype=np.int32), np.array([[4, 2]] * 2, dtype=np.int32)
    scaled, windows = scale_holes(hole, window, np.array([64, 128], dtype=np.int32), PAPER)
    assert scaled.tolist() == [[8, 4, 20, 24], [4, 2, 10, 12]]
    assert windows.tolist() == [[4, 2], [2, 1]]
