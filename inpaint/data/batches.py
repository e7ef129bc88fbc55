"""Owns the batch: which pictures a step sees, with which holes, and how they become tensors on the device.

Which pictures is a function of (seed, epoch, position) alone, so the position in the data is one integer and neither
the number of processes nor a resume can change what is seen.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inpaint.config import DataConfig
from inpaint.data import holes
from inpaint.data.pictures import Pictures


@dataclass(frozen=True)
class Batch:
    """Pictures on the device, with their holes and local windows.

    Attributes:
        image: [B, 3, S, S] in [0, 1].
        mask: [B, 1, S, S], 1 in the hole.
        windows: [B, 2] int64, x and y of the local window around the hole.
        real_windows: [B, 2] int64, x and y of the window the local discriminator sees of the real picture.
    """

    image: Tensor
    mask: Tensor
    windows: Tensor
    real_windows: Tensor

    @property
    def masked_image(self) -> Tensor:
        """[B, 3, S, S], black in the hole."""
        return self.image * (1 - self.mask)

    def split(self, size: int) -> list[Batch]:
        """In consecutive micro batches of `size` pictures."""
        parts = zip(*(tensor.split(size) for tensor in vars(self).values()), strict=True)
        return [Batch(*part) for part in parts]


@dataclass(frozen=True)
class EpochPlan:
    """Everything random about one epoch, for the whole split at once; arrays are by picture, `order` by position."""

    order: NDArray[np.int64]
    holes: NDArray[np.int32]
    windows: NDArray[np.int32]
    real_windows: NDArray[np.int32]
    flips: NDArray[np.bool_]


def plan_epoch(pictures: Pictures, config: DataConfig, seed: int, epoch: int) -> EpochPlan:
    """The plan of `epoch` (from 1): the same on every machine."""
    num, spec = len(pictures.pixels), config.hole_spec
    if config.holes == "stored":
        where, windows = pictures.holes, pictures.crops
    else:
        where, windows = holes.resampled_holes(num, spec, seed, epoch)
    flips = holes.flips(num, seed, epoch) if config.flip else np.zeros(num, dtype=np.bool_)
    mirrored, mirrored_windows = holes.mirror(where, windows, spec)
    where = np.where(flips[:, None], mirrored, where)
    windows = np.where(flips[:, None], mirrored_windows, windows)
    random_windows = config.local_real == "random"
    real_windows = holes.real_windows(num, spec, seed, epoch) if random_windows else windows
    return EpochPlan(holes.epoch_order(num, seed, epoch), where, windows, real_windows, flips)


class Feed:
    """This process's batches from any position on; the next ones are gathered while the current one is trained on.

    Args:
        pictures: one split.
        config: holes, windows and flips.
        seed: of the run.
        global_batch_size: pictures of all processes in a step; the last partial batch of an epoch is dropped.
        rank, world_size: which consecutive share of each global batch is this process's.
        device: where the batches go.
        dtype: of the pictures, float32 or float64.
    """

    def __init__(
        self,
        pictures: Pictures,
        config: DataConfig,
        seed: int,
        global_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.pictures, self.config, self.seed = pictures, config, seed
        self.batch_size, self.share = global_batch_size, global_batch_size // world_size
        self.rank, self.device, self.dtype = rank, torch.device(device), dtype
        self.steps_per_epoch = len(pictures.pixels) // global_batch_size

    def indices(self, plan: EpochPlan, position: int) -> NDArray[np.int64]:
        """Which pictures this process sees at `position` (a step of the epoch, from 0)."""
        start = position * self.batch_size + self.rank * self.share
        return plan.order[start : start + self.share]

    def batches(self, epoch: int, position: int) -> Generator[Batch]:
        """Batches from step `position` of `epoch` on, for ever; close the iterator to stop its thread."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed") as pool:
            places = self._places(epoch, position)
            ahead = [pool.submit(self._gather, next(places)) for _ in range(2)]
            while True:
                pixels, coordinates = ahead.pop(0).result()
                ahead.append(pool.submit(self._gather, next(places)))
                yield make_batch(
                    pixels.to(self.device, non_blocking=True),
                    coordinates.to(self.device, non_blocking=True),
                    self.dtype,
                )

    def _places(self, epoch: int, position: int) -> Iterator[tuple[EpochPlan, int]]:
        while True:
            plan = plan_epoch(self.pictures, self.config, self.seed, epoch)
            for step in range(position, self.steps_per_epoch):
                yield plan, step
            epoch, position = epoch + 1, 0

    def _gather(self, place: tuple[EpochPlan, int]) -> tuple[Tensor, Tensor]:
        plan, _ = place
        chosen = self.indices(*place)
        pixels = torch.from_numpy(self.pictures.pixels[chosen])
        columns = [plan.holes, plan.windows, plan.real_windows, plan.flips[:, None].astype(np.int32)]
        coordinates = torch.from_numpy(np.concatenate([column[chosen] for column in columns], axis=1))
        if self.device.type == "cuda":
            return pixels.pin_memory(), coordinates.pin_memory()
        return pixels, coordinates


def make_batch(pixels: Tensor, coordinates: Tensor, dtype: torch.dtype = torch.float32) -> Batch:
    """uint8 [B, S, S, 3] and int [B, 9] (hole, window, window of the real picture, mirrored or not) to a batch."""
    pixels = torch.where(coordinates[:, 8, None, None, None] > 0, pixels.flip(2), pixels)
    image = pixels.permute(0, 3, 1, 2).to(dtype).div_(255)
    from_corner = torch.arange(image.shape[-1], device=image.device) - coordinates[:, :2, None]
    across, down = ((from_corner >= 0) & (from_corner < coordinates[:, 2:4, None])).unbind(1)
    mask = (down[:, None, :, None] & across[:, None, None, :]).to(dtype)
    windows = coordinates.long()
    return Batch(image, mask, windows[:, 4:6], windows[:, 6:8])


def crop(image: Tensor, windows: Tensor, size: int) -> Tensor:
    """The local windows [B, C, size, size] of [B, C, H, W] at `windows` [B, 2] (x, y), in one gather."""
    batch, channels, _, width = image.shape
    offsets = torch.arange(size, device=image.device)
    rows, columns = windows[:, 1, None] + offsets, windows[:, 0, None] + offsets
    places = (rows[:, :, None] * width + columns[:, None, :]).reshape(batch, size * size, 1)
    # Pixel by pixel, as the pictures lie in memory; so the windows do too.
    local = image.permute(0, 2, 3, 1).flatten(1, 2).gather(1, places.expand(-1, -1, channels))
    return local.reshape(batch, size, size, channels).permute(0, 3, 1, 2)


def composite(output: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """The hole from the output, the rest from the image: [B, 3, H, W]."""
    return torch.where(mask > 0, output.to(image.dtype), image)
