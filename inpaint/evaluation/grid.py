"""Owns the sample grid: the same images after each epoch, side by side in one image for a person to look at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

COLUMNS = ("original", "masked", "output", "composite")

_BLOCKS = 3
_SMALLEST_CELL_PX, _LARGEST_CELL_PX = 128, 256
_GAP_PX, _BLOCK_GAP_PX, _HEADER_PX = 4, 28, 30
_SMALLEST_FONT = 8
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
    cell = _cell(width, height)
    num_rows = math.ceil(num / num_blocks)
    num_blocks = math.ceil(num / num_rows)
    step_x, step_y = cell[0] + _GAP_PX, cell[1] + _GAP_PX
    block_width = step_x * len(columns) - _GAP_PX + _BLOCK_GAP_PX
    sheet = Image.new(
        "RGB", (num_blocks * block_width - _BLOCK_GAP_PX + 2 * _GAP_PX, _HEADER_PX + num_rows * step_y), _PAPER
    )
    draw = ImageDraw.Draw(sheet)
    for block in range(num_blocks):
        for column, (label, images) in enumerate(columns.items()):
            left = _GAP_PX + block * block_width + column * step_x
            draw.text((left + cell[0] / 2, _HEADER_PX / 2), label, fill=_INK, font=_font(label, cell[0]), anchor="mm")
            for row, image in enumerate(images[block * num_rows : (block + 1) * num_rows]):
                resized = Image.fromarray(image).resize(cell, Image.Resampling.BICUBIC)
                sheet.paste(resized, (left, _HEADER_PX + row * step_y))
    return sheet


def cells(sheet: Image.Image, size: int, columns: Sequence[str], most: int) -> dict[str, NDArray[np.uint8]]:
    """Of a `grid` of square images, the first `most` rows of its first block, by column: uint8 [n, C, C, 3].

    Args:
        sheet: what `grid` made.
        size: the side of the images that it was made of; theirs in the sheet, C, may be another.
        columns: their labels, as `grid` had them.
        most: how many rows at most.
    """
    side, _ = _cell(size, size)
    step = side + _GAP_PX
    num_rows, pixels = min(most, (sheet.height - _HEADER_PX) // step), np.asarray(sheet)
    return {
        name: np.stack(
            [pixels[_HEADER_PX + row * step :, _GAP_PX + column * step :][:side, :side] for row in range(num_rows)]
        )
        for column, name in enumerate(columns)
    }


def _cell(width: int, height: int) -> tuple[int, int]:
    """Width and height at which images are shown."""
    scale = max(1, _SMALLEST_CELL_PX // max(height, width)) * min(1.0, _LARGEST_CELL_PX / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _font(label: str, width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The largest in which a label is no wider than its column, if there is one that can be read."""
    fonts = (ImageFont.load_default(size) for size in range(min(18, width // 6 + 4), _SMALLEST_FONT, -1))
    return next((font for font in fonts if font.getlength(label) <= width), ImageFont.load_default(_SMALLEST_FONT))
