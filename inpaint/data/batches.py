"""Owns the batch: which images a step sees, with which holes, and how they become tensors on the device.

Which images is a function of (seed, epoch, position) alone, so the position in the data is one integer and neither
the number of processes nor a resume can change what is seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inpaint.config import DataConfig
from inpaint.data import draws
from inpaint.data.reader import TrainingSplit
from inpaint.holes import rectangle
from inpaint.holes.kinds import HoleMixture


@dataclass(frozen=True)
class Batch:
    """Images on the device, with their holes and local windows.

    Attributes:
        image: [B, 3, S, S] in [0, 1].
        mask: [B, 1, S, S], 1 in the hole.
        windows: [B, 2] int64, x and y of the local window around the hole.
        real_windows: [B, 2] int64, x and y of the window the local discriminator sees of the real image.
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
        """In consecutive micro batches of `size` images."""
        parts = zip(*(tensor.split(size) for tensor in vars(self).values()), strict=True)
        return [Batch(*part) for part in parts]


def plan_epoch(
    split: TrainingSplit, config: DataConfig, seed: int, epoch: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Everything random about `epoch` (from 1), for the whole split at once: the same on every machine.

    Returns:
        The order: images by position. And of each of N images [N, 4 or more]: its index, whether it is mirrored, the
        window of the real image as it is seen; where holes are drawn, their window before that is mirrored, and the
        hole (see `HoleMixture`), whose float32 stand bit for bit.
    """
    num, spec = len(split), config.hole_spec
    flips = draws.flips(num, seed, epoch) if config.flip else np.zeros(num, dtype=np.bool_)
    columns = [np.arange(num)[:, None], flips[:, None], draws.real_windows(num, spec, seed, epoch)]
    if config.holes == "resampled":
        holes, windows = draws.resampled_holes(num, HoleMixture(config.hole_kinds, spec), seed, epoch)
        columns += [windows, holes.view(np.int32)]
    return split.order(seed, epoch), np.concatenate(columns, axis=1, dtype=np.int32)


class BatchLoader:
    """This process's batches from any position on; the next ones are gathered while the current one is trained on.

    With the split in the device's memory (`data.device_cache`) a step copies nothing to it; else from pinned memory,
    unawaited.

    Args:
        global_batch_size: images of all processes in a step; the last partial batch of an epoch is dropped.
        rank, world_size: which consecutive share of each global batch is this process's.
        dtype: of the images, float32 or float64.
    """

    def __init__(
        self,
        split: TrainingSplit,
        config: DataConfig,
        seed: int,
        global_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.split, self.config, self.seed = split, config, seed
        self.batch_size, self.share = global_batch_size, global_batch_size // world_size
        self.rank, self.device, self.dtype = rank, torch.device(device), dtype
        self.steps_per_epoch = len(split) // global_batch_size
        self._mixture = HoleMixture(config.hole_kinds, config.hole_spec)
        self._reader = split.reader(self.device, config.device_cache)

    def batches(self, epoch: int, position: int) -> Generator[Batch]:
        """Batches from step `position` of `epoch` on, for ever; close the iterator to stop its threads."""
        # Apple's copies without waiting read memory that may have been handed on meanwhile.
        unawaited = self.device.type != "mps"
        rows: deque[Tensor] = deque()
        with (
            ThreadPoolExecutor(max_workers=2, thread_name_prefix="loader") as pool,
            closing(self._reader.follow(self._indices(epoch, position, rows, pool), pool)) as steps,
        ):
            for images in steps:
                tensors = (*images, rows.popleft())
                yield self._batch(*(tensor.to(self.device, non_blocking=unawaited) for tensor in tensors))

    def global_batch(self, epoch: int, position: int) -> tuple[NDArray[np.int64], Batch]:
        """What all processes together see at a step (from 0), and which images of the split these are."""
        order, rows = plan_epoch(self.split, self.config, self.seed, epoch)
        chosen = order[position * self.batch_size :][: self.batch_size]
        return chosen, self._batch(*self.split.take(chosen), torch.from_numpy(rows[chosen]))

    def _indices(self, epoch: int, position: int, rows: deque[Tensor], pool: ThreadPoolExecutor) -> Iterator[Tensor]:
        """For each epoch this process's images; what is drawn for them goes to `rows`, step by step.

        The next epoch is drawn while this one is trained on.
        """
        coming = pool.submit(self._table, epoch)
        while True:
            table = coming.result()[position:]
            epoch, position = epoch + 1, 0
            coming = pool.submit(self._table, epoch)
            rows.extend(table)
            yield table[..., 0]

    def _table(self, epoch: int) -> Tensor:
        """int32 [steps, share, 4 or more], where the reader wants the indices: see `plan_epoch`."""
        order, rows = plan_epoch(self.split, self.config, self.seed, epoch)
        order = order[: self.steps_per_epoch * self.batch_size].reshape(-1, self.batch_size)
        table = torch.from_numpy(rows[order[:, self.rank * self.share : (self.rank + 1) * self.share]])
        table = table.pin_memory() if self.device.type == "cuda" else table
        return table.to(self._reader.device, non_blocking=table.is_pinned())

    def _batch(self, pixels: Tensor, coordinates: Tensor, rows: Tensor) -> Batch:
        """From what was read and what was drawn (`plan_epoch`)."""
        size, spec = pixels.shape[1], self.config.hole_spec
        if self.config.holes == "stored":
            mask, windows = rectangle.rasterise(coordinates[:, :4], size), coordinates[:, 4:]
        else:
            mask, windows = self._mixture.rasterise(rows[:, 6:].view(torch.float32), size), rows[:, 4:6]
        real_windows = rows[:, 2:4] if self.config.local_real == "random" else None
        return make_batch(pixels, mask, windows, real_windows, rows[:, 1] > 0, spec.window_px, self.dtype)


def to_unit(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [B, H, W, 3] as [B, 3, H, W] in [0, 1]."""
    return pixels.permute(0, 3, 1, 2).to(dtype).div_(255)


def make_batch(
    pixels: Tensor,
    mask: Tensor,
    windows: Tensor,
    real_windows: Tensor | None,
    is_mirrored: Tensor,
    window_px: int,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """Mirrors some images with their holes.

    Args:
        pixels: uint8 [B, S, S, 3].
        mask: [B, 1, S, S], 1 or true in the hole.
        windows: [B, 2] around the holes.
        real_windows: [B, 2], which are mirrored before; None: the same as around the holes.
        is_mirrored: bool [B].
    """
    pixels = torch.where(is_mirrored[:, None, None, None], pixels.flip(2), pixels)
    mask = torch.where(is_mirrored[:, None, None, None], mask.flip(3), mask)
    across, down = windows.long().unbind(1)
    across = torch.where(is_mirrored, pixels.shape[2] - window_px - across, across)
    windows = torch.stack([across, down], dim=1)
    seen_of_real = windows if real_windows is None else real_windows.long()
    return Batch(to_unit(pixels, dtype), mask.to(dtype), windows, seen_of_real)
