"""Owns absolute errors, which blur less than the paper's squared one: unweighted terms, in float32 or wider."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import avg_pool2d

from inpaint.losses.seen import Seen, mean_in, wide

# Cells of the averaged image along each side: 4 px at 64.
NUM_CELLS = 16


def hole_l1(seen: Seen) -> Tensor:
    """The mean absolute error in each image's hole, averaged over the images."""
    return mean_in((wide(seen.output) - wide(seen.image)).abs(), wide(seen.mask))


def known_l1(seen: Seen) -> Tensor:
    """The same outside the hole."""
    return mean_in((wide(seen.output) - wide(seen.image)).abs(), 1 - wide(seen.mask))


def area_l1(seen: Seen) -> Tensor:
    """The absolute error of the average over each cell's hole: colour and layout are paid for, texture is free.

    Each image's mean over its cells by their part of the hole, averaged over the images.
    """
    cell = max(1, seen.image.shape[-1] // NUM_CELLS)
    mask = wide(seen.mask)
    error = avg_pool2d((wide(seen.output) - wide(seen.image)) * mask, cell).abs()
    return (error.sum(dim=(1, 2, 3)) / (3 * avg_pool2d(mask, cell).sum(dim=(1, 2, 3))).clamp(min=1e-6)).mean()
