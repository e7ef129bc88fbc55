"""Owns `patch`: a logit for each of many overlapping patches, which makes it an adversary of texture."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from inpaint.config import ModelConfig
from inpaint.models.discriminators.judgement import Judgement
from inpaint.models.layers import ordered

# Squarings of the Gram matrix, each worth as many steps of power iteration as all before it.
NUM_SQUARINGS = 5


class PatchDiscriminator(nn.Module):
    """Tell real from filled patches (Isola et al. 2017), with spectral normalisation (Miyato et al. 2018).

    Sees image and mask and needs no windows. Its strided convolutions leave maps of 8 x 8 (three at 64 px, one more for
    each doubling), so that a patch is as large a part of the image at any size. No normalisation over images, which
    would let it judge one image by the others of its batch.

    Args:
        model: `width` is the first layer's channels, which double up to 8 times it.
        image_size: side of the image.
        window_px: not looked at.
    """

    def __init__(self, model: ModelConfig, image_size: int, window_px: int) -> None:
        super().__init__()
        channels = [4, *(model.width * min(8, 2**layer) for layer in range(num_halvings(image_size)))]
        last = channels[-1]
        self.layers = nn.ModuleList(SpectralConvolution(*pair, 4, stride=2, padding=1) for pair in pairwise(channels))
        self.layers.append(SpectralConvolution(last, last, 3, padding=1))
        self.head = SpectralConvolution(last, 1, 3, padding=1)

    def forward(self, image: Tensor, mask: Tensor, windows: Tensor) -> Judgement:
        """Logits [B, 1, h, w], one for each patch; the features are those after each layer.

        Args:
            image: [B, 3, image_size, image_size] in [0, 1].
            mask: [B, 1, image_size, image_size], 1 in the hole.
            windows: not looked at.
        """
        values, features = torch.cat([2 * image - 1, mask], dim=1), []
        for layer in self.layers:
            values = leaky_relu(layer(values), 0.2)
            features.append(values)
        return Judgement(self.head(values), features)


def num_halvings(image_size: int) -> int:
    """After which at most about 8 x 8 cells are left; at least three."""
    return max(3, math.ceil(math.log2(image_size / 8)))


class SpectralConvolution(nn.Conv2d):
    """A convolution whose weight is divided by its largest singular value.

    The value is computed from the weight alone, not followed from step to step: nothing is to be saved or kept equal
    on all processes, and cutting the batch into micro batches changes nothing.
    """

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, ordered(self.weight / spectral_norm(self.weight)), self.bias)


def spectral_norm(weight: Tensor) -> Tensor:
    """The largest singular value of [out, ...] as a matrix, with its gradient; a per cent below it at the worst seen.

    By power iteration on the Gram matrix, whose repeated squares converge in few and small operations.
    """
    with torch.autocast(weight.device.type, enabled=False):
        matrix = weight.float().flatten(1) if weight.dtype != torch.float64 else weight.flatten(1)
        # DeepSpeed's weights are parts of one buffer, and products round by where in memory their factors begin (seen
        # on AMD EPYC); a tensor of its own begins as all do.
        matrix = matrix.clone()
        with torch.no_grad():
            power = matrix @ matrix.T
            for _ in range(NUM_SQUARINGS):
                power = power @ power
                power = power / power.norm()
            # Of a nearly rank-one symmetric matrix each column points along the vector looked for; take the longest.
            left = power.index_select(0, power.square().sum(dim=1).argmax(keepdim=True))
            left = left / left.norm()
        return (left @ matrix).norm()
