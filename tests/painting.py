"""A generator that paints one colour and remembers what it saw; images and masks to fill."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from inpaint.evaluation.metrics import to_u8

FILL = (250, 130, 10)
FILL_GREY = Image.new("RGB", (1, 1), FILL).convert("L").getpixel((0, 0))


class Paint(nn.Module):
    """A generator that paints everything in `FILL` and remembers what it saw."""

    multiple_px = 4
    inference_bytes_per_px = 0

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, masked_image: Tensor, mask: Tensor) -> Tensor:
        assert masked_image.shape[2] % 4 == masked_image.shape[3] % 4 == 0
        self.seen.append((masked_image.clone(), mask.clone()))
        return torch.tensor(FILL).view(1, 3, 1, 1).expand_as(masked_image) / 255


def noise(mode: str, width: int, height: int, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 2**16, (height, width), dtype=np.uint16))
    channels = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}[mode]
    return Image.fromarray(random.integers(0, 256, (height, width, *channels), dtype=np.uint8))


def half(width: int, height: int) -> np.ndarray:
    """The left half is the hole."""
    hole = np.zeros((height, width), dtype=np.bool_)
    hole[:, : (width + 1) // 2] = True
    return hole


def smooth_images(num: int, size: int = 24, seed: int = 0) -> Tensor:
    """Smooth random images, uint8 [num, 3, size, size]."""
    coarse = torch.rand(num, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return to_u8(torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic"))


def mask_of(x: int, y: int, width: int, height: int, size: int = 24) -> Tensor:
    mask = torch.zeros(1, 1, size, size)
    mask[:, :, y : y + height, x : x + width] = 1
    return mask
