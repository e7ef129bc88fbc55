"""Owns how some consecutive pictures of a source become pixels, and where their holes and windows come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inpaint.data.holes import HoleSpec, key_hash, scale_holes, stored_holes
from inpaint.data.pixels import BadPicture, decode_square

if TYPE_CHECKING:
    import pyarrow as pa

    from inpaint.data.photos import Photos

COORDINATES = ("x", "y", "width", "height", "crop_x", "crop_y", "side")


@dataclass(frozen=True)
class Decoded:
    """Those of some consecutive pictures that could be used.

    Attributes:
        pixels: [n, S, S, 3].
        sources, keys: of each.
        coordinates: [n, 7] (see COORDINATES) where the source has its own.
        bad: what could not be used, and why.
        rows: which of the pictures asked for the n are; None: all.
    """

    pixels: NDArray[np.uint8]
    sources: list[str]
    keys: list[str]
    coordinates: NDArray[np.int32] | None = None
    bad: tuple[str, ...] = ()
    rows: tuple[int, ...] | None = None


def decode_photos(photos: Photos, size: int, rows: range) -> Decoded:
    """These rows of a split, as squares of side `size`; may be called from several threads."""
    pixels, kept, sides, bad = [], [], [], []
    for row, cell in zip(rows, photos.dataset[rows.start : rows.stop]["image"], strict=True):
        try:
            if cell is None:
                raise BadPicture("unreadable", "the row holds no picture")
            image, full = decode_square(cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]), size)
            pixels.append(image)
        except BadPicture as fault:
            bad.append(f"{photos.sources[row]}: {fault}")
            continue
        kept.append(row)
        sides.append(full)
    coordinates = None
    if photos.holes is not None and photos.crops is not None:
        stored = np.array(sides, dtype=np.int32).reshape(-1, 2)
        side = stored.min(axis=1, keepdims=True)
        margin = (stored - side) // 2  # what cropping to the square took away at the left and the top
        holes, crops = photos.holes[kept], photos.crops[kept]
        coordinates = np.concatenate([holes[:, :2] - margin, holes[:, 2:], crops - margin, side], axis=1)
    return Decoded(
        pixels=np.array(pixels, dtype=np.uint8).reshape(-1, size, size, 3),
        sources=[photos.sources[row] for row in kept],
        keys=[photos.keys[row] for row in kept],
        coordinates=coordinates,
        bad=tuple(bad),
        rows=tuple(kept),
    )


def table_of(parts: Sequence[Decoded]) -> pa.Table:
    """Sources, hashes of the keys and coordinates of all parts; what `coordinates_at` takes."""
    import pyarrow as pa

    columns = {
        "source": pa.array([source for part in parts for source in part.sources], pa.string()),
        "key_hash": np.array([key_hash(key) for part in parts for key in part.keys], dtype=np.uint64),
    }
    coordinates = [part.coordinates for part in parts if part.coordinates is not None]
    if coordinates:
        columns |= dict(zip(COORDINATES, np.ascontiguousarray(np.concatenate(coordinates).T), strict=True))
    return pa.table(columns)


def coordinates_at(table: pa.Table, spec: HoleSpec) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Each picture's own hole [N, 4] and window [N, 2] at `spec.image_size`: the source's, else the key's."""
    if COORDINATES[0] not in table.column_names:
        return stored_holes(_numbers(table["key_hash"]), spec)
    stored = np.stack([_numbers(table[column]) for column in COORDINATES], axis=1)
    return scale_holes(stored[:, :4], stored[:, 4:6], stored[:, 6], spec)


def _numbers(column: pa.ChunkedArray) -> Any:
    """A column of numbers; its own `to_numpy` would import pandas."""
    return np.from_dlpack(column.combine_chunks())
