"""Owns that the colours of a fill meet those around the hole."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from inpaint.models.generators.smooth_prior import smooth_fill

# Means on either side of the border are over what there is of a square of 5 x 5 pixels.
_REACH = 2
# By how much of the range colours may differ before that is taken for an edge in the photograph, which is left.
_EDGE = 0.2


def met(fill: Tensor, known: Tensor) -> Tensor:
    """What to add to a fill so that it meets what is known around it: at the border all of it, inwards smoothly less.

    A generator's colours are often off by a little, which shows as the outline of what was removed. As in Poisson
    blending (Pérez et al. 2003) a smooth surface through the differences at the border is added.

    Args:
        fill: [3, H, W], the photograph where that is known.
        known: booleans [1, H, W].

    Returns:
        [3, H, W], 0 where it is known.
    """
    outside, inside = known[None].float(), (~known)[None].float()
    near_outside, near_inside = _sum(outside), _sum(inside)
    border = inside * (near_outside > 0)
    of_photo, of_fill = _sum(fill * outside) / near_outside.clamp(min=1), _sum(fill * inside) / near_inside.clamp(min=1)
    difference = of_photo - of_fill
    difference = difference * torch.exp(-(difference.abs().amax(1, keepdim=True) / _EDGE).square())
    return (smooth_fill(difference * border, 1 - border) * inside)[0]


def _sum(values: Tensor) -> Tensor:
    side = 2 * _REACH + 1
    return avg_pool2d(values, side, 1, _REACH) * side**2
