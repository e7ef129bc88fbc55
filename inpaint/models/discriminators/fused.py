"""Owns `fused`, the paper's pair: one branch looks at the whole image, one at the window with the hole, one layer fuses
them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from inpaint.config import ModelConfig
from inpaint.models.discriminators.judgement import Judgement, crop
from inpaint.models.layers import convolution

# Each branch halves the image until the global one sees about 4 x 4 (paper size 64: four times), so that the fully
# connected heads stay the same size at any image size.
FINAL_SIZE_PX = 4


class FusedDiscriminator(nn.Module):
    """Tell real images from filled ones (paper, "The discriminator network"; kernels of GLCIC, tables 2 and 3).

    Args:
        model: `width` is the first layer's channels (paper: 64), which double up to 8 times that; with
            `global_average_pooling` the heads pool instead of flattening (Table 1).
        image_size: side of the image.
        window_px: side of the local window.
    """

    def __init__(self, model: ModelConfig, image_size: int, window_px: int) -> None:
        super().__init__()
        self.window_px = window_px
        num_layers = max(4, math.ceil(math.log2(image_size / FINAL_SIZE_PX)))
        self.global_branch = _branch(model, image_size, num_layers)
        self.local_branch = _branch(model, window_px, num_layers)
        self.fusion = nn.Linear(2 * 32 * model.width, 1)

    def forward(self, image: Tensor, mask: Tensor, windows: Tensor) -> Judgement:
        """How real the images are; the features are those after each convolution, the local branch's first.

        Args:
            image: [B, 3, image_size, image_size] in [0, 1].
            mask: [B, 1, image_size, image_size], 1 in the hole; not looked at.
            windows: [B, 2] int64, x and y of each image's local window.
        """
        heads, features = [], []
        local = crop(image, windows, self.window_px)
        for branch, values in ((self.local_branch, local), (self.global_branch, image)):
            for layer in branch:
                values = layer(values)
                if isinstance(layer, nn.Sequential):
                    features.append(values)
            heads.append(values)
        return Judgement(self.fusion(torch.cat(heads, dim=1)), features)


def _branch(model: ModelConfig, size_px: int, num_layers: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for layer in range(num_layers):
        out_channels = model.width * min(8, 2**layer)
        layers.append(convolution(channels, out_channels, 5, model.norm, stride=2))
        channels, size_px = out_channels, math.ceil(size_px / 2)
    if model.global_average_pooling:
        layers.append(nn.AdaptiveAvgPool2d(1))
        size_px = 1
    head = nn.Linear(channels * size_px * size_px, 32 * model.width)
    return nn.Sequential(*layers, nn.Flatten(), head, nn.ReLU(inplace=True))
