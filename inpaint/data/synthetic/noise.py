"""Owns hashed randomness for images (uniform numbers and lattice noise, by an image's key) and their arithmetic.

Integer hashes and the operations that IEEE 754 rounds exactly, so a number does not depend on batch or machine. The
batch is the last axis: images share the points at which noise is read, and every gather then copies whole rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Keys = NDArray[np.uint64]

F = np.float32

LATTICE = 32  # noise repeats after this many cells
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Taps:
    """Where points fall in a lattice: the flat indices of their four corners, and the weights between them."""

    corners: NDArray[np.intp]  # [4, points]
    across: Array  # [points, 1]
    along: Array  # [points, 1]


def image_keys(seed: int, indices: NDArray[np.integer]) -> Keys:
    """64 bits for each image: [N]."""
    start = mix64(np.array([seed % 2**64], np.uint64) + GOLDEN)
    return mix64(start + (np.asarray(indices).astype(np.uint64) + np.uint64(1)) * GOLDEN)


def mix64(value: Keys) -> Keys:
    """64 well-mixed bits for each: splitmix64 (Steele, Lea, Flood 2014, "Fast splittable generators")."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def uniform(keys: Keys, stream: int, num: int) -> Array:
    """`num` numbers in [0, 1) for each image: [num, N]. Another stream shares no number (`num` up to 65,536)."""
    counters = np.arange(stream << 16, (stream << 16) + num, dtype=np.uint32)[:, None] * np.uint32(0x9E3779B9)
    bits = counters ^ keys.astype(np.uint32)
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x85EBCA6B) + (keys >> np.uint64(32)).astype(np.uint32)
    bits = (bits ^ (bits >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    bits ^= bits >> np.uint32(16)
    return (bits >> np.uint32(8)).astype(F) * F(2.0**-24)


def taps(u: NDArray[np.float64], v: NDArray[np.float64]) -> Taps:
    """The taps of points at (u, v), in lattice cells; flattened."""
    u, v = u.ravel(), v.ravel()
    column, row = np.floor(u), np.floor(v)
    fu, fv = u - column, v - row
    i, j = column.astype(np.intp), row.astype(np.intp)
    near, far = j % LATTICE * LATTICE, (j + 1) % LATTICE * LATTICE
    left, right = i % LATTICE, (i + 1) % LATTICE
    corners = np.stack([near + left, near + right, far + left, far + right])
    weights = ((f * f * (3 - 2 * f))[:, None].astype(F) for f in (fu, fv))
    return Taps(corners, *weights)


def noise(keys: Keys, stream: int, at: Taps, width: int) -> Array:
    """Value noise in [-1, 1): [points / width, width, N]."""
    table = uniform(keys, stream, LATTICE * LATTICE) * F(2) - F(1)
    near, right, far, corner = (table.take(index, axis=0) for index in at.corners)
    right -= near
    right *= at.across
    near += right
    corner -= far
    corner *= at.across
    far += corner
    far -= near
    far *= at.along
    near += far
    return near.reshape(-1, width, len(keys))


def fractal(keys: Keys, stream: int, octaves: tuple[Taps, ...], size: int, falloff: float) -> Array:
    total = noise(keys, stream, octaves[0], size)
    for number, at in enumerate(octaves[1:], 1):
        total += noise(keys, stream + number, at, size) * F(falloff**number)
    return total


def smooth(low: Array | np.float32 | float, high: Array | np.float32 | float, value: Array) -> Array:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - np.asarray(low, F)) * (F(1) / (np.asarray(high, F) - np.asarray(low, F))), F(0), F(1))
    return t * t * (F(3) - F(2) * t)


def wave(phase: Array) -> Array:
    """A sine of period 1 drawn with parabolas, in [-1, 1]."""
    half = F(2) * (phase - np.floor(phase)) - F(1)
    return F(4) * half * (np.abs(half) - F(1))


def mix(colour: Array, other: Array, amount: Array | np.float32) -> Array:
    mixed = (other - colour) * amount
    mixed += colour
    return mixed


def rgb(*colour: float) -> Array:
    return np.array(colour, F)[:, None]
