"""Owns every random choice about the data, as a function of (seed, epoch, image) alone.

Nothing here depends on the process, the worker or the batch, so any number of processes sees the same images with the
same holes, and the position in the data is one integer. An image's numbers are worked out from its place in its stream
(Philox counts), so that a process draws for its own images alone, shortly before they are trained on: an area or a
window costs more than a number, and for millions of images in every process it would cost minutes an epoch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from inpaint.data.synthetic.noise import GOLDEN, mix64
from inpaint.holes import rectangle
from inpaint.holes.kinds import HoleMixture
from inpaint.holes.spec import HoleSpec

_AT_ONCE = 1 << 16
# One random stream for each thing drawn: adding a stream never shifts the numbers of another.
STREAMS = {"order": 0, "holes": 1, "real_windows": 2, "flips": 3, "stored": 4, "window": 5, "hole_kinds": 6}


def make_rng(seed: int, stream: str, epoch: int = 0) -> np.random.Generator:
    """The counter-based random generator of one stream in one epoch."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, STREAMS[stream], epoch])))


def uniforms_at(places: NDArray[np.integer], seed: int, stream: str, epoch: int = 0) -> NDArray[np.float64]:
    """What `make_rng(...).random(...)` gives at these places of its row of numbers, and none of the others."""
    state = make_rng(seed, stream, epoch).bit_generator.state["state"]
    places = places.astype(np.uint64)
    counter: NDArray[Any] = places // np.uint64(4) + np.uint64(
        1
    )  # numpy counts before it computes, four numbers at a time
    lane = (places % np.uint64(4)).astype(np.int64)
    numbers = _philox(counter, *(int(key) for key in state["key"]))
    return (np.choose(lane, numbers) >> np.uint64(11)).astype(np.float64) * 2.0**-53


# Of Philox4x64-10 (Salmon et al. 2011): multipliers and what the keys rise by.
_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_RISES = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def _philox(counter: NDArray[np.uint64], *keys: int) -> tuple[NDArray[np.uint64], ...]:
    """The four numbers of each counter below 2**64."""
    zero = np.zeros_like(counter)
    one, two, three, four = counter, zero, zero, zero
    for number in range(10):
        first, second = (np.uint64((key + number * rise) % 2**64) for key, rise in zip(keys, _RISES, strict=True))
        (high, low), (other_high, other_low) = _product(one, _MULTIPLIERS[0]), _product(three, _MULTIPLIERS[1])
        one, two, three, four = other_high ^ two ^ first, other_low, high ^ four ^ second, low
    return one, two, three, four


def _product(values: NDArray[np.uint64], factor: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The upper and the lower 64 bits."""
    above, below = np.uint64(factor >> 32), np.uint64(factor & 0xFFFFFFFF)
    upper, lower = values >> _HALF, values & _LOW
    carried = above * lower + (below * lower >> _HALF)
    middle = below * upper + (carried & _LOW)
    return above * upper + (carried >> _HALF) + (middle >> _HALF), values * np.uint64(factor)


def epoch_order(num: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of a split's images in `epoch` (from 1): a permutation of 0 .. num - 1."""
    return make_rng(seed, "order", epoch).permutation(num)


Chosen = NDArray[np.integer] | None


def resampled_holes(
    num: int, mixture: HoleMixture, seed: int, epoch: int, chosen: Chosen = None
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Fresh holes (see `HoleMixture`) and local windows [n, 2] in `epoch` for the `chosen` [n] of a split of `num`."""
    images = _images(num, chosen)
    places: NDArray[Any] = np.arange(mixture.num_uniforms, dtype=np.uint64)[:, None] * np.uint64(num) + images
    uniform = uniforms_at(places, seed, "holes", epoch)
    return mixture.draw(uniform, uniforms_at(images, seed, "hole_kinds", epoch))


def stored_holes(hashed_keys: NDArray[np.uint64], spec: HoleSpec) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The rectangle [N, 4] and window [N, 2] that belong to each image for good: a function of its key alone.

    Used where a dataset brings no coordinates of its own, and by `inpaint prepare` to write them down.
    """
    # Some at a time: the numbers of millions would take half a gigabyte in every process.
    some = np.array_split(hashed_keys, len(hashed_keys) // _AT_ONCE + 1)
    parts = [rectangle.draw(keyed_uniforms(keys, rectangle.RECTANGLE.num_uniforms), spec) for keys in some]
    holes, windows = zip(*parts, strict=True)
    return np.concatenate(holes), np.concatenate(windows)


def keyed_uniforms(hashed_keys: NDArray[np.uint64], num: int) -> NDArray[np.float64]:
    """`num` uniform numbers in [0, 1) for each image, [num, N]: a function of its own key alone."""
    counters = hashed_keys.astype(np.uint64)[None] + np.arange(1, num + 1, dtype=np.uint64)[:, None] * GOLDEN
    return (mix64(counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def real_windows(num: int, spec: HoleSpec, seed: int, epoch: int, chosen: Chosen = None) -> NDArray[np.int32]:
    """Random local windows [n, 2] for the real images (paper, Discriminator: "a randomly selected region")."""
    places: NDArray[Any] = _images(num, chosen)[:, None] * np.uint64(2) + np.arange(2, dtype=np.uint64)
    corners = uniforms_at(places, seed, "real_windows", epoch) * (spec.image_size - spec.window_px + 1)
    return corners.astype(np.int32)


def flips(num: int, seed: int, epoch: int, chosen: Chosen = None) -> NDArray[np.bool_]:
    """Which images are mirrored left to right in `epoch`: [n], half of them on average."""
    return uniforms_at(_images(num, chosen), seed, "flips", epoch) < 0.5


def _images(num: int, chosen: Chosen) -> NDArray[np.uint64]:
    """Those chosen, else all."""
    return np.arange(num, dtype=np.uint64) if chosen is None else chosen.astype(np.uint64)
