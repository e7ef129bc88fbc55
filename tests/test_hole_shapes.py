"""What is true of every kind of hole in the table, whatever its shape: by draws of each at several sizes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inpaint.config import DataConfig
from inpaint.data import draws
from inpaint.data.batches import BatchLoader
from inpaint.data.decoded import DecodedSplit
from inpaint.holes.kinds import HoleKind
from inpaint.holes.spec import HoleSpec
from inpaint.tables import HOLES, load

SIZES, NUM = (16, 40, 64, 100, 256), 150
SHAPES = [kind for kind in HOLES if kind != "rectangle"]
every_kind = pytest.mark.parametrize("name", HOLES)
every_shape = pytest.mark.parametrize("name", SHAPES)


def uniforms(kind: HoleKind, num: int = NUM, seed: int = 0) -> NDArray[np.float64]:
    """With the least and the largest numbers that there are among them."""
    drawn = np.random.default_rng(seed).random((kind.num_uniforms, num))
    drawn[:, 0], drawn[:, 1] = 0, np.nextafter(1, 0)
    return drawn


def masks_of(kind: HoleKind, spec: HoleSpec, drawn: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    holes, windows = kind.draw(drawn, spec)
    return rasterised(kind, holes, spec.image_size), windows


def rasterised(kind: HoleKind, holes: NDArray[np.float32], size: int) -> NDArray[np.bool_]:
    return kind.rasterise(torch.from_numpy(holes.astype(np.float32)), size)[:, 0].numpy() > 0


def drawn_at_each_size(name: str) -> Iterator[tuple[HoleSpec, NDArray[np.bool_], NDArray[np.int32]]]:
    kind = load(HOLES, name)
    for size in SIZES:
        spec = HoleSpec.scaled(size)
        yield spec, *masks_of(kind, spec, uniforms(kind, seed=size))


@every_kind
def test_no_hole_is_empty_or_the_whole_image(name: str) -> None:
    kind = load(HOLES, name)
    for size, area in product(SIZES, [(0.05, 0.25), (1e-4, 1e-4), (0.9, 0.9)]):
        masks, _ = masks_of(kind, HoleSpec.scaled(size, area=area), uniforms(kind))
        assert masks.any((1, 2)).all() and not masks.all((1, 2)).any(), (size, area)


@every_shape
def test_areas_are_evenly_in_the_range_at_every_size(name: str) -> None:
    kind = load(HOLES, name)
    for spec, masks, _ in drawn_at_each_size(name):
        low, high = spec.area
        areas = masks.mean((1, 2))
        if name == "scratches":
            low, high = 0.4 * low, (low + high) / 2
        # A straight side comes and goes by whole lines of pixels.
        line = 1 / spec.image_size if name in ("boxes", "border") else 1e-3
        assert ((areas >= low - line) & (areas <= high + line)).mean() >= 0.95, spec
        off = areas - (low + uniforms(kind, seed=spec.image_size)[0] * (high - low))
        assert abs(off).max() <= max(2.5 * line, 0.02) and abs(off).mean() <= max(line / 2, 0.005), spec
        assert abs(off.mean()) < 0.002, spec


@every_kind
def test_a_hole_is_of_its_own_numbers_alone(name: str) -> None:
    kind = load(HOLES, name)
    for size in (16, 64):
        spec, drawn = HoleSpec.scaled(size), uniforms(kind)
        holes, windows = kind.draw(drawn, spec)
        masks = rasterised(kind, holes, size)
        for some in (np.arange(7, 8), np.arange(NUM)[::-1], np.arange(3, 40), np.arange(0)):
            its_holes, its_windows = kind.draw(drawn[:, some], spec)
            assert np.array_equal(its_holes, holes[some]) and np.array_equal(its_windows, windows[some])
            assert np.array_equal(rasterised(kind, its_holes, size), masks[some])
    assert len(np.unique(masks.reshape(NUM, -1), axis=0)) > 0.8 * NUM


@every_kind
def test_a_window_holds_as_much_as_one_can(name: str) -> None:
    for spec, masks, windows in drawn_at_each_size(name):
        side = spec.window_px
        assert windows.min() >= 0 and windows.max() <= spec.image_size - side
        total = np.pad(masks.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
        rows = total[:, side:] - total[:, :-side]
        everywhere = rows[:, :, side:] - rows[:, :, :-side]
        share = everywhere[np.arange(NUM), windows[:, 1], windows[:, 0]] / everywhere.max((1, 2))
        # Two thin sides of the border may be taken for equal.
        assert np.percentile(share, 5) > (0.75 if name == "border" else 0.85) and share.mean() > 0.95, spec


@every_shape
def test_a_shape_looks_alike_at_every_size(name: str) -> None:
    """Averaged down from 256 px a mask is that at 64, but for pixels at its outline."""
    kind = load(HOLES, name)
    large, _ = masks_of(kind, HoleSpec.scaled(256), uniforms(kind))
    small, _ = masks_of(kind, HoleSpec.scaled(64), uniforms(kind))
    averaged = large.reshape(NUM, 64, 4, 64, 4).mean((2, 4)) >= 0.5
    assert (averaged != small).mean() < 0.02


@every_shape
def test_training_in_float64_sees_the_same_masks(name: str) -> None:
    spec = HoleSpec.scaled(32)
    pixels = np.zeros((20, 32, 32, 3), np.uint8)
    split = DecodedSplit(pixels, *draws.stored_holes(np.arange(20, dtype=np.uint64), spec), [""] * 20)
    settings = DataConfig(image_size=32, holes="resampled", hole_kinds={name: 1.0, "rectangle": 1.0}, flip=True)
    single, double = (
        BatchLoader(split, settings, 0, 20, dtype=dtype).global_batch(1, 0)[1]
        for dtype in (torch.float32, torch.float64)
    )
    assert double.mask.dtype == torch.float64
    assert torch.equal(single.mask.double(), double.mask) and torch.equal(single.windows, double.windows)


def pieces(mask: NDArray[np.bool_]) -> int:
    return int(cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0]) - 1


def outline(mask: NDArray[np.bool_]) -> float:
    """The length of the outline over that of a circle of the same area."""
    length = sum(np.diff(np.pad(mask, 1), axis=axis).sum() for axis in (0, 1))
    return float(length * np.pi / 4 / np.sqrt(4 * np.pi * mask.sum()))


def test_each_kind_has_its_shape() -> None:
    spec = HoleSpec.scaled(64)
    seen = {name: masks_of(kind := load(HOLES, name), spec, uniforms(kind))[0][2:] for name in HOLES}
    num = {name: np.array([pieces(mask) for mask in masks]) for name, masks in seen.items()}
    roughness = {name: np.mean([outline(mask) for mask in masks]) for name, masks in seen.items()}
    assert (num["rectangle"] == 1).all() and (num["blobs"] <= 2).all() and (num["blobs"] == 1).mean() > 0.9
    assert {*num["strokes"]} >= {1, 2, 3}
    assert roughness["blobs"] < 1.5 < roughness["strokes"] < 2.2 < roughness["scratches"]
    rows = {name: np.array([len(np.unique(mask, axis=0)) for mask in masks]) for name, masks in seen.items()}
    assert (rows["rectangle"] == 2).mean() > 0.9 and (rows["boxes"] <= 11).all() and rows["boxes"].mean() > 4
    assert num["boxes"].max() > 3
    border = seen["border"]
    sides = np.stack([border[:, 0].all(1), border[:, -1].all(1), border[:, :, 0].all(1), border[:, :, -1].all(1)])
    assert {*sides.sum(0)} == {1, 2, 3, 4} and not border[:, 24:40, 24:40].any()
    assert (border.any(2).argmin(1) >= 0).all() and (rows["border"] <= 2).all()
    thickness = [
        2 * cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5).max() for mask in seen["scratches"]
    ]
    assert np.percentile(thickness, 90) < 7 and np.median(thickness) < 5
