"""Owns what every discriminator returns, and the crop of the windows it may look through."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Judgement(NamedTuple):
    """How real images look to a discriminator."""

    logits: Tensor
    """[B, 1] or [B, 1, h, w], above 0 for real; not squashed."""
    features: list[Tensor]
    """Activations on the way there, each [B, ...], for losses that compare them."""

    def chunk(self, chunks: int) -> list[Judgement]:
        """The judgement on each of equal parts of the batch."""
        parts = zip(*(tensor.chunk(chunks) for tensor in (self.logits, *self.features)), strict=True)
        return [Judgement(logits, features) for logits, *features in parts]


def crop(image: Tensor, windows: Tensor, size: int) -> Tensor:
    """The local windows [B, C, size, size] of [B, C, H, W] at `windows` [B, 2] (x, y), in one gather."""
    batch, channels, _, width = image.shape
    offsets = torch.arange(size, device=image.device)
    rows, columns = windows[:, 1, None] + offsets, windows[:, 0, None] + offsets
    places = (rows[:, :, None] * width + columns[:, None, :]).reshape(batch, size * size, 1)
    # Pixel by pixel, as the images lie in memory; so the windows do too.
    local = image.permute(0, 2, 3, 1).flatten(1, 2).gather(1, places.expand(-1, -1, channels))
    return local.reshape(batch, size, size, channels).permute(0, 3, 1, 2)
