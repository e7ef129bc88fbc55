"""Owns the metrics: how far filled images are from the true ones, and how figures of images become one of a split.

Which there are is the table `METRICS` of `inpaint/tables.py`. Those of this module judge the 8-bit composite, the image
a user gets, in the hole and in the whole image. An empty hole has no figures: they are nan, never the infinity or zero
that would flatter a mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inpaint import tables
from inpaint.errors import InpaintError

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

    @classmethod
    def by(
        cls,
        fill: Callable[[Tensor, Tensor], Tensor],
        images_u8: NDArray[np.uint8],
        masks: Tensor,
        device: torch.device | str = "cpu",
    ) -> Filled:
        """What `fill` makes of some images.

        Args:
            fill: (masked_image [B, 3, H, W] in [0, 1], mask [B, 1, H, W]) -> output [B, 3, H, W]; a network in eval
                mode.
            images_u8: [B, H, W, 3], filled at once.
            masks: float [B, 1, H, W], 1 in the hole.
            device: where `fill` wants its tensors.
        """
        image, mask = torch.from_numpy(images_u8).to(device).permute(0, 3, 1, 2), masks.to(device)
        with torch.no_grad():
            output = fill(image.float() / 255 * (1 - mask), mask)
        return cls(composite_u8(output, image, mask), image, mask, output)

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

    @cached_property
    def raw(self) -> Filled:
        """The same with the whole output, rounded, in the composite's place."""
        return Filled(to_u8(self.output), self.image, self.mask, self.output)

    def energy_in_hole(self, image_u8: Tensor) -> Tensor:
        """The squared differences of neighbouring pixels, both in the hole, summed over it: [B], full range as 1."""
        values = image_u8.to(self.precision) / 255
        across = values.diff(dim=3).square() * self.hole[..., 1:] * self.hole[..., :-1]
        down = values.diff(dim=2).square() * self.hole[..., 1:, :] * self.hole[..., :-1, :]
        return across.sum((1, 2, 3)) + down.sum((1, 2, 3))

    def mean_in_hole(self, values: Tensor) -> Tensor:
        """The mean of `values` [B, C, H, W] over the pixels of each hole: [B], nan where it is empty."""
        return _mean_over(values, self.hole)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` [B, C, H, W] over each whole image: [B]."""
        return _mean_over(values, torch.ones_like(self.hole))


@dataclass(frozen=True)
class Metric:
    """A figure of a set of images: the mean of each image's own, or a ratio of two sums over the set.

    What is gathered on the way to it, the state, is a vector that images and processes add to. A figure that only the
    whole set has, such as a distance of distributions, is a subclass with another `state_size`, `rows` and `compute`.

    Attributes:
        heading: its name in tables.
        decimals: how many are shown.
        better: which direction is; `one`: neither, it should be 1.
        per_image: the figure of each image, [B] float; nan where an image has none.
        divisor: what the sum of `per_image` is divided by, of each image, [B] float; None: 1, which makes it a mean.
        unit: shown behind the figure in a sentence.
        state_size: how many float64 numbers the state is.
    """

    heading: str
    decimals: int
    better: Literal["higher", "lower", "one"]
    per_image: Callable[[Filled], Tensor] | None = None
    unit: str = ""
    state_size: int = 2
    divisor: Callable[[Filled], Tensor] | None = None

    def rows(self, filled: Filled) -> Tensor:
        """What each image adds to the state: float64 [B, state_size] on the CPU, here the two sums' terms."""
        assert self.per_image is not None
        values = self.per_image(filled).cpu().double()  # Apple's GPUs have no float64
        if values.shape != (num := len(filled.mask),):
            raise ValueError(f"it returned {list(values.shape)}; it must be [{num}], a figure of each image")
        divisors = torch.ones_like(values) if self.divisor is None else self.divisor(filled).cpu().double()
        return torch.stack([values, divisors], dim=1).where(values.isfinite()[:, None], 0.0)

    def compute(self, state: Tensor) -> Tensor:
        """The figures [...] of states [..., state_size], once everything is added up; nan where no image had one."""
        return state[..., 0] / state[..., 1]

    def description(self) -> dict[str, str | int]:
        """How its figures are shown, for who reads them as data."""
        return {"heading": self.heading, "decimals": self.decimals, "better": self.better, "unit": self.unit}

    def text(self, value: float) -> str:
        return "-" if math.isnan(value) else f"{value:.{self.decimals}f}"


@dataclass(frozen=True)
class Variety(Metric):
    """How much the holes' mean colours differ from image to image: the fills' standard deviation over the truth's.

    1 is right; near 0 one fill stands in every hole, whatever is around it.
    """

    state_size: int = 13

    def rows(self, filled: Filled) -> Tensor:
        colours = [
            (image.to(filled.precision) / 255 * filled.hole).sum((2, 3)) / filled.hole.sum((2, 3))
            for image in (filled.composite, filled.image)
        ]
        both = torch.cat(colours, dim=1).cpu().double()
        rows = torch.cat([torch.ones(len(both), 1, dtype=torch.float64), both, both.square()], dim=1)
        return rows.where(both.isfinite().all(1, keepdim=True), 0.0)

    def compute(self, state: Tensor) -> Tensor:
        mean, mean_square = (state[..., 1:] / state[..., :1]).chunk(2, dim=-1)
        fills, truth = (mean_square - mean.square()).clamp(min=0).unflatten(-1, (2, 3)).sum(-1).unbind(-1)
        return (fills / truth).sqrt()


def all_metrics() -> dict[str, Metric]:
    """Every metric of the table by its name, in the order in which they are shown."""
    return {name: tables.load(tables.METRICS, name) for name in tables.METRICS}


def rows_of(metrics: Mapping[str, Metric], filled: Filled) -> list[Tensor]:
    """Each metric's `rows`; InpaintError names the one that fails."""
    rows = []
    for name, metric in metrics.items():
        try:
            rows.append(metric.rows(filled))
        except Exception as error:
            told = f"metric {name} failed: {type(error).__name__}: {error} (--debug shows where)"
            raise InpaintError(told) from error
    return rows


def sentence(figures: Mapping[str, float]) -> str:
    """Figures in words: `hole PSNR 21.35 dB, hole L1 0.0712`."""
    known = (
        (metric, figures[name]) for name, metric in {**all_metrics(), "distance": DISTANCE}.items() if name in figures
    )
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
# Gradient energy in the hole, the fill's over the truth's: far below 1 is blur, above it noise.
SHARPNESS = Metric(
    "sharpness",
    3,
    "one",
    lambda it: it.energy_in_hole(it.composite),
    divisor=lambda it: it.energy_in_hole(it.image),
)
SSIM = Metric("SSIM", 4, "higher", lambda it: it.mean(it.similarity))

# Of two sets' features (see `inpaint.evaluation.features`), computed by who has them.
DISTANCE = Metric("distance", 2, "lower")

# Of the validation images after each epoch, for `inpaint.training.health`; in no table.
VARIETY = Variety("variety", 3, "one")


def output_metrics() -> dict[str, Metric]:
    """Figures of the raw output over the whole image, which only `inpaint evaluate` shows."""
    of_all = {"psnr": PSNR, "l1": L1, "ssim": SSIM}
    return {f"output_{name}": replace(metric, per_image=_of_raw(metric)) for name, metric in of_all.items()}


def _of_raw(metric: Metric) -> Callable[[Filled], Tensor]:
    per_image = metric.per_image
    assert per_image is not None
    return lambda it: per_image(it.raw)
