"""Owns the figures: how far a filled picture is from the true one, in the hole and in the whole picture.

All are computed on the 8-bit composite, the picture a user gets, and per picture; means over pictures are the caller's
(`table.py`). An empty hole has no hole figures: they are nan, never the infinity or zero that would flatter a mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_PSNR_DB = 100.0
METRICS = ("hole_psnr", "hole_l1", "hole_ssim", "psnr", "l1", "ssim")


def to_u8(output: Tensor) -> Tensor:
    """Values in [0, 1], clamped and rounded to the nearest of 0 to 255; what is not a number becomes 0."""
    return output.float().nan_to_num(nan=0.0).clamp(0, 1).mul(255).round().to(torch.uint8)


def composite_u8(output: Tensor, image_u8: Tensor, mask: Tensor) -> Tensor:
    """The picture with its hole filled: `output` rounded to 8 bits in the hole, the very bytes of `image_u8` outside.

    Args:
        output: [B, 3, H, W] in [0, 1], any float type; clamped.
        image_u8: uint8 [B, 3, H, W], the true picture.
        mask: [B, 1, H, W]; a pixel is hole at 0.5 or more.

    Returns:
        uint8 [B, 3, H, W].
    """
    return torch.where(mask >= 0.5, to_u8(output), image_u8)


def picture_metrics(composite: Tensor, image_u8: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Every figure of `METRICS` for every picture.

    PSNR is in dB, for a peak of 255, and at most `MAX_PSNR_DB`: two identical pictures score that instead of infinity,
    which no mean survives (64x64 pictures that differ at all score 89 dB or less). L1 is the mean absolute difference
    with the full range as 1. SSIM is that of Wang et al. 2004 (Gaussian window of 11x11, sigma 1.5) on each colour
    channel; the whole picture's is the mean of its map, borders included by reflection, the hole's the mean of the same
    map over the hole's pixels.

    Args:
        composite: uint8 [B, 3, H, W].
        image_u8: uint8 [B, 3, H, W], the true picture.
        mask: [B, 1, H, W]; a pixel is hole at 0.5 or more.

    Returns:
        [B] for each name; nan in the hole's figures where it is empty.

    Raises:
        RuntimeError: pictures smaller than 6 px have no SSIM.
    """
    # On CUDA a float32 convolution may run in TF32, whose three digits are too few for SSIM's E[x^2] - E[x]^2. On the
    # CPU float64 takes 20 times as long as float32, whose SSIM is within 2e-5 a picture even where contrast is low.
    precision = torch.float64 if image_u8.is_cuda else torch.float32
    first, second = composite.to(precision), image_u8.to(precision)
    hole = (mask >= 0.5).to(precision)
    whole = torch.ones_like(hole)
    difference = (first - second) / 255
    similarity = _ssim_map(first / 255, second / 255)
    return {
        "hole_psnr": _psnr(_mean_over(difference.square(), hole)),
        "hole_l1": _mean_over(difference.abs(), hole),
        "hole_ssim": _mean_over(similarity, hole),
        "psnr": _psnr(_mean_over(difference.square(), whole)),
        "l1": _mean_over(difference.abs(), whole),
        "ssim": _mean_over(similarity, whole),
    }


def _mean_over(values: Tensor, region: Tensor) -> Tensor:
    """The mean of `values` [B, C, H, W] over the pixels where `region` [B, 1, H, W] is 1: [B], 0 / 0 = nan if none."""
    return (values * region).sum((1, 2, 3)) / (region.sum((1, 2, 3)) * values.shape[1])


def _psnr(mean_squared_error: Tensor) -> Tensor:
    """PSNR in dB from errors whose full range is 1."""
    return (-10 * mean_squared_error.log10()).clamp(max=MAX_PSNR_DB)


def _ssim_map(first: Tensor, second: Tensor) -> Tensor:
    """SSIM around each pixel, [B, C, H, W], of pictures in [0, 1]."""
    # Imported here because it takes longer than everything else that `inpaint fill` needs from this module.
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, similarity = structural_similarity_index_measure(
        first, second, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
    )
    return similarity
