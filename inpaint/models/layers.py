"""Owns the blocks both networks are made of: a convolution, its normalisation and ReLU (GLCIC, tables 1 to 3)."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

Norm = Literal["batch", "group", "none"]


def normalisation(norm: Norm, channels: int) -> nn.Module:
    """The layer after a convolution. `group` is the one that does not look across pictures."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    return nn.Identity()


def convolution(
    in_channels: int, out_channels: int, kernel: int, norm: Norm, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution, normalisation, ReLU; padded so that the size is only divided by the stride."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, dilation * (kernel // 2), dilation, bias=True),
        normalisation(norm, out_channels),
        nn.ReLU(inplace=True),
    )


def upsampling(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    """Transposed convolution 4x4 that doubles height and width, normalisation, ReLU."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1),
        normalisation(norm, out_channels),
        nn.ReLU(inplace=True),
    )
