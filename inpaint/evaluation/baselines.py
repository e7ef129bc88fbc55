"""Owns the classical fills that a trained generator has to beat, each called as a generator is.

OpenCV's two methods run on 8-bit images with a radius of 3 px, the value of OpenCV's own sample and tutorial.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

Fill = Callable[[Tensor, Tensor], Tensor]

RADIUS_PX = 3


def mean_fill(masked_image: Tensor, mask: Tensor) -> Tensor:
    """The mean colour of each image's known pixels, everywhere; mid-grey where no pixel is known.

    Args:
        masked_image: [B, 3, H, W] in [0, 1], the hole black.
        mask: [B, 1, H, W], 1 = hole.

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    num_known = (1 - mask).sum((2, 3), keepdim=True)
    mean = (masked_image * (1 - mask)).sum((2, 3), keepdim=True) / num_known.clamp(min=1)
    return torch.where(num_known > 0, mean, 0.5).expand_as(masked_image)


def telea(masked_image: Tensor, mask: Tensor) -> Tensor:
    """Telea 2004, fast marching from the border inwards. Arguments and result as `mean_fill`; runs on the CPU."""
    return _opencv(masked_image, mask, cv2.INPAINT_TELEA)


def navier_stokes(masked_image: Tensor, mask: Tensor) -> Tensor:
    """Bertalmio et al. 2001, lines of equal colour continued. Arguments and result as `mean_fill`; runs on the CPU."""
    return _opencv(masked_image, mask, cv2.INPAINT_NS)


BASELINES: dict[str, Fill] = {"mean fill": mean_fill, "Telea": telea, "Navier-Stokes": navier_stokes}


def _opencv(masked_image: Tensor, mask: Tensor, method: int) -> Tensor:
    images = (masked_image * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    holes = (mask[:, 0] >= 0.5).byte().cpu().numpy()
    filled = np.stack([cv2.inpaint(*pair, RADIUS_PX, method) for pair in zip(images, holes, strict=True)])
    return torch.from_numpy(filled).permute(0, 3, 1, 2).to(masked_image) / 255
