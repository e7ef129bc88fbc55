"""Owns where the holes are: every random choice about the data, as a function of (seed, epoch, picture) alone.

Nothing here depends on the process, the worker or the batch, so any number of processes sees the same pictures with
the same holes, and the position in the data is one integer.

Coordinates are pixels: a hole is [x, y, width, height], a local window [x, y] with the side `HoleSpec.window_px`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

# One random stream for each thing drawn: adding a stream never shifts the numbers of another.
STREAMS = {"order": 0, "holes": 1, "real_windows": 2, "flips": 3, "stored": 4, "window": 5}


@dataclass(frozen=True)
class HoleSpec:
    """The geometry of holes at one picture size; all in pixels.

    Args:
        image_size: side of the square picture.
        min_px, max_px: smallest and largest side of a hole, both included (paper: 20 and 25 at 64).
        window_px: side of the local window, which contains the hole (paper: 28 at 64).
    """

    image_size: int
    min_px: int
    max_px: int
    window_px: int

    @classmethod
    def scaled(
        cls, image_size: int, min_px: int | None = None, max_px: int | None = None, window_px: int | None = None
    ) -> HoleSpec:
        """The paper's sizes (20 to 25 in a window of 28, at 64) scaled to `image_size`, each unless given."""

        def scale(at_64: int) -> int:
            return max(1, round(at_64 * image_size / 64))

        return cls(
            image_size=image_size,
            min_px=scale(20) if min_px is None else min_px,
            max_px=scale(25) if max_px is None else max_px,
            window_px=scale(28) if window_px is None else window_px,
        )

    def faults(self) -> list[str]:
        """What is wrong with this geometry, one sentence each; empty if nothing is."""
        found = []
        if self.min_px < 1:
            found.append(f"the smallest hole is {self.min_px} px; it must be at least 1")
        if self.min_px > self.max_px:
            found.append(f"the smallest hole ({self.min_px} px) is larger than the largest ({self.max_px} px)")
        if self.max_px > self.window_px:
            found.append(f"the hole (up to {self.max_px} px) is larger than its local window ({self.window_px} px)")
        if self.window_px > self.image_size:
            found.append(f"the local window ({self.window_px} px) is larger than the picture ({self.image_size} px)")
        return found


def generator(seed: int, stream: str, epoch: int = 0) -> np.random.Generator:
    """The counter-based random generator of one stream in one epoch."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, STREAMS[stream], epoch])))


def key_hash(key: str) -> int:
    """64 bits from a picture's key (`<class>/<file name>`, or its index): the same on every machine, for ever."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def split_of(hashed_key: int) -> Split:
    """85/10/5 by the key's hash alone, so that adding pictures moves none to another split (paper, "Dataset")."""
    position = hashed_key % 10_000
    return "train" if position < 8_500 else "validation" if position < 9_500 else "test"


def epoch_order(num_pictures: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of the pictures in `epoch` (from 1): a permutation of 0 .. num_pictures - 1."""
    return generator(seed, "order", epoch).permutation(num_pictures)


def resampled_holes(num: int, spec: HoleSpec, seed: int, epoch: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Fresh holes [num, 4] and local windows [num, 2] for every picture of a split in `epoch`."""
    return _place(generator(seed, "holes", epoch).random((6, num)), spec)


def stored_holes(hashed_keys: NDArray[np.uint64], spec: HoleSpec) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The hole [N, 4] and window [N, 2] that belong to each picture for good: a function of its key alone.

    Used where a dataset brings no coordinates of its own, and by `inpaint prepare` to write them down.
    """
    counters = hashed_keys.astype(np.uint64)[None] + np.arange(1, 7, dtype=np.uint64)[:, None] * np.uint64(
        0x9E3779B97F4A7C15
    )
    return _place((_splitmix64(counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53, spec)


def real_windows(num: int, spec: HoleSpec, seed: int, epoch: int) -> NDArray[np.int32]:
    """Random local windows [num, 2] for the real pictures (paper, Discriminator: "a randomly selected region")."""
    places = generator(seed, "real_windows", epoch).random((num, 2)) * (spec.image_size - spec.window_px + 1)
    return places.astype(np.int32)


def flips(num: int, seed: int, epoch: int) -> NDArray[np.bool_]:
    """Which pictures are mirrored left to right in `epoch`: [num], half of them on average."""
    return generator(seed, "flips", epoch).random(num) < 0.5


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


def _splitmix64(counter: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A well-mixed 64-bit number for each counter (Steele, Lea, Flood 2014, "Fast splittable generators")."""
    with np.errstate(over="ignore"):
        mixed = (counter ^ (counter >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
