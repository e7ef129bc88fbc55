"""Owns the border: one to four sides of the image to unequal depths, for filling beyond what was taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inpaint.holes.fields import field_kind, pixel_centres

if TYPE_CHECKING:
    from torch import Tensor

SIDES = 4
# The inverse depth of a side that is not missing: less than half a pixel of any image.
SHALLOW = 1e4


def shapes(uniform: NDArray[np.float64], areas: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, 4] from `uniform` [9, N]: inverse depths from the left, the right, above and below, in proportion."""
    num = 1 + np.floor(SIDES * uniform[0])
    is_missing = uniform[1:5].argsort(axis=0).argsort(axis=0) < num
    return np.where(is_missing, 1 / (0.3 + 0.7 * uniform[5:9]), SHALLOW).T


def field(shapes: Tensor, size: int) -> Tensor:
    """[B, size, size] of shapes [B, 4]: the distance from a side over its depth, of the nearest."""
    x, y = pixel_centres(size, shapes)
    left, right, above, below = shapes[:, :, None, None].unbind(1)
    return (x * left).minimum((1 - x) * right).minimum((y * above).minimum((1 - y) * below))


BORDER = field_kind(10, shapes, field)
