"""Owns strokes: one to three bent lines as of a brush, like those that a person paints over what is to go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inpaint.holes.fields import field_kind, folded
from inpaint.holes.lines import around_lines

if TYPE_CHECKING:
    from torch import Tensor

# With fewer strokes than lines, a line goes on where the last one ended.
LINES, SEGMENTS = 3, 4


def shapes(uniform: NDArray[np.float64], areas: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, 42] from `uniform` [27, N]: [x, y] of all corners, then the thinness of all segments.

    A brush of a certain thickness covers the area in a certain length. At the border of the image it turns back.
    """
    breadth, how_many, heading, scribble, phase, pace = uniform[:6]
    middle, curls, turns, leaps = np.split(uniform[6:], np.cumsum([2, LINES, LINES * SEGMENTS]))
    strokes = 1 + np.floor(LINES * how_many)
    thickness = np.sqrt(areas) * (0.17 + 0.25 * breadth)
    step = (areas / thickness - strokes * thickness * np.pi / 4) / (LINES * SEGMENTS)
    # Each line bends one way, or to and fro in one hole of four.
    fro = (-1.0) ** np.arange(LINES * SEGMENTS)[:, None]
    bends = np.where(scribble < 0.25, 2.3 * fro, np.repeat(2 * curls - 1, SEGMENTS, axis=0)) + 0.4 * (2 * turns - 1)
    angles = 2 * np.pi * heading + np.cumsum(bends, axis=0)
    steps = (step * np.stack([np.cos(angles), np.sin(angles)])).reshape(2, LINES, SEGMENTS, -1)
    within = np.pad(np.cumsum(steps, axis=2), ((0, 0), (0, 0), (1, 0), (0, 0)))
    far, where = 0.15 + 0.3 * leaps[::2], 2 * np.pi * leaps[1::2]
    is_lifted = np.arange(LINES - 1, 0, -1)[:, None] < strokes
    lifted = is_lifted * far * np.stack([np.cos(where), np.sin(where)])
    begins = np.pad(np.cumsum(within[:, :-1, -1] + lifted, axis=1), ((0, 0), (1, 0), (0, 0)))
    points = begins[:, :, None] + within
    points = folded(points - points.mean(axis=(1, 2), keepdims=True) + (0.1 + 0.8 * middle)[:, None, None])
    waves = np.arange(LINES * SEGMENTS)[:, None] * (0.1 + 0.3 * pace) + 2 * np.pi * phase
    thinness = 1 / (1 + 0.25 * np.sin(waves))
    return np.concatenate([points.transpose(1, 2, 0, 3).reshape(2 * LINES * (SEGMENTS + 1), -1), thinness]).T


def field(shapes: Tensor, size: int) -> Tensor:
    """[B, size, size] of shapes [B, 42]."""
    points, thinness = shapes.split([2 * LINES * (SEGMENTS + 1), LINES * SEGMENTS], dim=1)
    return around_lines(points.view(-1, LINES, SEGMENTS + 1, 2), thinness.view(-1, LINES, SEGMENTS), size)


STROKES = field_kind(9 + LINES + LINES * SEGMENTS + 2 * (LINES - 1), shapes, field)
