"""Owns what all images of one size share: where the slices of ground stand, and where points read their noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from inpaint.data.synthetic.noise import Array, F, Taps, taps

ROTATIONS = ((0.8, 0.6), (0.96, -0.28), (0.6, 0.8), (0.28, -0.96), (0.936, 0.352))  # of the octaves: c^2 + s^2 = 1
NEAR, FAR = 0.6, 45.0
NUM_TREE_ROWS = 16


@dataclass(frozen=True)
class Octave:
    wavelength: float
    num_slices: int  # the nearest slices, in which this wavelength is wider than two pixels
    taps: Taps
    weight: Array  # [num_slices, 1, 1]: fades out towards two pixels
    crags: Array  # the same for peaks, weaker where slices are too far apart to follow them
    texture: Array  # the same for patterns some pixels wide
    patches: Array  # the same for patterns a third of the image wide


@dataclass(frozen=True)
class Camera:
    size: int
    z: Array  # [slices, 1, 1], near to far
    x: Array  # [slices, columns, 1]
    tree_rows: NDArray[np.intp]  # the slices on which trees stand, at the same z whatever the size
    octaves: tuple[Octave, ...]
    clouds: tuple[Taps, ...]
    cirrus: tuple[Taps, ...]
    ripples: tuple[Taps, ...]


def _ramp(low: float, high: float, value: NDArray[np.float64]) -> NDArray[np.float64]:
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _distances(num: int, near: float, far: float) -> NDArray[np.float64]:
    """z of `num` slices, denser near the camera, where a slice is rows high."""
    root = np.linspace(np.sqrt(np.sqrt(1 / near)), np.sqrt(np.sqrt(1 / far)), num)
    return 1 / (root * root * root * root)


@lru_cache(maxsize=2)
def camera_of(size: int) -> Camera:
    trees = _distances(NUM_TREE_ROWS, 1.2, 14.0)
    z = np.concatenate(
        [_distances(min(size, 256) * 5 // 8 + 28, NEAR, FAR), trees, trees * 0.998]
    )  # crown, and its lower half
    order = np.argsort(z, kind="stable")
    z = z[order]
    columns = (np.arange(size) + 0.5) / size - 0.5
    x = z[:, None] * columns
    octaves = []
    for number in range(30):
        wavelength = 16.0 / 2**number
        if wavelength * size < 2.5 * NEAR:
            break
        pixels, at_64 = wavelength * size / z, wavelength * 64 / z
        near = slice(int(np.searchsorted(z, wavelength * size / 2)))
        cosine, sine = ROTATIONS[number % len(ROTATIONS)]
        u = (x[near] * cosine - z[near, None] * sine) / wavelength + 0.37 * number
        v = (x[near] * sine + z[near, None] * cosine) / wavelength + 0.71 * number
        visible = _ramp(2, 4, pixels)
        texture = visible * (1 - _ramp(8, 20, at_64)) * np.minimum(1, at_64 / 4)
        patches = _ramp(12, 24, at_64) * (1 - _ramp(48, 96, at_64))
        crags = visible * (0.35 + 0.65 * _ramp(2, 16, wavelength / z * 64))
        weights = (weight[near, None, None].astype(F) for weight in (visible, crags, texture, patches))
        octaves.append(Octave(wavelength, near.stop, taps(u, v), *weights))

    rows = (np.arange(size)[:, None] + 0.5) / size
    num_fine = max(0, size.bit_length() - 7)
    depth = 1 / (0.14 + np.maximum(0.8 - rows, 0))
    clouds, cirrus, ripples = [], [], []
    for number in range(5 + num_fine):
        cosine, sine = ROTATIONS[number % len(ROTATIONS)]
        across, along = columns * depth * 1.1 * 2**number, np.broadcast_to(depth * 1.76 * 2**number, (size, size))
        clouds.append(taps(across * cosine - along * sine, across * sine + along * cosine))
    for number in range(3 + num_fine):
        across, along = columns * depth * 2**number, np.broadcast_to(depth * 2**number, (size, size))
        cirrus.append(taps(across + along * 0.9, along * 4.6))
    depth = 1 / (0.08 + np.maximum(rows - 0.4, 0))
    for number in range(2 + num_fine):
        across, along = columns * depth * 2**number, np.broadcast_to(depth * 2**number, (size, size))
        ripples.append(taps(across * 3.0 + along * 0.4, along * 7.0 + across * 0.2))
    return Camera(
        size, z[:, None, None].astype(F), x[:, :, None].astype(F), np.flatnonzero(order >= len(z) - 2 * NUM_TREE_ROWS),
        tuple(octaves), tuple(clouds), tuple(cirrus), tuple(ripples),
    )  # fmt: skip
