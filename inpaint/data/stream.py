"""Owns training from parquet shards that are read while they are trained on, for data larger than the disk.

What is read at a time is a row group. An epoch lays all row groups out in an order of its own, cuts this row of images
into lanes, and moves each image by up to `mixed` places within its lane. A global batch takes the same
number from each lane, lane by lane; a process, whose share of the batch is consecutive, so reads its own lanes only.
The order depends on (seed, epoch, batch size, window) and not on the processes, and the position stays one integer.

A row group is kept as it was read, and an image decoded when its step is near, by the process that trains on it. How
many lanes there are follows from the window: all that they keep, what is mixed and what is read ahead, stays within it.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inpaint.data import draws
from inpaint.data.decode import Decoded, coordinates_at, decode_entries
from inpaint.data.reader import Images, Reader
from inpaint.errors import InpaintError
from inpaint.files import human_size
from inpaint.holes.spec import HoleSpec
from inpaint.processes import num_cores_each
from inpaint.sources.keys import SPLITS
from inpaint.sources.opening import open_source
from inpaint.sources.rows import entries_of, footer_of, in_one_line, opened
from inpaint.sources.source import Entry

if TYPE_CHECKING:
    from inpaint.sources.tables import TableSource

# A lane keeps what it mixes, a row group at each end of that, and the next; so a lane's least window mixes one.
LEAST_GROUPS = 4
# How far ahead of training row groups are looked for, at most; and how many steps are decoded.
STEPS_AHEAD, STEPS_DECODED = 1024, 2

log = logging.getLogger(__name__)


def find_shards(path: str) -> TableSource:
    """The parquet shards of all three splits at `path`, a folder or a Hub id, listed and not read."""
    from inpaint.sources.tables import TableSource

    source = open_source(path)
    if not isinstance(source, TableSource) or not source.is_parquet:
        raise InpaintError(
            f"data.streaming reads parquet shards, and {path} holds none: `inpaint prepare` makes some, and so does "
            "`to_parquet` of what save_to_disk wrote"
        )
    if missing := [split for split in SPLITS if split not in source.parts]:
        raise InpaintError(
            f"{path} has no split {' and none '.join(missing)}, and data.streaming takes none out of another: "
            "`inpaint prepare` makes all three"
        )
    return source


# Of some images of a row group: pixels, holes and windows; those of a neighbour for what could not be decoded.
_Part = tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32]]


@dataclass
class _Step:
    """One step to come: its images, their row groups, how many of these were new, and which are being decoded."""

    chosen: NDArray[np.int64]
    groups: NDArray[np.int64]
    num_new: int
    parts: list[tuple[NDArray[np.int64], Future[_Part]]] | None = None


class Stream:
    """The split that is trained on, of N images; a `TrainingSplit`.

    Args:
        source: found before; the footers of its shards are read here, and name every row group.
        batch_size: images of all processes in a step.
        window: how many images are held in memory, over all lanes and processes; most of them are mixed.
    """

    def __init__(
        self, source: TableSource, spec: HoleSpec, batch_size: int, window: int, max_bad_fraction: float
    ) -> None:
        self.name, self.spec, self.batch_size = source.name, spec, batch_size
        self._files, self._source = source.shards("train"), source
        with ThreadPoolExecutor(min(16, 4 * num_cores_each())) as pool:
            self._footers = list(pool.map(footer_of, self._files))
        counted = ((shard, range(footer.num_row_groups)) for shard, footer in enumerate(self._footers))
        self._places = [(shard, number) for shard, numbers in counted for number in numbers]
        sizes = [self._footers[shard].row_group(number).num_rows for shard, number in self._places]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.num_lanes, self.mixed = self._lanes(window, max(sizes, default=1))
        schema = self._footers[0].schema.to_arrow_schema()
        for name, footer in zip(self._files, self._footers, strict=True):
            if footer.schema.to_arrow_schema().names != schema.names:
                raise InpaintError(f"{name} has other columns than {self._files[0]}")
        self._columns = source.columns.wanted(schema)
        self._most_bad = max_bad_fraction * len(self)
        self._bad: set[int] = set()
        self._read_ahead: dict[int, Future[list[Entry]]] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _lanes(self, window: int, largest: int) -> tuple[int, int]:
        """How many lanes there are, a power of two that divides the batch, and how many images each mixes."""
        self._least = least = min(LEAST_GROUPS * largest, len(self))
        if window < least:
            groups = (self._footers[shard].row_group(number) for shard, number in self._places)
            size = human_size(sum(group.total_byte_size for group in groups) / len(self) * least)
            raise InpaintError(
                f"data.stream_window is {window}, but the row groups of {self.name} hold up to {largest} "
                f"images and are read whole: it must be {least} or more ({size} over all processes)"
            )
        num_lanes = math.gcd(self.batch_size, 1 << (window // least).bit_length() - 1)
        return num_lanes, max(largest, window // num_lanes - (LEAST_GROUPS - 1) * largest)

    def warn_of_sharing(self, num_processes: int) -> None:
        """Says so where there are fewer lanes than processes, and several must read the same row groups."""
        if num_processes > self.num_lanes:
            log.warning(
                "each row group is read by %d processes; each would read its own with data.stream_window %d",
                -(-num_processes // self.num_lanes),
                num_processes * self._least,
            )

    def place(self, index: int) -> str:
        group = int(self._group_of(np.array(index)))
        return f"{self._named(group)}, row {index - self._starts[group]}"

    def _named(self, group: int) -> str:
        shard, number = self._places[group]
        return f"{self._files[shard]}, row group {number}"

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        groups = draws.epoch_order(len(self._places), seed, epoch)
        sizes = np.diff(self._starts)[groups]
        row = np.repeat(self._starts[groups] - np.cumsum(sizes) + sizes, sizes) + np.arange(len(self))
        steps, share = len(self) // self.batch_size, self.batch_size // self.num_lanes
        length = len(self) // self.num_lanes
        lanes = row[: self.num_lanes * length].reshape(self.num_lanes, length)
        moved = np.arange(length) + self.mixed * draws.make_rng(seed, "window", epoch).random(lanes.shape)
        mixed = np.take_along_axis(lanes, np.argsort(moved, axis=1, kind="stable"), axis=1)
        by_step = mixed[:, : steps * share].reshape(self.num_lanes, steps, share).swapaxes(0, 1)
        return np.ascontiguousarray(by_step).reshape(-1)

    def reader(self, device: torch.device, device_cache: str) -> Reader:
        return Reader(torch.device("cpu"), partial(self._follow_ahead, device.type == "cuda"))

    def take(self, chosen: NDArray[np.int64], pin: bool = False) -> Images:
        with closing(self.follow(iter([torch.from_numpy(chosen)[None]]), pin)) as steps:
            return next(steps)

    def _follow_ahead(self, pin: bool, epochs: Iterator[Tensor], executor: Executor) -> Generator[Images]:
        steps = self.follow(epochs, pin)
        coming = executor.submit(next, steps)
        try:
            while True:
                images = coming.result()
                coming = executor.submit(next, steps)
                yield images
        finally:
            coming.exception()
            steps.close()

    def follow(self, epochs: Iterator[Tensor], pin: bool = False) -> Generator[Images]:
        """The images of each step, whose indices are int [steps, n] for each epoch.

        Threads read row groups and decode images ahead; a row group is dropped after its last image.
        """
        steps = self._steps(epochs)
        coming: deque[_Step] = deque()
        num_left: Counter[int] = Counter()
        read = self._read_ahead = {}
        num_ahead = 0
        with ThreadPoolExecutor(min(16, num_cores_each()), thread_name_prefix="stream") as pool:
            try:
                while True:
                    while not coming or (num_ahead < self._lanes_of(coming[0].chosen) and len(coming) < STEPS_AHEAD):
                        if (following := next(steps, None)) is None:
                            break
                        chosen, groups, added = following
                        num_left.update(added)
                        new = [group for group in dict.fromkeys(groups.tolist()) if group not in read]
                        read |= {group: pool.submit(self._read, group) for group in new}
                        coming.append(_Step(chosen, groups, len(new)))
                        num_ahead += len(new)
                    if not coming:
                        return
                    for near in islice(coming, STEPS_DECODED):
                        if near.parts is None:
                            near.parts = self._start_decoding(near, read, pool)
                    step = coming.popleft()
                    num_ahead -= step.num_new
                    yield self._gather(step, pin)
                    for group, count in Counter(step.groups.tolist()).items():
                        num_left[group] -= count
                        if not num_left[group]:
                            del num_left[group], read[group]
            finally:
                pool.shutdown(cancel_futures=True)

    def _lanes_of(self, chosen: NDArray[np.int64]) -> int:
        """In how many lanes a process's images of a step lie, at most; so many row groups are read ahead."""
        return -(-len(chosen) * self.num_lanes // self.batch_size)

    def _steps(self, epochs: Iterator[Tensor]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], dict[int, int]]]:
        """Each step's images and their groups; with an epoch's first, how many of its images each group has."""
        for epoch in (indices.numpy() for indices in epochs):
            groups = self._group_of(epoch)
            added = dict(zip(*(part.tolist() for part in np.unique(groups, return_counts=True)), strict=True))
            for chosen, its_groups in zip(epoch, groups, strict=True):
                yield chosen, its_groups, added
                added = {}

    def _group_of(self, chosen: NDArray[Any]) -> NDArray[np.int64]:
        return np.searchsorted(self._starts, chosen, side="right") - 1

    def _start_decoding(
        self, step: _Step, read: Mapping[int, Future[list[Entry]]], pool: ThreadPoolExecutor
    ) -> list[tuple[NDArray[np.int64], Future[_Part]]]:
        """Row groups were handed to the pool before, so that decoding never waits for what is not being read."""
        parts = []
        for group in np.unique(step.groups).tolist():
            here = np.flatnonzero(step.groups == group)
            rows = step.chosen[here] - self._starts[group]
            parts.append((here, pool.submit(self._decode, group, read[group], rows)))
        return parts

    def _gather(self, step: _Step, pin: bool) -> Images:
        parts = [(here, part.result()) for here, part in step.parts or []]
        places = np.argsort(np.concatenate([here for here, _ in parts]))
        pixels, holes, windows = (
            np.concatenate(arrays)[places] for arrays in zip(*(part for _, part in parts), strict=True)
        )
        return Images.of(pixels, holes, windows, pin)

    def _read(self, group: int) -> list[Entry]:
        """A row group from its shard, not decoded; may be called from several threads."""
        import pyarrow.parquet as pq

        shard, number = self._places[group]
        with in_one_line(f"{self._named(group)}, cannot be read"), opened(self._files[shard]) as file:
            table = pq.ParquetFile(file, metadata=self._footers[shard]).read_row_group(number, self._columns)
        return list(entries_of(self.name, table, self._source.columns, "train"))

    def _decode(self, group: int, read: Future[list[Entry]], rows: NDArray[np.int64]) -> _Part:
        parts = [self._decode_row(group, read.result(), row) for row in rows.tolist()]
        hashes = np.array([entry.key_hash for entry, _ in parts], np.uint64)
        coordinates = [found.coordinates for _, found in parts if found.coordinates is not None]
        own = np.concatenate(coordinates) if coordinates else None
        return np.concatenate([found.pixels for _, found in parts]), *coordinates_at(hashes, own, self.spec)

    def _decode_row(self, group: int, entries: Sequence[Entry], row: int) -> tuple[Entry, Decoded]:
        """A row; for one that cannot be decoded the next that can stands, else the one before."""
        for stand_in in (*range(row, len(entries)), *range(row - 1, -1, -1)):
            decoded = decode_entries([entries[stand_in]], self.spec.image_size)
            if not decoded.bad:
                return entries[stand_in], decoded
            self._count_bad(int(self._starts[group]) + stand_in, decoded.bad[0])
        raise InpaintError(f"{self._named(group)}: not one image can be used")

    def _count_bad(self, image: int, why: str) -> None:
        with self._lock:
            is_new = image not in self._bad
            self._bad.add(image)
            total = len(self._bad)
        if is_new:
            log.warning("an image cannot be used, another stands for it: %s", why)
        if total > self._most_bad:
            raise InpaintError(
                f"{total} of the {len(self)} images of {self.name} cannot be used, more than data.max_bad_fraction "
                f"allows; the last seen is {why}. Mend or remove them, or allow more"
            )
