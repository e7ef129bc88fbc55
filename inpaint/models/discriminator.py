"""Owns the discriminators: one looks at the whole picture, one at the window with the hole, one layer fuses them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from inpaint.models.layers import Norm, convolution

# Each branch halves the picture until the global one sees about 4 x 4 (paper size 64: four times), so that the fully
# connected heads stay the same size at any picture size.
FINAL_SIZE_PX = 4


class Discriminator(nn.Module):
    """Tell real pictures from filled ones (paper, "The discriminator network"; kernels of GLCIC, tables 2 and 3).

    Args:
        image_size: side of the picture.
        window_px: side of the local window.
        width: channels of the first layer (paper-size networks: 64); they double up to 8 times that.
        global_average_pooling: heads of pooling and one layer instead of flattening and one layer (Table 1).
        norm: after each convolution, as in the generator.
    """

    def __init__(
        self,
        image_size: int = 64,
        window_px: int = 28,
        width: int = 64,
        global_average_pooling: bool = False,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        num_layers = max(4, math.ceil(math.log2(image_size / FINAL_SIZE_PX)))
        features = 32 * width
        self.global_branch = _branch(image_size, num_layers, width, features, global_average_pooling, norm)
        self.local_branch = _branch(window_px, num_layers, width, features, global_average_pooling, norm)
        self.fusion = nn.Linear(2 * features, 1)

    def forward(self, image: Tensor, local: Tensor) -> Tensor:
        """How real: one logit a picture, above 0 for real.

        Args:
            image: [B, 3, image_size, image_size] in [0, 1].
            local: [B, 3, window_px, window_px], a window of it.

        Returns:
            [B, 1], not squashed.
        """
        return self.fusion(torch.cat([self.local_branch(local), self.global_branch(image)], dim=1))


def _branch(
    size_px: int, num_layers: int, width: int, features: int, global_average_pooling: bool, norm: Norm
) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for layer in range(num_layers):
        out_channels = width * min(8, 2**layer)
        layers.append(convolution(channels, out_channels, 5, norm, stride=2))
        channels, size_px = out_channels, math.ceil(size_px / 2)
    if global_average_pooling:
        layers.append(nn.AdaptiveAvgPool2d(1))
        size_px = 1
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(channels * size_px * size_px, features), nn.ReLU(inplace=True)
    )
