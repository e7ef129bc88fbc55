"""Owns the blocks both networks are made of: a convolution, its normalisation and ReLU (GLCIC, tables 1 to 3)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["batch", "group", "none"]


def normalisation(norm: Norm, channels: int) -> nn.Module:
    """The layer after a convolution. `group` is the one that does not look across images."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        # 16 channels a group (Wu & He 2018, table 3); on CPUs fewer, not filling a vector, take five times as long.
        return nn.GroupNorm(math.gcd(max(1, channels // 16), channels), channels)
    return nn.Identity()


class Convolution(nn.Conv2d):
    """A convolution of odd kernel and "same" padding that leaves out the taps that can only fall on padding.

    On maps no larger than the dilation that is all but the middle one: at 64 px the paper's layer of dilation 16 sees
    16 x 16, and a ninth of its work remains. Result and gradients are the same, but for one fault that it avoids: in
    bfloat16 on CPUs (oneDNN, torch 2.13) the gradients of such taps are not zero but whatever the memory held, at times
    not a number (seen: kernel 5 on 2 x 2).
    """

    def forward(self, input: Tensor) -> Tensor:
        middle, dilation, weight = self.kernel_size[0] // 2, self.dilation[0], ordered(self.weight)
        if torch.compiler.is_exporting():  # a choice by size would be the same ever after
            return self._conv_forward(input, weight, self.bias)
        reach = min(middle, (max(input.shape[-2:]) - 1) // dilation)
        if reach == middle:
            return self._conv_forward(input, weight, self.bias)
        taps = slice(middle - reach, middle + reach + 1)
        return nn.functional.conv2d(
            input, weight[:, :, taps, taps], self.bias, self.stride, dilation * reach, self.dilation
        )


class TransposedConvolution(nn.ConvTranspose2d):
    """One that doubles height and width."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool) -> None:
        super().__init__(in_channels, out_channels, kernel_size=4, stride=2, padding=1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        return nn.functional.conv_transpose2d(input, ordered(self.weight), self.bias, stride=2, padding=1)


def ordered(weight: Tensor) -> Tensor:
    """On CPUs channels last, whatever order it lies in: DeepSpeed keeps weights in the plain one, and for that other
    kernels run, which round otherwise."""
    if weight.device.type != "cpu" or torch.compiler.is_exporting():
        return weight
    # Unlike `contiguous`, it also says in the strides which order the weight of a single channel is in.
    return weight.to(memory_format=torch.channels_last)


class Gate(nn.Module):
    """The first half of the channels after their ReLU, each times the sigmoid of one of the second half: where a value
    counts is learnt from what surrounds it, as whether it is known (Yu et al. 2019, gated convolution)."""

    def forward(self, input: Tensor) -> Tensor:
        features, gates = input.chunk(2, dim=1)
        return features.relu() * gates.sigmoid()


def convolution(
    in_channels: int,
    out_channels: int,
    kernel: int,
    norm: Norm,
    stride: int = 1,
    dilation: int = 1,
    is_gated: bool = False,
) -> nn.Sequential:
    """Convolution, normalisation, ReLU or gate; padded so that the size is only divided by the stride.

    Without a bias before BatchNorm, which subtracts it again: its gradient is rounding alone, which Adam would take for
    a direction, on each machine another.
    """
    bias, num = norm != "batch", out_channels * (1 + is_gated)
    return nn.Sequential(
        Convolution(in_channels, num, kernel, stride, dilation * (kernel // 2), dilation, bias=bias),
        normalisation(norm, num),
        Gate() if is_gated else nn.ReLU(inplace=True),
    )


def upsampling(in_channels: int, out_channels: int, norm: Norm, is_gated: bool = False) -> nn.Sequential:
    """Transposed convolution 4x4 that doubles height and width, normalisation, ReLU or gate."""
    num = out_channels * (1 + is_gated)
    return nn.Sequential(
        TransposedConvolution(in_channels, num, bias=norm != "batch"),
        normalisation(norm, num),
        Gate() if is_gated else nn.ReLU(inplace=True),
    )
