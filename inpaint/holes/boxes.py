"""Owns boxes: several upright rectangles of different sizes and proportions, like those around signs or dates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inpaint.holes.fields import field_kind, pixel_centres

if TYPE_CHECKING:
    from torch import Tensor

LEAST, MOST = 2, 5


def shapes(uniform: NDArray[np.float64], areas: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, 20] from `uniform` [21, N]: x, y, inverse width and inverse height; missing ones repeat the first."""
    middles, sides, proportions = uniform[1:11].reshape(2, MOST, -1), 0.4 + 0.6 * uniform[11:16], uniform[16:21]
    wide = 3.0 ** (proportions - 0.5)
    boxes = np.stack([*(0.05 + 0.9 * middles), 1 / (sides * wide), wide / sides])
    num = LEAST + np.floor((MOST - LEAST + 1) * uniform[0])
    boxes = np.where(np.arange(MOST)[:, None] < num, boxes, boxes[:, :1])
    return boxes.reshape(4 * MOST, -1).T


def field(shapes: Tensor, size: int) -> Tensor:
    """[B, size, size] of shapes [B, 20]: how many times a box must be enlarged to reach a pixel, of the nearest."""
    import torch

    x, y = pixel_centres(size, shapes)
    middle_x, middle_y, narrow, low = (its.unbind(1) for its in shapes.view(-1, 4, MOST, 1, 1).unbind(1))
    field = torch.full((len(shapes), size, size), torch.inf, device=shapes.device, dtype=shapes.dtype)
    for i in range(MOST):
        needed = ((x - middle_x[i]).abs() * narrow[i]).maximum((y - middle_y[i]).abs() * low[i])
        torch.minimum(field, needed, out=field)
    return field


BOXES = field_kind(22, shapes, field)
