"""Owns the filling of images at their own size, several of one size at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from inpaint.evaluation.metrics import to_u8
from inpaint.images.given import Pixels
from inpaint.images.job import FillJob
from inpaint.photographs.network import Network

# Images of one size go through the generator together, up to this many pixels.
_BATCH_PIXELS = 2**20


def fill_whole(jobs: Sequence[FillJob], network: Network) -> list[Pixels]:
    """The images with their holes filled.

    Raises:
        InpaintError: too little memory, or a generator whose output is not finite.
    """
    filled = [job.pixels for job in jobs]
    by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, job in enumerate(jobs):
        if job.hole.any():
            by_size[job.hole.shape].append(index)
    for (height, width), indices in by_size.items():
        batch_size = min(max(1, _BATCH_PIXELS // (height * width)), len(indices))
        network.require_memory(height, width, batch_size)
        for start in range(0, len(indices), batch_size):
            batch = indices[start : start + batch_size]
            for index, output in zip(batch, _outputs([jobs[index] for index in batch], network), strict=True):
                filled[index] = jobs[index].composite(output)
    return filled


def _outputs(jobs: list[FillJob], network: Network) -> NDArray[np.uint8]:
    """The generator's images for jobs of one size: [B, H, W, 3]."""
    (height, width), px = jobs[0].hole.shape, network.multiple_px
    # Reflected, not filled with a colour: the generator has never seen a frame around an image. NumPy reflects
    # as often as it must, and repeats the only row or column of an image that has no more.
    margin = ((0, 0), (0, -height % px), (0, -width % px))
    rgb = np.pad(np.stack([job.rgb() for job in jobs]), (*margin, (0, 0)), mode="reflect")
    hole = np.pad(np.stack([job.hole for job in jobs]), margin, mode="reflect")
    images = torch.from_numpy(rgb).to(network.device).permute(0, 3, 1, 2).float() / 255
    output = network(images, torch.from_numpy(hole).to(network.device)[:, None].float())
    return to_u8(output)[:, :, :height, :width].permute(0, 2, 3, 1).cpu().numpy()
