"""Owns every random choice about the data, as a function of (seed, epoch, image) alone.

Nothing here depends on the process, the worker or the batch, so any number of processes sees the same images with the
same holes, and the position in the data is one integer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inpaint.data.synthetic.noise import GOLDEN, mix64
from inpaint.holes import rectangle
from inpaint.holes.kinds import HoleMixture
from inpaint.holes.spec import HoleSpec

# One random stream for each thing drawn: adding a stream never shifts the numbers of another.
STREAMS = {"order": 0, "holes": 1, "real_windows": 2, "flips": 3, "stored": 4, "window": 5, "hole_kinds": 6}


def make_rng(seed: int, stream: str, epoch: int = 0) -> np.random.Generator:
    """The counter-based random generator of one stream in one epoch."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, STREAMS[stream], epoch])))


def epoch_order(num: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of a split's images in `epoch` (from 1): a permutation of 0 .. num - 1."""
    return make_rng(seed, "order", epoch).permutation(num)


def resampled_holes(
    num: int, mixture: HoleMixture, seed: int, epoch: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Fresh holes (see `HoleMixture`) and local windows [num, 2] for every image of a split in `epoch`."""
    uniform = make_rng(seed, "holes", epoch).random((mixture.num_uniforms, num))
    return mixture.draw(uniform, make_rng(seed, "hole_kinds", epoch).random(num))


def stored_holes(hashed_keys: NDArray[np.uint64], spec: HoleSpec) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The rectangle [N, 4] and window [N, 2] that belong to each image for good: a function of its key alone.

    Used where a dataset brings no coordinates of its own, and by `inpaint prepare` to write them down.
    """
    return rectangle.draw(keyed_uniforms(hashed_keys, rectangle.RECTANGLE.num_uniforms), spec)


def keyed_uniforms(hashed_keys: NDArray[np.uint64], num: int) -> NDArray[np.float64]:
    """`num` uniform numbers in [0, 1) for each image, [num, N]: a function of its own key alone."""
    counters = hashed_keys.astype(np.uint64)[None] + np.arange(1, num + 1, dtype=np.uint64)[:, None] * GOLDEN
    return (mix64(counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def real_windows(num: int, spec: HoleSpec, seed: int, epoch: int) -> NDArray[np.int32]:
    """Random local windows [num, 2] for the real images (paper, Discriminator: "a randomly selected region")."""
    places = make_rng(seed, "real_windows", epoch).random((num, 2)) * (spec.image_size - spec.window_px + 1)
    return places.astype(np.int32)


def flips(num: int, seed: int, epoch: int) -> NDArray[np.bool_]:
    """Which images are mirrored left to right in `epoch`: [num], half of them on average."""
    return make_rng(seed, "flips", epoch).random(num) < 0.5
