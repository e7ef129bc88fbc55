"""Owns what a loss is given: what the step saw of a micro batch, and the discriminator's judgements if asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from inpaint.config import LossConfig
from inpaint.models.discriminators.judgement import Judgement


@dataclass(frozen=True)
class Seen:
    """One micro batch in the turn of one network.

    A loss is a function of it to a scalar, a mean over the images so that micro batches change nothing, not weighted;
    or to None where it skips this step. All processes and micro batches must skip alike: by `step`.

    Attributes:
        image: [B, 3, S, S] in [0, 1], the real images.
        mask: [B, 1, S, S], 1 in the hole.
        output: [B, 3, S, S], the generator's; without gradient in the discriminator's turn.
        windows, real_windows: [B, 2] int64, x and y of the local windows on generated and on real images.
        step: the step's number, from 1.
        settings: of the losses.
        shows_composite: whether the discriminator sees `composite`, else `output`.
        discriminator: called with (image, mask, windows). In the generator's turn it is frozen, and gradients pass
            through it; in its own it is in training, so that each call costs a forward and a backward. With
            `in_float32=True` without autocast and not compiled, for what is differentiated twice.
        judgements: in the discriminator's turn what became `real` and `fake`, from one forward of both.
    """

    image: Tensor
    mask: Tensor
    output: Tensor
    windows: Tensor
    real_windows: Tensor
    step: int
    settings: LossConfig
    shows_composite: bool
    discriminator: Callable[..., Judgement]
    judgements: list[Judgement] | None = None

    @cached_property
    def composite(self) -> Tensor:
        """[B, 3, S, S], the hole from the output, the rest from the image."""
        return torch.where(self.mask > 0, self.output.to(self.image.dtype), self.image)

    @property
    def generated(self) -> Tensor:
        """What the discriminator sees of the output."""
        return self.composite if self.shows_composite else self.output.to(self.image.dtype)

    @cached_property
    def fake(self) -> Judgement:
        """The discriminator's judgement on `generated`."""
        if self.judgements is not None:
            return self.judgements[1]
        return self.discriminator(self.generated, self.mask, self.windows)

    @cached_property
    def real(self) -> Judgement:
        """Its judgement on `image`, of which the generator's turn has no gradient."""
        if self.judgements is not None:
            return self.judgements[0]
        return self.discriminator(self.image, self.mask, self.real_windows)


def wide(values: Tensor) -> Tensor:
    """float32 at least: bfloat16's 8 bits are too few for a mean of squares or a logarithm."""
    return values if values.dtype == torch.float64 else values.float()


def mean_in(values: Tensor, region: Tensor) -> Tensor:
    """The mean over images of each one's mean of `values` [B, C, H, W] in `region` [B, 1, H, W]; 0 where that is empty.

    So the batch may be cut into parts of equal size without changing it.
    """
    counted = (wide(region).sum(dim=(1, 2, 3)) * values.shape[1]).clamp(min=1)
    return ((values * region).sum(dim=(1, 2, 3)) / counted).mean()
