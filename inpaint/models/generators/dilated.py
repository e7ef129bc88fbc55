"""Owns `dilated`, the paper's generator ("The generator network"; layers and kernels of GLCIC, table 1)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from inpaint.models.generator import GeneratorConfig
from inpaint.models.layers import Convolution, convolution, upsampling

DILATIONS = (2, 4, 8, 16)


class DilatedGenerator(nn.Sequential):
    """Two strided convolutions, a bottleneck of dilated ones, two transposed ones, a sigmoid at the end."""

    multiple_px = 4

    def __init__(self, config: GeneratorConfig, is_gated: bool = False, num_more: int = 0) -> None:
        one, two, four, norm = config.width, 2 * config.width, 4 * config.width, config.norm
        layer, up = (
            partial(convolution, norm=norm, is_gated=is_gated),
            partial(upsampling, norm=norm, is_gated=is_gated),
        )
        super().__init__(
            layer(3 + config.mask_channel + num_more, one, 5),
            layer(one, two, 3, stride=2),
            layer(two, two, 3),
            layer(two, four, 3, stride=2),
            layer(four, four, 3),
            layer(four, four, 3),
            *(layer(four, four, 3, dilation=dilation) for dilation in DILATIONS[: config.bottleneck]),
            layer(four, four, 3),
            layer(four, four, 3),
            up(four, two),
            layer(two, two, 3),
            up(two, one),
            layer(one, one // 2, 3),
            Convolution(one // 2, 3, 3, padding=1),
        )
        self.mask_channel = config.mask_channel
        # Measured in float32 on a CPU: three times the first layer's activations, less without normalisation.
        self.inference_bytes_per_px = 10 * config.width + 120

    def forward(self, masked_image: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        inputs = torch.cat([masked_image, mask], dim=1) if self.mask_channel else masked_image
        return torch.sigmoid(super().forward(inputs))
