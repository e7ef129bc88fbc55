"""Owns how a photograph is made smaller and a fill larger: by area over what is known, and bicubically."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d


class Scaled(NamedTuple):
    """A photograph at one scale."""

    values: Tensor
    """[3, H, W] in [0, 1]: the means of the known pixels in each cell; 0 where there is none."""
    share: Tensor
    """[1, H, W]: what share of each cell is known. A cell with any unknown pixel is hole."""

    @property
    def known(self) -> Tensor:
        """[1, H, W] booleans."""
        return self.share == 1


def scales(image: Tensor, known: Tensor, factor: int) -> list[Scaled]:
    """A photograph at every scale from its own to 1 / `factor`, a power of two by which its sides can be divided.

    Args:
        image: [3, H, W] in [0, 1].
        known: [1, H, W] booleans.
    """
    share = known.float()
    found = [Scaled(image * share, share)]
    while (factor := factor // 2) >= 1:
        values, share = found[-1]
        summed, share = avg_pool2d(values * share, 2), avg_pool2d(share, 2)
        found.append(Scaled(summed / share.clamp(min=1e-9), share))
    return found


def enlarged(values: Tensor) -> Tensor:
    """[3, H, W] at twice the size, bicubically; edges are repeated."""
    return interpolate(values[None], scale_factor=2, mode="bicubic", align_corners=False)[0]


def laid(fill: Tensor, scaled: Scaled) -> Tensor:
    """The photograph with a fill of its size in the hole; a cell that is partly known is as much the photograph's."""
    return torch.lerp(fill, scaled.values, scaled.share)


def all_known(known: Tensor) -> Tensor:
    """Booleans [1, H, W] at half the size: of which cells all four are true."""
    return max_pool2d((~known).float(), 2) == 0
