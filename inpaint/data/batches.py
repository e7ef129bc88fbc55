"""Owns the batch: which images a step sees, with which holes, and how they become tensors on the device.

Which images is a function of (seed, epoch, position) alone, so the position in the data is one integer and neither
the number of processes nor a resume can change what is seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
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


# Images whose holes are drawn at once: few, since the first step waits for the first ones.
DRAWN_AT_ONCE = 1024


def draw_rows(
    chosen: NDArray[np.integer], num: int, config: DataConfig, seed: int, epoch: int, mixture: HoleMixture | None = None
) -> NDArray[np.int32]:
    """Everything random in `epoch` (from 1) about `chosen` [n] of a split's `num` images: the same on every machine.

    Returns:
        [n, 4 or more]: the image's index, whether it is mirrored, the window of the real image as it is seen; where
        holes are drawn, their window before that is mirrored, and the hole (see `HoleMixture`), whose float32 stand bit
        for bit.
    """
    spec = config.hole_spec
    flips = draws.flips(num, seed, epoch, chosen) if config.flip else np.zeros(len(chosen), dtype=np.bool_)
    columns = [chosen[:, None], flips[:, None], draws.real_windows(num, spec, seed, epoch, chosen)]
    if config.holes == "resampled":
        mixture = mixture or HoleMixture(config.hole_kinds, spec)
        holes, windows = draws.resampled_holes(num, mixture, seed, epoch, chosen)
        columns += [windows, holes.view(np.int32)]
    return np.concatenate(columns, axis=1, dtype=np.int32)


@dataclass(frozen=True)
class _Plan:
    """A process's part of an epoch: its images int32 [steps, share], and what is drawn for those of the first steps."""

    epoch: int
    images: Tensor
    rows: Tensor


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
        self._steps_at_once = max(1, DRAWN_AT_ONCE // self.share)
        self._mixture = HoleMixture(config.hole_kinds, config.hole_spec)
        self._reader = split.reader(self.device, config.device_cache)

    def batches(self, epoch: int, position: int) -> Generator[Batch]:
        """Batches from step `position` of `epoch` on, for ever; close the iterator to stop its threads."""
        # Apple's copies without waiting read memory that may have been handed on meanwhile.
        unawaited = self.device.type != "mps"
        plans: deque[_Plan] = deque()
        with (
            ThreadPoolExecutor(max_workers=2, thread_name_prefix="loader") as pool,
            ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader-draws") as drawer,
            closing(self._reader.follow(self._indices(epoch, position, plans, pool), pool)) as steps,
        ):
            rows = self._rows(plans, drawer)
            for images in steps:
                tensors = (*images, next(rows))
                yield self._batch(*(tensor.to(self.device, non_blocking=unawaited) for tensor in tensors))

    def global_batch(self, epoch: int, position: int) -> tuple[NDArray[np.int64], Batch]:
        """What all processes together see at a step (from 0), and which images of the split these are."""
        order = self.split.order(self.seed, epoch)
        chosen = order[position * self.batch_size :][: self.batch_size]
        return chosen, self._batch(*self.split.take(chosen), torch.from_numpy(self._drawn(chosen, epoch)))

    def _indices(self, epoch: int, position: int, plans: deque[_Plan], pool: Executor) -> Iterator[Tensor]:
        """For each epoch this process's images, where the reader wants them; its plan goes to `plans`.

        The next epoch is begun while this one is trained on.
        """
        coming = pool.submit(self._plan, epoch, position)
        while True:
            plan = coming.result()
            epoch += 1
            coming = pool.submit(self._plan, epoch, 0)
            plans.append(plan)
            yield self._to_reader(plan.images)

    def _plan(self, epoch: int, position: int) -> _Plan:
        order = self.split.order(self.seed, epoch)[: self.steps_per_epoch * self.batch_size]
        own = order.reshape(-1, self.batch_size)[position:, self.rank * self.share : (self.rank + 1) * self.share]
        images = torch.from_numpy(own.astype(np.int32))
        return _Plan(epoch, images, self._draw(epoch, images[: self._steps_at_once]))

    def _rows(self, plans: deque[_Plan], drawer: Executor) -> Iterator[Tensor]:
        """What is drawn for each step; some steps at a time, while those before are trained on."""
        while True:
            plan = plans.popleft()
            rows = plan.rows
            for following in range(self._steps_at_once, len(plan.images) + self._steps_at_once, self._steps_at_once):
                some = plan.images[following : following + self._steps_at_once]
                coming = drawer.submit(self._draw, plan.epoch, some)
                yield from (rows[step] for step in range(len(rows)))
                rows = coming.result()

    def _draw(self, epoch: int, images: Tensor) -> Tensor:
        """int32 [steps, share, 4 or more] for images [steps, share], where the reader wants the indices."""
        rows = self._drawn(images.flatten().numpy(), epoch)
        return self._to_reader(torch.from_numpy(rows).unflatten(0, tuple(images.shape)))

    def _drawn(self, chosen: NDArray[np.integer], epoch: int) -> NDArray[np.int32]:
        return draw_rows(chosen, len(self.split), self.config, self.seed, epoch, self._mixture)

    def _to_reader(self, tensor: Tensor) -> Tensor:
        tensor = tensor.pin_memory() if self.device.type == "cuda" else tensor
        return tensor.to(self._reader.device, non_blocking=tensor.is_pinned())

    def _batch(self, pixels: Tensor, coordinates: Tensor, rows: Tensor) -> Batch:
        """From what was read and what was drawn (`draw_rows`)."""
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
