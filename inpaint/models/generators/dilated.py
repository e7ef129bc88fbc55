"""Owns `dilated`, the paper's generator ("The generator network"; layers and kernels of GLCIC, table 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inpaint.models.generator import GeneratorConfig
from inpaint.models.layers import Convolution, convolution, upsampling

DILATIONS = (2, 4, 8, 16)


class DilatedGenerator(nn.Sequential):
    """Two strided convolutions, a bottleneck of dilated ones, two transposed ones, a sigmoid at the end."""

    multiple_px = 4

    def __init__(self, config: GeneratorConfig) -> None:
        one, two, four, norm = config.width, 2 * config.width, 4 * config.width, config.norm
        super().__init__(
            convolution(3 + config.mask_channel, one, 5, norm),
            convolution(one, two, 3, norm, stride=2),
            convolution(two, two, 3, norm),
            convolution(two, four, 3, norm, stride=2),
            convolution(four, four, 3, norm),
            convolution(four, four, 3, norm),
            *(convolution(four, four, 3, norm, dilation=dilation) for dilation in DILATIONS[: config.bottleneck]),
            convolution(four, four, 3, norm),
            convolution(four, four, 3, norm),
            upsampling(four, two, norm),
            convolution(two, two, 3, norm),
            upsampling(two, one, norm),
            convolution(one, one // 2, 3, norm),
            Convolution(one // 2, 3, 3, padding=1),
        )
        self.mask_channel = config.mask_channel
        # Measured in float32 on a CPU: three times the first layer's activations, less without normalisation.
        self.inference_bytes_per_px = 10 * config.width + 120

    def forward(self, masked_image: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        inputs = torch.cat([masked_image, mask], dim=1) if self.mask_channel else masked_image
        return torch.sigmoid(super().forward(inputs))
