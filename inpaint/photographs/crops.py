"""Owns the filling of a photograph larger than what a generator was trained on: hole by hole, each at its own scale."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from inpaint.images.given import Pixels
from inpaint.images.job import FillJob
from inpaint.photographs.border import met
from inpaint.photographs.detail import transfer
from inpaint.photographs.network import Network
from inpaint.photographs.scaling import Scaled, enlarged, laid, scales
from inpaint.photographs.windows import Window, plan

# Windows are held at their full size together up to this many pixels.
_HELD_PIXELS = 2**21
# A fill's colours are made to meet those around it as seen at up to this many pixels.
_MET_PIXELS = 2**20


def fill_crops(job: FillJob, network: Network, detail: bool) -> Pixels:
    """The photograph with its hole filled.

    Args:
        network: one that knows its `size_px`.
        detail: whether to give the fill the detail of what surrounds it.

    Raises:
        InpaintError: too little memory, or a generator whose output is not finite.
    """
    assert network.size_px is not None
    hole = job.hole
    if not hole.any():
        return job.pixels
    with network.within_memory(*hole.shape):
        return job.composite(_filled(job, network, network.size_px, detail))


def _filled(job: FillJob, network: Network, size_px: int, detail: bool) -> NDArray[np.uint8]:
    hole = job.hole
    filled, unknown = job.rgb().copy(), hole.copy()
    for windows in plan(hole, size_px):
        alike: dict[tuple[int, ...], list[Window]] = defaultdict(list)
        for window in windows:
            alike[window.height, window.width, window.factor].append(window)
        for (height, width, _), same in alike.items():
            num = max(1, _HELD_PIXELS // (height * width))
            for start in range(0, len(same), num):
                batch = [Crop(window, filled, unknown, hole, network) for window in same[start : start + num]]
                masks = torch.stack([1 - crop.smallest.known.float() for crop in batch])
                images = torch.stack([crop.smallest.values for crop in batch])
                for crop, output in zip(batch, network(images, masks), strict=True):
                    crop.set_in(filled, output, detail)
        for window in windows:
            unknown[window.place] &= ~window.targets(unknown[window.place])
    return filled


class Crop:
    """One window of a photograph on its way through the generator."""

    def __init__(
        self,
        window: Window,
        filled: NDArray[np.uint8],
        unknown: NDArray[np.bool_],
        hole: NDArray[np.bool_],
        network: Network,
    ) -> None:
        self.window, device = window, network.device
        px = window.factor * network.multiple_px
        # Reflected, as by the pipeline: the generator has never seen a frame around an image.
        margin = ((0, -window.height % px), (0, -window.width % px))
        image = np.pad(filled[window.place], (*margin, (0, 0)), mode="reflect")
        here = unknown[window.place]
        known = torch.from_numpy(np.pad(~here, margin, mode="reflect")).to(device)[None]
        # On top of them only what is the photograph's own: reflections would be seen twice.
        self.real = torch.from_numpy(np.pad(~hole[window.place], margin)).to(device)[None]
        self.targets = window.targets(here)
        self.target = torch.from_numpy(np.pad(self.targets, margin)).to(device)[None]
        self.scales = scales(torch.from_numpy(image).to(device).permute(2, 0, 1).float() / 255, known, window.factor)

    @property
    def smallest(self) -> Scaled:
        return self.scales[-1]

    def set_in(self, filled: NDArray[np.uint8], output: Tensor, detail: bool) -> None:
        """Set what the generator made of the window into the photograph."""
        fill = torch.where(self.smallest.known, self.smallest.values, output.float())
        fill += met(fill, self.smallest.known)
        if detail and len(self.scales) > 1:
            fill = transfer(self.scales, fill, self.target, self.real)
        else:
            for scaled in reversed(self.scales[:-1]):
                fill = laid(enlarged(fill), scaled)
        if len(self.scales) > 1:
            fill += self._met(fill)
        part = filled[self.window.place]
        pixels = fill.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0)[: part.shape[0], : part.shape[1]]
        part[self.targets] = pixels.cpu().numpy()[self.targets]

    def _met(self, fill: Tensor) -> Tensor:
        """What to add to the enlarged fill: seen at a smaller scale where the window is large."""
        level = next(level for level, scaled in enumerate(self.scales) if scaled.share.numel() <= _MET_PIXELS)
        scaled = self.scales[level]
        reduced = avg_pool2d(fill, 2**level)
        surface = met(torch.where(scaled.known, scaled.values, reduced), scaled.known)
        return surface if not level else interpolate(surface[None], fill.shape[1:], mode="bilinear")[0]
