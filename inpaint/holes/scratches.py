"""Owns scratches: thin long lines with a slight bend, as on old prints; one to six, some from border to border."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inpaint.holes.fields import field_kind
from inpaint.holes.lines import around_lines
from inpaint.holes.spec import HoleSpec

if TYPE_CHECKING:
    from torch import Tensor

MOST = 6


def shapes(uniform: NDArray[np.float64], areas: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, 48] from `uniform` [37, N]: [x, y] of three corners of each line, then the thinness of both halves.

    As many lines as cover the area at a thickness of a 64th to a 28th of the image.
    """
    thickness = 1 / 64 + (1 / 28 - 1 / 64) * uniform[0]
    middle, lengths, heading, bend, breadth = np.split(uniform[1:], np.cumsum([2 * MOST, *[MOST] * 3]))
    lengths = 0.4 + 1.1 * lengths
    lengths[0] = np.minimum(lengths[0], areas / thickness)
    is_there = np.cumsum(lengths, axis=0) * thickness <= areas * (1 + 1e-9)
    half = lengths / 2 * np.stack([np.cos(np.pi * heading), np.sin(np.pi * heading)])
    aside = 0.2 * (2 * bend - 1) * np.stack([-half[1], half[0]])
    middle = 0.1 + 0.8 * middle.reshape(2, MOST, -1)
    lines = np.stack([middle - half, middle + aside, middle + half])
    lines = np.where(is_there, lines, lines[:, :, :1])
    thinness = np.where(is_there, 0.8 + 0.5 * breadth, 0.8 + 0.5 * breadth[:1])
    return np.concatenate([lines.transpose(2, 0, 1, 3).reshape(6 * MOST, -1), np.repeat(thinness, 2, axis=0)]).T


def field(shapes: Tensor, size: int) -> Tensor:
    """[B, size, size] of shapes [B, 48]."""
    points, thinness = shapes.split([6 * MOST, 2 * MOST], dim=1)
    return around_lines(points.view(-1, MOST, 3, 2), thinness.view(-1, MOST, 2), size)


def area(spec: HoleSpec) -> tuple[float, float]:
    """Less than other kinds: from two fifths of the smallest to the middle of the range."""
    return 0.4 * spec.area[0], sum(spec.area) / 2


SCRATCHES = field_kind(2 + 6 * MOST, shapes, field, area)
