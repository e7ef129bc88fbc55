"""Owns what an exported file computes: pixels and a mask of any size in, the filled pixels out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inpaint.models.generator import Generator

# Of 255; brighter is hole, as everywhere.
WHITE = 128


class PixelGenerator(nn.Module):
    """A generator between bytes, as the pipeline uses it with strategy `whole`.

    Known pixels are copied from the input and never computed. Sizes that do not fit the architecture are padded by
    reflection. All sizes are read from the inputs and none is decided by, so that a graph of it holds for all.
    """

    def __init__(self, generator: Generator, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.generator, self.dtype = generator.to(dtype).eval(), dtype

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """The filled image, uint8 [B, H, W, 3].

        Args:
            image: uint8 [B, H, W, 3].
            mask: uint8 [B, H, W]; 128 or more: hole.
        """
        height, width = image.shape[1:3]
        hole = mask.float() >= WHITE  # as floats, since not every runtime compares bytes
        rows, columns = (_reflected(size, self.generator.multiple_px, image.device) for size in (height, width))
        masks = hole[:, None].to(self.dtype).index_select(2, rows).index_select(3, columns)
        images = image.permute(0, 3, 1, 2).index_select(2, rows).index_select(3, columns).to(self.dtype) / 255
        output = self.generator(images * (1 - masks), masks)[:, :, :height, :width]
        fill = output.float().clamp(0, 1).mul(255).round().to(torch.uint8)
        return torch.where(hole[..., None], fill.permute(0, 2, 3, 1), image)


def _reflected(size: int, multiple: int, device: torch.device) -> Tensor:
    """Which of `size` rows stands in each place of the next multiple, [places]: reflected as often as it must be."""
    places = torch.arange((size + multiple - 1) // multiple * multiple, device=device)
    # A tensor, since exporters take a modulus that depends on the size only so; a single row is its own reflection.
    period = torch.full((1,), 2 * size - 2, dtype=torch.int64, device=device).clamp(min=1)
    places = places % period
    return torch.minimum(places, period - places).clamp(max=size - 1)
