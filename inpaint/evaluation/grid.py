"""Owns the sample grid: the same images after each epoch, side by side in one image for a person to look at."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

COLUMNS = ("original", "masked", "output", "composite")

_BLOCKS = 3
_SMALLEST_CELL_PX, _LARGEST_CELL_PX = 128, 256
_GAP_PX, _BLOCK_GAP_PX, _HEADER_PX = 4, 28, 30
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


def sample_grid(
    image: NDArray[np.uint8], masked_image: NDArray[np.uint8], output: NDArray[np.uint8], composite: NDArray[np.uint8]
) -> Image.Image:
    """All images in up to three blocks of four labelled columns: original, masked, output, composite.

    Small images are enlarged by a whole number to 128 px or so, large ones reduced to 256.

    Args:
        image, masked_image, output, composite: uint8 [N, H, W, 3], the same N >= 1 images.
    """
    return grid(dict(zip(COLUMNS, (image, masked_image, output, composite), strict=True)), _BLOCKS)


def grid(columns: Mapping[str, NDArray[np.uint8]], num_blocks: int) -> Image.Image:
    """The images of each column, under its label, uint8 [N, H, W, 3] all; in up to `num_blocks` blocks."""
    num, height, width, _ = next(iter(columns.values())).shape
    scale = max(1, _SMALLEST_CELL_PX // max(height, width)) * min(1.0, _LARGEST_CELL_PX / max(height, width))
    cell = max(1, round(width * scale)), max(1, round(height * scale))
    num_rows = math.ceil(num / num_blocks)
    num_blocks = math.ceil(num / num_rows)
    step_x, step_y = cell[0] + _GAP_PX, cell[1] + _GAP_PX
    block_width = step_x * len(columns) - _GAP_PX + _BLOCK_GAP_PX
    sheet = Image.new(
        "RGB", (num_blocks * block_width - _BLOCK_GAP_PX + 2 * _GAP_PX, _HEADER_PX + num_rows * step_y), _PAPER
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(min(18, cell[0] // 6 + 4))
    for block in range(num_blocks):
        for column, (label, images) in enumerate(columns.items()):
            left = _GAP_PX + block * block_width + column * step_x
            draw.text((left + cell[0] / 2, _HEADER_PX / 2), label, fill=_INK, font=font, anchor="mm")
            for row, image in enumerate(images[block * num_rows : (block + 1) * num_rows]):
                resized = Image.fromarray(image).resize(cell, Image.Resampling.BICUBIC)
                sheet.paste(resized, (left, _HEADER_PX + row * step_y))
    return sheet
