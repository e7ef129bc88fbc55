"""Owns `smooth_prior`: the paper's layers, correcting a smooth fill of the hole instead of painting into black.

The smooth fill is known without learning, so that a short training is spent on what it lacks: structure and texture.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

from inpaint.models.generator import GeneratorConfig
from inpaint.models.generators.dilated import DilatedGenerator

# Halvings, enough for an image of 1,024 px to end in one cell. Fixed, so that an exported graph has no size in it.
NUM_LEVELS = 10
# Of the range of a colour, what the last layer's 1 stands for: where it starts to learn, corrections are small.
CORRECTION_SCALE = 0.5
# Side of the tile of noise: larger than any texture, so that its return is not seen.
NOISE_PX = 128


def smooth_fill(masked_image: Tensor, mask: Tensor) -> Tensor:
    """The image with its hole filled from averages of known pixels, the coarser the farther they are.

    Averages over 2 x 2 cells, again and again, each over its known part (pull); then upwards bilinearly, each level
    giving the next finer one what that does not know (push; Gortler et al. 1996). It has no gradient.

    Args:
        masked_image: [B, 3, H, W], black (0) in the hole.
        mask: [B, 1, H, W], 1 in the hole.

    Returns:
        [B, 3, H, W], equal to the image outside the hole.
    """
    with torch.no_grad():
        # Colours times their known share, and the share itself, pooled as one tensor.
        level = torch.cat([masked_image, 1 - mask], dim=1)
        levels, sizes = [level], [(level.shape[2], level.shape[3])]
        for _ in range(NUM_LEVELS):
            # By unknown. Of an odd number of rows the last needs one; a second keeps every level at two rows or more,
            # for an exported graph takes a size of 1 for fixed.
            level = _halved(pad(level, (0, 2, 0, 2)))
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
            # What a cell knows counts in full from here on, however little it is; else the hole's rim would count less.
            share = level[:, 3:]
            level = torch.cat([level[:, :3] / share.clamp(min=1e-6), (share > 0).to(level.dtype)], dim=1)
            levels.append(level)
        fill = levels.pop()[:, :3]
        for level in reversed(levels):
            # What was only padded repeats the last row and column, as at an image's edge.
            for axis, size in zip((2, 3), sizes.pop(), strict=True):
                places = torch.arange(fill.shape[axis], device=fill.device).clamp(max=size - 1)
                fill = fill.index_select(axis, places)
            above = interpolate(fill, scale_factor=2, mode="bilinear", align_corners=False)
            known = level[:, 3:]
            fill = level[:, :3] * known + above[:, :, : level.shape[2], : level.shape[3]] * (1 - known)
        return fill


def _halved(level: Tensor) -> Tensor:
    """The means of 2 x 2 cells, [B, 4, H // 2, W // 2]."""
    if torch.compiler.is_exporting():
        # onnxruntime-web 1.30 takes padding into a pooling, and then refuses it for being as large as the pool.
        return conv2d(level, level.new_full((4, 1, 2, 2), 0.25), stride=2, groups=4)
    return avg_pool2d(level, 2)


class SmoothPriorGenerator(DilatedGenerator):
    """The paper's layers without their sigmoid see the filled image and the mask; what they give is added in the hole.

    There they also see noise, always the same: where all around is alike, as in a dark sea, convolutions of stride 4
    could else paint nothing but a pattern of 4 px. What a strided layer is given is added to what comes back to its
    size, so that texture need not pass the bottleneck. The last layer starts at zero: the first output is the smooth
    fill. While training, colours may leave [0, 1], where the losses pull them back; else they are clamped.
    """

    noise: Tensor

    def __init__(self, config: GeneratorConfig, is_gated: bool = False) -> None:
        super().__init__(replace(config, mask_channel=True), is_gated, num_more=1)
        # The raw words, unlike numbers made of them, are the same in every version of numpy.
        words = np.random.Philox(key=0).random_raw(NOISE_PX**2) >> 40
        noise = torch.from_numpy(words.astype(np.float32) / 2**23 - 1).reshape(1, 1, NOISE_PX, NOISE_PX)
        self.register_buffer("noise", noise, persistent=False)
        for parameter in self[-1].parameters():
            nn.init.zeros_(parameter)
        strided = [index for index, layer in enumerate([*self][:-1]) if layer[0].stride == (2, 2)]
        self._down, self._up = strided[:2], strided[2:]
        # Measured in float32 on a CPU at widths 16 and 32; much of it is what skips the bottleneck.
        self.inference_bytes_per_px = 26 * config.width + 60

    def forward(self, masked_image: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        filled = smooth_fill(masked_image, mask)
        values, skipped = torch.cat([filled, mask, mask * self._noise_like(mask)], dim=1), []
        for index, layer in enumerate(self):
            if index in self._down:
                skipped.append(values)
            values = layer(values)
            if index in self._up:
                values = values + skipped.pop()
        output = filled + CORRECTION_SCALE * values * mask
        return output if self.training else output.clamp(0, 1)

    def _noise_like(self, mask: Tensor) -> Tensor:
        """The tile, repeated to [1, 1, H, W]."""
        rows, columns = (torch.arange(size, device=mask.device) % NOISE_PX for size in mask.shape[2:])
        return self.noise.index_select(2, rows).index_select(3, columns)
