"""Owns where the holes are: every random choice about the data, as a function of (seed, epoch, picture) alone.

Nothing here depends on the process, the worker or the batch, so any number of processes sees the same pictures with
the same holes, and the position in the data is one integer.

Coordinates are pixels: a hole is [x, y, width, height], a local window [x, y] with the side `HoleSpec.window_px`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inpaint.data.synthetic.noise import GOLDEN, mix64
from inpaint.holes.spec import HoleSpec

# One random stream for each thing drawn: adding a stream never shifts the numbers of another.
STREAMS = {"order": 0, "holes": 1, "real_windows": 2, "flips": 3, "stored": 4, "window": 5}


def make_rng(seed: int, stream: str, epoch: int = 0) -> np.random.Generator:
    """The counter-based random generator of one stream in one epoch."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, STREAMS[stream], epoch])))


def epoch_order(num_pictures: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of the pictures in `epoch` (from 1): a permutation of 0 .. num_pictures - 1."""
    return make_rng(seed, "order", epoch).permutation(num_pictures)


def resampled_holes(num: int, spec: HoleSpec, seed: int, epoch: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Fresh holes [num, 4] and local windows [num, 2] for every picture of a split in `epoch`."""
    return _place(make_rng(seed, "holes", epoch).random((6, num)), spec)


def stored_holes(hashed_keys: NDArray[np.uint64], spec: HoleSpec) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The hole [N, 4] and window [N, 2] that belong to each picture for good: a function of its key alone.

    Used where a dataset brings no coordinates of its own, and by `inpaint prepare` to write them down.
    """
    counters = hashed_keys.astype(np.uint64)[None] + np.arange(1, 7, dtype=np.uint64)[:, None] * GOLDEN
    return _place((mix64(counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53, spec)


def real_windows(num: int, spec: HoleSpec, seed: int, epoch: int) -> NDArray[np.int32]:
    """Random local windows [num, 2] for the real pictures (paper, Discriminator: "a randomly selected region")."""
    places = make_rng(seed, "real_windows", epoch).random((num, 2)) * (spec.image_size - spec.window_px + 1)
    return places.astype(np.int32)


def flips(num: int, seed: int, epoch: int) -> NDArray[np.bool_]:
    """Which pictures are mirrored left to right in `epoch`: [num], half of them on average."""
    return make_rng(seed, "flips", epoch).random(num) < 0.5


def scale_holes(
    holes: NDArray[np.int32], crops: NDArray[np.int32], from_px: NDArray[np.int32] | int, spec: HoleSpec
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Coordinates written down at pictures of side `from_px` (one, or [N]), scaled and rounded to `spec.image_size`.

    The hole is cut down to the local window and the window moved to contain it, where rounding would have parted them.
    """
    ratio = np.broadcast_to(spec.image_size / np.asarray(from_px, dtype=np.float64), (len(holes),))[:, None]
    size = np.clip(np.rint(holes[:, 2:] * ratio), 1, spec.window_px)
    corner = np.clip(np.rint(holes[:, :2] * ratio), 0, spec.image_size - size)
    crop = np.clip(np.rint(crops * ratio), *_window_range(corner, size, spec))
    return np.concatenate([corner, size], axis=1).astype(np.int32), crop.astype(np.int32)


def mirror(
    holes: NDArray[np.int32], crops: NDArray[np.int32], spec: HoleSpec
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The coordinates in the picture mirrored left to right."""
    holes, crops = holes.copy(), crops.copy()
    holes[:, 0] = spec.image_size - holes[:, 0] - holes[:, 2]
    crops[:, 0] = spec.image_size - crops[:, 0] - spec.window_px
    return holes, crops


def _place(uniform: NDArray[np.float64], spec: HoleSpec) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Six uniform numbers in [0, 1) a picture ([6, N]) to a hole inside a window inside the picture."""
    size = spec.min_px + np.floor(uniform[0:2] * (spec.max_px - spec.min_px + 1)).T
    corner = np.floor(uniform[2:4].T * (spec.image_size - size + 1))
    low, high = _window_range(corner, size, spec)
    crop = low + np.floor(uniform[4:6].T * (high - low + 1))
    return np.concatenate([corner, size], axis=1).astype(np.int32), crop.astype(np.int32)


def _window_range(
    corner: NDArray[np.float64], size: NDArray[np.float64], spec: HoleSpec
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest and largest corner of a window that contains the hole and lies in the picture."""
    low = np.maximum(0, corner + size - spec.window_px)
    return low, np.minimum(corner, spec.image_size - spec.window_px)
