"""Owns the batch: which pictures a step sees, with which holes, and how they become tensors on the device.

Which pictures is a function of (seed, epoch, position) alone, so the position in the data is one integer and neither
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
from inpaint.data.pictures import Pictures
from inpaint.data.stream import Stream
from inpaint.errors import UsageError

_CHUNK = 4096


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


def plan_epoch(pictures: Pictures | Stream, config: DataConfig, seed: int, epoch: int) -> EpochPlan:
    """The plan of `epoch` (from 1): the same on every machine."""
    num, spec = len(pictures), config.hole_spec
    if config.holes == "stored":
        where, windows = pictures.holes, pictures.crops
    else:
        where, windows = draws.resampled_holes(num, spec, seed, epoch)
    flips = draws.flips(num, seed, epoch) if config.flip else np.zeros(num, dtype=np.bool_)
    mirrored, mirrored_windows = draws.mirror(where, windows, spec)
    where = np.where(flips[:, None], mirrored, where)
    windows = np.where(flips[:, None], mirrored_windows, windows)
    random_windows = config.local_real == "random"
    real_windows = draws.real_windows(num, spec, seed, epoch) if random_windows else windows
    return EpochPlan(pictures.order(seed, epoch), where, windows, real_windows, flips)


class Feed:
    """This process's batches from any position on; the next ones are gathered while the current one is trained on.

    With the split in the device's memory (`data.device_cache`) a step copies nothing to it; else from pinned memory,
    unawaited.

    Args:
        pictures: one split.
        config: holes, windows, flips and `device_cache`.
        seed: of the run.
        global_batch_size: pictures of all processes in a step; the last partial batch of an epoch is dropped.
        rank, world_size: which consecutive share of each global batch is this process's.
        device: where the batches go.
        dtype: of the pictures, float32 or float64.
    """

    def __init__(
        self,
        pictures: Pictures | Stream,
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
        self.steps_per_epoch = len(pictures) // global_batch_size
        if isinstance(pictures, Stream) and rank == 0:
            pictures.warn_of_sharing(world_size)
        self._resident = (
            _resident(pictures.pixels, self.device, config.device_cache) if isinstance(pictures, Pictures) else None
        )

    def indices(self, plan: EpochPlan, position: int) -> NDArray[np.int64]:
        """Which pictures this process sees at `position` (a step of the epoch, from 0)."""
        start = position * self.batch_size + self.rank * self.share
        return plan.order[start : start + self.share]

    def batches(self, epoch: int, position: int) -> Generator[Batch]:
        """Batches from step `position` of `epoch` on, for ever; close the iterator to stop its threads."""
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="feed") as pool:
            tables = self._tables(epoch, position, pool)
            steps = self._mapped if isinstance(self.pictures, Pictures) else self._streamed
            # Apple's copies without waiting read memory that may have been handed on meanwhile.
            unawaited = self.device.type != "mps"
            with closing(steps(tables, pool)) as gathered:
                for pixels, rows in gathered:
                    pixels, rows = (tensor.to(self.device, non_blocking=unawaited) for tensor in (pixels, rows))
                    yield make_batch(pixels, rows[:, 1:], self.dtype)

    def _tables(self, epoch: int, position: int, pool: ThreadPoolExecutor) -> Iterator[Tensor]:
        """For each epoch this process's rows; the next epoch is drawn while this one is trained on."""
        coming = pool.submit(self._table, epoch)
        while True:
            table = coming.result()
            epoch += 1
            coming = pool.submit(self._table, epoch)
            yield table[position:]
            position = 0

    def _mapped(self, tables: Iterator[Tensor], pool: ThreadPoolExecutor) -> Generator[tuple[Tensor, Tensor]]:
        """Pixels and rows of each step, two steps ahead."""
        places = (rows for table in tables for rows in table)
        ahead = deque(pool.submit(self._gather, next(places)) for _ in range(2))
        while True:
            gathered = ahead.popleft().result()
            ahead.append(pool.submit(self._gather, next(places)))
            yield gathered

    def _streamed(self, tables: Iterator[Tensor], pool: ThreadPoolExecutor) -> Generator[tuple[Tensor, Tensor]]:
        """The same where the pictures are being read, with the holes that come along with them."""
        assert isinstance(self.pictures, Stream)
        steps = self.pictures.follow(table.numpy() for table in tables)
        coming = pool.submit(next, steps)
        try:
            while True:
                pixels, where, windows, rows = coming.result()
                coming = pool.submit(next, steps)
                if self.config.holes == "stored":
                    rows = self._with_own(rows, where, windows)
                tensors = torch.from_numpy(pixels), torch.from_numpy(rows)
                on_cuda = self.device.type == "cuda"
                yield (tensors[0].pin_memory(), tensors[1].pin_memory()) if on_cuda else tensors
        finally:
            coming.exception()
            steps.close()

    def _with_own(
        self, rows: NDArray[np.int32], where: NDArray[np.int32], windows: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        mirrored = draws.mirror(where, windows, self.config.hole_spec)
        flipped = rows[:, 9:] > 0
        where, windows = np.where(flipped, mirrored[0], where), np.where(flipped, mirrored[1], windows)
        real_windows = rows[:, 7:9] if self.config.local_real == "random" else windows
        return np.concatenate([rows[:, :1], where, windows, real_windows, rows[:, 9:]], axis=1)

    def _table(self, epoch: int) -> Tensor:
        """int32 [steps, share, 10] beside the pictures: the picture's index, then what `make_batch` takes."""
        plan = plan_epoch(self.pictures, self.config, self.seed, epoch)
        chosen = np.stack([self.indices(plan, position) for position in range(self.steps_per_epoch)])
        columns = [plan.holes, plan.windows, plan.real_windows, plan.flips[:, None]]
        coordinates = np.concatenate(columns, axis=1, dtype=np.int32)[chosen]
        table = torch.from_numpy(np.concatenate([chosen[..., None], coordinates], axis=-1, dtype=np.int32))
        if self.device.type == "cuda" and isinstance(self.pictures, Pictures):
            table = table.pin_memory()
        return table if self._resident is None else table.to(self.device, non_blocking=table.is_pinned())

    def _gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        if self._resident is not None:
            return self._resident.index_select(0, rows[:, 0]), rows
        pixels = torch.from_numpy(self.pictures.take(rows[:, 0].numpy()))
        return pixels.pin_memory() if self.device.type == "cuda" else pixels, rows


def _resident(pixels: NDArray[np.uint8], device: torch.device, wish: str) -> Tensor | None:
    """The whole split in the device's memory, as `data.device_cache` has it, or None.

    Raises:
        UsageError: `on`, and there is no room.
    """
    if wish == "off" or (wish == "auto" and device.type != "cuda"):
        return None
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if wish == "auto" and pixels.nbytes > free / 4:
            return None
        if pixels.nbytes > free:
            raise UsageError(
                f"data.device_cache = on: the pictures take {pixels.nbytes / 2**30:.1f} GiB, {free / 2**30:.1f} GiB of "
                "the GPU are free; use auto or off"
            )
    resident = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(pixels), _CHUNK):
        resident[start : start + _CHUNK] = torch.from_numpy(np.array(pixels[start : start + _CHUNK]))
    return resident


def make_batch(pixels: Tensor, coordinates: Tensor, dtype: torch.dtype = torch.float32) -> Batch:
    """uint8 [B, S, S, 3] and int [B, 9] (hole, window, window of the real picture, mirrored or not) to a batch."""
    pixels = torch.where(coordinates[:, 8, None, None, None] > 0, pixels.flip(2), pixels)
    image = pixels.permute(0, 3, 1, 2).to(dtype).div_(255)
    windows = coordinates.long()
    return Batch(image, hole_masks(coordinates, image.shape[-1], dtype), windows[:, 4:6], windows[:, 6:8])


def hole_masks(holes: Tensor, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Holes [B, 4 or more] (x, y, width, height, ...) to masks [B, 1, size, size]: 1 in the hole."""
    from_corner = torch.arange(size, device=holes.device) - holes[:, :2, None]
    across, down = ((from_corner >= 0) & (from_corner < holes[:, 2:4, None])).unbind(1)
    return (down[:, None, :, None] & across[:, None, None, :]).to(dtype)
