"""Owns the metrics: how far filled images are from the true ones, and how figures of images become one of a split.

Which there are is the table `METRICS` of `inpaint/tables.py`. Ours are of the 8-bit composite, the image a user gets,
in the hole and in the whole image. An empty hole has no figures: they are nan, never the infinity or zero that would
flatter a mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from inpaint import tables

MAX_PSNR_DB = 100.0


@dataclass(frozen=True)
class Filled:
    """Some filled images, with what more than one metric needs of them, computed once and on their device.

    Attributes:
        composite: uint8 [B, 3, H, W], `image` with its hole filled.
        image: uint8 [B, 3, H, W], the true image.
        mask: [B, 1, H, W]; a pixel is hole at 0.5 or more.
        output: [B, 3, H, W] in [0, 1], what the generator gave, everywhere and before it was rounded.
    """

    composite: Tensor
    image: Tensor
    mask: Tensor
    output: Tensor

    @property
    def precision(self) -> torch.dtype:
        """What figures are computed in: float64 on CUDA, else float32."""
        # On CUDA a float32 convolution may run in TF32, whose three digits are too few for SSIM's E[x^2] - E[x]^2. On
        # the CPU float64 takes 20 times as long as float32, whose SSIM is within 2e-5 an image even at low contrast.
        return torch.float64 if self.image.is_cuda else torch.float32

    @cached_property
    def hole(self) -> Tensor:
        """[B, 1, H, W], 1 in the hole and 0 outside."""
        return (self.mask >= 0.5).to(self.precision)

    @cached_property
    def difference(self) -> Tensor:
        """[B, 3, H, W] in [-1, 1], composite - image."""
        return (self.composite.to(self.precision) - self.image.to(self.precision)) / 255

    @cached_property
    def similarity(self) -> Tensor:
        """SSIM around each pixel, [B, 3, H, W]; images smaller than 6 px have none (RuntimeError)."""
        # Imported here because it takes longer than everything else that `inpaint fill` needs from this module.
        from torchmetrics.functional.image import structural_similarity_index_measure

        first, second = (tensor.to(self.precision) / 255 for tensor in (self.composite, self.image))
        _, similarity = structural_similarity_index_measure(
            first, second, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
        )
        return similarity

    def mean_in_hole(self, values: Tensor) -> Tensor:
        """The mean of `values` [B, C, H, W] over the pixels of each hole: [B], nan where it is empty."""
        return _mean_over(values, self.hole)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` [B, C, H, W] over each whole image: [B]."""
        return _mean_over(values, torch.ones_like(self.hole))


@dataclass(frozen=True)
class Metric:
    """A figure of a set of images: the mean of each image's own.

    What is gathered on the way to it, the state, is a tensor that images and processes add to. A figure that only the
    whole set has, such as a distance of distributions, is a subclass with another `state_size`, `update` and `compute`.

    Attributes:
        heading: its name in tables.
        decimals: how many are shown.
        better: which direction is.
        per_image: the figure of each image, [B] float; nan where an image has none.
        unit: shown behind the figure in a sentence.
        state_size: how many float64 numbers the state is.
    """

    heading: str
    decimals: int
    better: Literal["higher", "lower"]
    per_image: Callable[[Filled], Tensor] | None = None
    unit: str = ""
    state_size: int = 2

    def update(self, filled: Filled) -> Tensor:
        """What these images add to the state: float64 [state_size] on the CPU, here the sum and the count."""
        assert self.per_image is not None
        values = self.per_image(filled).cpu().double()  # Apple's GPUs have no float64
        return torch.stack([values.nansum(), values.isfinite().sum()])

    def compute(self, state: Tensor) -> float:
        """The figure, once everything is added up; nan where no image had it."""
        return (state[0] / state[1]).item()

    def text(self, value: float) -> str:
        return "-" if math.isnan(value) else f"{value:.{self.decimals}f}"


def all_metrics() -> dict[str, Metric]:
    """Every metric of the table by its name, in the order in which they are shown."""
    return {name: tables.load(tables.METRICS, name) for name in tables.METRICS}


def sentence(figures: Mapping[str, float]) -> str:
    """Figures in words: `hole PSNR 21.35 dB, hole L1 0.0712`."""
    known = ((metric, figures[name]) for name, metric in all_metrics().items() if name in figures)
    return ", ".join(f"{metric.heading} {metric.text(value)} {metric.unit}".rstrip() for metric, value in known)


def to_u8(output: Tensor) -> Tensor:
    """Values in [0, 1], clamped and rounded to the nearest of 0 to 255; what is not a number becomes 0."""
    return output.float().nan_to_num(nan=0.0).clamp(0, 1).mul(255).round().to(torch.uint8)


def composite_u8(output: Tensor, image_u8: Tensor, mask: Tensor) -> Tensor:
    """The image with its hole filled: `output` rounded to 8 bits in the hole, the very bytes of `image_u8` outside.

    Args:
        output: [B, 3, H, W] in [0, 1], any float type; clamped.
        image_u8: uint8 [B, 3, H, W], the true image.
        mask: [B, 1, H, W]; a pixel is hole at 0.5 or more.

    Returns:
        uint8 [B, 3, H, W].
    """
    return torch.where(mask >= 0.5, to_u8(output), image_u8)


def psnr(mean_squared_error: Tensor) -> Tensor:
    """PSNR in dB from errors whose full range is 1, and at most `MAX_PSNR_DB`.

    Two identical images score that instead of infinity, which no mean survives (64x64 images that differ at all score
    89 dB or less).
    """
    return (-10 * mean_squared_error.log10()).clamp(max=MAX_PSNR_DB)


def _mean_over(values: Tensor, region: Tensor) -> Tensor:
    return (values * region).sum((1, 2, 3)) / (region.sum((1, 2, 3)) * values.shape[1])


# `it` is a `Filled`.
HOLE_PSNR = Metric("hole PSNR", 2, "higher", lambda it: psnr(it.mean_in_hole(it.difference.square())), "dB")
PSNR = Metric("PSNR", 2, "higher", lambda it: psnr(it.mean(it.difference.square())), "dB")
# The mean absolute difference, with the full range as 1.
HOLE_L1 = Metric("hole L1", 4, "lower", lambda it: it.mean_in_hole(it.difference.abs()))
L1 = Metric("L1", 4, "lower", lambda it: it.mean(it.difference.abs()))
# Wang et al. 2004 (Gaussian window of 11x11, sigma 1.5) on each colour channel; the whole image's is the mean of its
# map, borders included by reflection, the hole's the mean of the same map over the hole's pixels.
HOLE_SSIM = Metric("hole SSIM", 4, "higher", lambda it: it.mean_in_hole(it.similarity))
SSIM = Metric("SSIM", 4, "higher", lambda it: it.mean(it.similarity))
