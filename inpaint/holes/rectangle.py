"""Owns the rectangle, the paper's hole: [x, y, width, height] in pixels, somewhere in its local window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inpaint.holes.kinds import HoleKind
from inpaint.holes.spec import HoleSpec

if TYPE_CHECKING:
    from torch import Tensor


def draw(uniform: NDArray[np.float64], spec: HoleSpec) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Holes [N, 4] and windows [N, 2] from `uniform` [6, N]: sides, corners, and where in the window."""
    size = spec.min_px + np.floor(uniform[0:2] * (spec.max_px - spec.min_px + 1)).T
    corner = np.floor(uniform[2:4].T * (spec.image_size - size + 1))
    low, high = _window_range(corner, size, spec)
    window = low + np.floor(uniform[4:6].T * (high - low + 1))
    return np.concatenate([corner, size], axis=1).astype(np.int32), window.astype(np.int32)


def rasterise(holes: Tensor, size: int) -> Tensor:
    """The masks [B, 1, size, size] of holes [B, 4], true in the hole."""
    import torch

    from_corner = torch.arange(size, device=holes.device) - holes[:, :2, None]
    across, down = ((from_corner >= 0) & (from_corner < holes[:, 2:, None])).unbind(1)
    return down[:, None, :, None] & across[:, None, None, :]


RECTANGLE = HoleKind(6, draw, rasterise)


def scale_holes(
    holes: NDArray[np.int32], windows: NDArray[np.int32], from_px: NDArray[np.int32] | int, spec: HoleSpec
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Coordinates written down at images of side `from_px` (one, or [N]), scaled and rounded to `spec.image_size`.

    The hole is cut down to the local window and the window moved to contain it, where rounding would have parted them.
    """
    ratio = np.broadcast_to(spec.image_size / np.asarray(from_px, dtype=np.float64), (len(holes),))[:, None]
    size = np.clip(np.rint(holes[:, 2:] * ratio), 1, spec.window_px)
    corner = np.clip(np.rint(holes[:, :2] * ratio), 0, spec.image_size - size)
    window = np.clip(np.rint(windows * ratio), *_window_range(corner, size, spec))
    return np.concatenate([corner, size], axis=1).astype(np.int32), window.astype(np.int32)


def _window_range(
    corner: NDArray[np.float64], size: NDArray[np.float64], spec: HoleSpec
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest and largest corner of a window that contains the hole and lies in the image."""
    low = np.maximum(0, corner + size - spec.window_px)
    return low, np.minimum(corner, spec.image_size - spec.window_px)
