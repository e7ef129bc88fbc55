"""Owns how some images of a source become pixels, and where their holes and windows come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inpaint.data.draws import stored_holes
from inpaint.holes.rectangle import scale_holes
from inpaint.holes.spec import HoleSpec
from inpaint.images.pixels import BadImage, decode_square
from inpaint.sources.source import Entry

COORDINATES = ("x", "y", "width", "height", "crop_x", "crop_y", "side")


@dataclass(frozen=True)
class Decoded:
    """Those of some images that could be used.

    Attributes:
        pixels: [n, S, S, 3].
        rows: which of the images asked for the n are.
        coordinates: [n, 7] (see COORDINATES) where the source has its own.
        bad: what could not be used, and why.
    """

    pixels: NDArray[np.uint8]
    rows: Sequence[int]
    coordinates: NDArray[np.int32] | None = None
    bad: tuple[str, ...] = ()


def decode_entries(entries: Sequence[Entry], size: int) -> Decoded:
    """These images as squares of side `size`; may be called from several threads."""
    pixels, rows, coordinates, bad = [], [], [], []
    for row, entry in enumerate(entries):
        try:
            square, (width, height) = decode_square(entry.read(), size)
        except BadImage as fault:
            bad.append(f"{entry.source}: {fault}")
            continue
        pixels.append(square)
        rows.append(row)
        if entry.hole is not None and entry.crop is not None:
            side = min(width, height)
            x, y = (width - side) // 2, (height - side) // 2  # what cropping to the square took away
            (left, top, *extent), (crop_x, crop_y) = entry.hole, entry.crop
            coordinates.append([left - x, top - y, *extent, crop_x - x, crop_y - y, side])
    return Decoded(
        pixels=np.array(pixels, dtype=np.uint8).reshape(-1, size, size, 3),
        rows=rows,
        coordinates=np.array(coordinates, dtype=np.int32) if coordinates else None,
        bad=tuple(bad),
    )


def coordinates_at(
    key_hashes: NDArray[np.uint64], coordinates: NDArray[np.int32] | None, spec: HoleSpec
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Each image's own hole [N, 4] and window [N, 2] at `spec.image_size`: the source's [N, 7], else the key's."""
    if coordinates is None:
        return stored_holes(key_hashes, spec)
    return scale_holes(coordinates[:, :4], coordinates[:, 4:6], coordinates[:, 6], spec)
