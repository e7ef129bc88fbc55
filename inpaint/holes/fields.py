"""Owns kinds of holes that are cut out of a field, so that each has the area drawn for it and the window lies well.

A field is low in the hole and rises outwards; up to some limit it is the hole. The limit is found on the CPU, on a
coarse grid and with what the border of the image cuts off, and becomes the last parameter of the hole. So the area is
right for any shape, however its parts overlap, and alike at every size of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inpaint.holes.kinds import HoleKind
from inpaint.holes.spec import HoleSpec

if TYPE_CHECKING:
    from torch import Tensor

# Side of the grid that areas and windows are found on, and of how many holes at once: small enough for one thread.
GRID, AT_ONCE = 32, 24


def field_kind(
    num_uniforms: int,
    shapes: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    field: Callable[[Tensor, int], Tensor],
    area: Callable[[HoleSpec], tuple[float, float]] = lambda spec: spec.area,
) -> HoleKind:
    """A kind whose holes cover a share of the image that is drawn evenly from a range.

    The local window contains as much of the hole as a window can, to a cell of the coarse grid; of windows that contain
    the same, it is the one nearest to the middle of the hole's mass.

    Args:
        num_uniforms: how many uniform numbers a hole takes, one for the area included.
        shapes: (uniform [num_uniforms - 1, N], areas [N]) -> parameters [N, P], in shares of the image's side: the same
            shapes at every size.
        field: (parameters [B, P], size) -> [B, size, size]; of sums, products, quotients and roots alone, which are the
            same to the last bit in every batch and on every device.
        area: the smallest and the largest area.
    """

    def draw(uniform: NDArray[np.float64], spec: HoleSpec) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        import torch

        low, high = area(spec)
        areas = low + uniform[0] * (high - low)
        parameters = shapes(uniform[1:], areas).astype(np.float32)
        limits, windows = np.empty((len(areas), 1), np.float32), np.empty((len(areas), 2), np.int32)
        size = min(GRID, spec.image_size)
        for start in range(0, len(areas), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            values = field(torch.from_numpy(parameters[some]), size).numpy()
            limits[some] = _limits(values, areas[some])
            windows[some] = _windows(values <= limits[some, :, None], spec)
        return np.concatenate([parameters, limits], axis=1), windows

    def rasterise(holes: Tensor, size: int) -> Tensor:
        values, limit = field(holes[:, :-1], size), holes[:, -1, None, None]
        # What is thinner than a pixel may miss the centres of all.
        return (values <= limit.maximum(values.amin(dim=(1, 2), keepdim=True)))[:, None]

    return HoleKind(num_uniforms, draw, rasterise)


def pixel_centres(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """x [1, 1, size] and y [1, size, 1], from 0 to 1 across the image."""
    import torch

    centres = (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) / size
    return centres.view(1, 1, size), centres.view(1, size, 1)


def folded(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coordinates that leave the image, reflected at its borders into 0 to 1."""
    return 1 - np.abs(1 - np.mod(points, 2))


def _limits(values: NDArray[np.float32], areas: NDArray[np.float64]) -> NDArray[np.float32]:
    """[n, 1]: what parts the lowest share `areas` of `values` [n, G, G] from the rest.

    Where many values are equal, as along a straight side, it lies between them and the next by the share of theirs that
    is wanted.
    """
    ordered = np.sort(values.reshape(len(values), -1), axis=1)
    num = (areas * ordered.shape[1]).clip(1, ordered.shape[1] - 1)[:, None]
    here = np.take_along_axis(ordered, num.astype(int), axis=1)
    first, end = ((its).sum(axis=1, keepdims=True) for its in (ordered < here, ordered <= here))
    below = np.take_along_axis(ordered, (first - 1).clip(0), axis=1)
    above = np.take_along_axis(ordered, end.clip(max=ordered.shape[1] - 1), axis=1)
    share = (num - first) / (end - first)
    return (here + ((below - here) * (1 - share) + (above - here) * share) / 2).astype(np.float32)


def _windows(masks: NDArray[np.bool_], spec: HoleSpec) -> NDArray[np.int32]:
    """[n, 2] for masks [n, G, G]."""
    grid = masks.shape[1]
    cells = max(1, round(spec.window_px / spec.image_size * grid))
    corners = np.arange(grid - cells + 1)
    past = np.arange(grid) - corners[:, None]
    band = ((past >= 0) & (past < cells)).astype(np.float32)
    inside = band @ masks.astype(np.float32) @ band.T
    off = []
    for axis in (1, 2):
        middle = (masks.sum(axis) * np.arange(grid)).sum(1, keepdims=True) / masks.sum((1, 2))[:, None]
        off.append((corners + (cells - 1) / 2 - middle) ** 2)
    # One cell more of the hole outweighs any distance.
    score = inside * (2.0 * grid**2) - off[1][:, :, None] - off[0][:, None, :]
    y, x = np.unravel_index(score.reshape(len(masks), -1).argmax(1), score.shape[1:])
    middles = (np.stack([x, y], axis=1) + cells / 2) * (spec.image_size / grid)
    return np.rint(middles - spec.window_px / 2).clip(0, spec.image_size - spec.window_px).astype(np.int32)
