"""Owns training from parquet shards that are read while they are trained on, for data larger than the disk.

What is read at a time is a row group, here a block. An epoch lays all blocks out in an order of its own, cuts this row
of pictures into lanes, and moves each picture by up to `window` places within its lane. A global batch takes the same
number from each lane, lane by lane; a process, whose share of the batch is consecutive, so reads its own lanes only.
The order depends on (seed, epoch, batch size) and not on the processes, and the position stays one integer.
"""

from __future__ import annotations

import logging
import math
import os
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inpaint.data import holes
from inpaint.data.decode import coordinates_at, decode_entries, table_of
from inpaint.data.holes import SPLITS, HoleSpec
from inpaint.data.sources import open_source
from inpaint.data.tables import TableSource, entries_of, in_one_line, opened
from inpaint.errors import InpaintError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

# A power of two, since batches and numbers of processes mostly are: up to so many processes read nothing twice.
LANES = 32
# How far ahead of training row groups are looked for, at most.
STEPS_AHEAD = 1024

log = logging.getLogger(__name__)


def find_shards(path: str) -> TableSource:
    """The parquet shards at `path`, a folder or a Hub id, listed and not read.

    Raises:
        InpaintError: nothing there, not parquet, or not all three splits.
    """
    source = open_source(path)
    if not isinstance(source, TableSource) or not source.is_parquet:
        raise InpaintError(f"data.streaming reads parquet shards, and {path} holds none: `inpaint prepare` makes some")
    if missing := [split for split in SPLITS if split not in source.parts]:
        raise InpaintError(
            f"{path} has no split {' and none '.join(missing)}, and data.streaming takes none out of another: "
            "`inpaint prepare` makes all three"
        )
    return source


@dataclass(frozen=True)
class _Block:
    """A row group, decoded; what could not be is replaced by its neighbours."""

    pixels: NDArray[np.uint8]
    holes: NDArray[np.int32]
    crops: NDArray[np.int32]


class Stream:
    """The split that is trained on, of N pictures; stands where `Pictures` does.

    Args:
        source: found before; their footers are read here, and name every row group.
        spec: size of the pictures and of their holes.
        batch_size: pictures of all processes in a step.
        window: about how many pictures are mixed with one another, over all lanes.
        max_bad_fraction: of all pictures.

    Raises:
        InpaintError: a shard cannot be read, or has other columns than the first.
    """

    def __init__(
        self, source: TableSource, spec: HoleSpec, batch_size: int, window: int, max_bad_fraction: float
    ) -> None:
        self.name, self.spec, self.batch_size = source.name, spec, batch_size
        self._files, self._source = source.shards("train"), source
        self.num_lanes = math.gcd(batch_size, LANES)
        self.window = window // self.num_lanes
        with ThreadPoolExecutor(min(16, 4 * _num_threads())) as pool:
            self._footers = list(pool.map(self._footer, self._files))
        self._groups = [
            (file, group) for file, footer in enumerate(self._footers) for group in range(footer.num_row_groups)
        ]
        sizes = [self._footers[file].row_group(group).num_rows for file, group in self._groups]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._columns = self._wanted_columns()
        self._most_bad = max_bad_fraction * len(self)
        self._bad: dict[int, int] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def holes(self) -> NDArray[np.int32]:
        """[N, 4] zeros: a picture's own hole comes with its pixels."""
        return np.broadcast_to(np.int32(0), (len(self), 4))

    @property
    def crops(self) -> NDArray[np.int32]:
        """[N, 2] zeros, likewise."""
        return np.broadcast_to(np.int32(0), (len(self), 2))

    def place(self, index: int) -> str:
        """Where a picture is: its shard, row group and row."""
        block = int(self._block_of(np.array(index)))
        number, group = self._groups[block]
        return f"{self._files[number]}, row group {group}, row {index - self._starts[block]}"

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The pictures of `epoch` (from 1) in the order in which they are trained on; the last few are left out."""
        blocks = holes.epoch_order(len(self._groups), seed, epoch)
        sizes = np.diff(self._starts)[blocks]
        row = np.repeat(self._starts[blocks] - np.cumsum(sizes) + sizes, sizes) + np.arange(len(self))
        steps, share = len(self) // self.batch_size, self.batch_size // self.num_lanes
        length = len(self) // self.num_lanes
        lanes = row[: self.num_lanes * length].reshape(self.num_lanes, length)
        moved = np.arange(length) + self.window * holes.generator(seed, "window", epoch).random(lanes.shape)
        mixed = np.take_along_axis(lanes, np.argsort(moved, axis=1, kind="stable"), axis=1)
        by_step = mixed[:, : steps * share].reshape(self.num_lanes, steps, share).swapaxes(0, 1)
        return np.ascontiguousarray(by_step).reshape(-1)

    def take(self, chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The pixels [n, S, S, 3] of some pictures, read now."""
        table = np.asarray(chosen, np.int32).reshape(1, -1, 1)
        with closing(self.follow(iter([table]))) as steps:
            return next(steps)[0]

    def follow(
        self, tables: Iterator[NDArray[np.int32]]
    ) -> Generator[tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]]:
        """What each step needs: pixels [n, S, S, 3], the pictures' own holes [n, 4] and windows [n, 2], and its rows.

        Blocks are read ahead by threads, and dropped after their last picture.

        Args:
            tables: for each epoch int32 [steps, n, k]: rows that begin with a picture's index.
        """
        steps = self._steps(tables)
        coming: deque[tuple[NDArray[np.int32], NDArray[np.int64], int]] = deque()
        num_left: Counter[int] = Counter()
        read: dict[int, Future[_Block]] = {}
        num_ahead, num_threads = 0, _num_threads()
        with ThreadPoolExecutor(num_threads, thread_name_prefix="stream") as pool:
            try:
                while True:
                    while not coming or (num_ahead < 2 * num_threads and len(coming) < STEPS_AHEAD):
                        if (step := next(steps, None)) is None:
                            break
                        rows, blocks, added = step
                        num_left.update(added)
                        new = [block for block in dict.fromkeys(blocks.tolist()) if block not in read]
                        read |= {block: pool.submit(self._read, block) for block in new}
                        coming.append((rows, blocks, len(new)))
                        num_ahead += len(new)
                    if not coming:
                        return
                    rows, blocks, num_new = coming.popleft()
                    num_ahead -= num_new
                    yield *self._gather(rows[:, 0], blocks, read), rows
                    for block, count in Counter(blocks.tolist()).items():
                        num_left[block] -= count
                        if not num_left[block]:
                            del num_left[block], read[block]
            finally:
                pool.shutdown(cancel_futures=True)

    def _steps(
        self, tables: Iterator[NDArray[np.int32]]
    ) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64], dict[int, int]]]:
        """Each step's rows and their blocks; with an epoch's first, how many of its pictures each block has."""
        for table in tables:
            blocks = self._block_of(table[..., 0])
            added = dict(zip(*(part.tolist() for part in np.unique(blocks, return_counts=True)), strict=True))
            for rows, its_blocks in zip(table, blocks, strict=True):
                yield rows, its_blocks, added
                added = {}

    def _block_of(self, chosen: NDArray[Any]) -> NDArray[np.int64]:
        return np.searchsorted(self._starts, chosen, side="right") - 1

    def _gather(
        self, chosen: NDArray[Any], blocks: NDArray[np.int64], read: Mapping[int, Future[_Block]]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32]]:
        size = self.spec.image_size
        pixels = np.empty((len(chosen), size, size, 3), np.uint8)
        where, windows = np.empty((len(chosen), 4), np.int32), np.empty((len(chosen), 2), np.int32)
        for block in np.unique(blocks).tolist():
            here = np.flatnonzero(blocks == block)
            rows, found = chosen[here] - self._starts[block], read[block].result()
            pixels[here], where[here], windows[here] = found.pixels[rows], found.holes[rows], found.crops[rows]
        return pixels, where, windows

    def _read(self, block: int) -> _Block:
        """A block from its shard; may be called from several threads."""
        import pyarrow.parquet as pq

        number, group = self._groups[block]
        with (
            in_one_line(f"{self._files[number]}, row group {group}, cannot be read"),
            opened(self._files[number]) as file,
        ):
            table = pq.ParquetFile(file, metadata=self._footers[number]).read_row_group(group, self._columns)
        entries = list(entries_of(self.name, table, self._source.columns, "train"))
        decoded = decode_entries(entries, self.spec.image_size)
        rows = np.array(decoded.rows, np.int64)
        if decoded.bad:
            self._count_bad(block, decoded.bad)
            if not len(rows):
                raise InpaintError(f"{self._files[number]}, row group {group}: not one picture can be used")
        hashes = np.array([entries[row].key_hash for row in decoded.rows], np.uint64)
        own = coordinates_at(table_of([""] * len(rows), hashes, decoded.coordinates), self.spec)
        nearest = np.searchsorted(rows, np.arange(len(table))).clip(max=len(rows) - 1)
        return _Block(decoded.pixels[nearest], own[0][nearest], own[1][nearest])

    def _count_bad(self, block: int, bad: Sequence[str]) -> None:
        with self._lock:
            is_new = block not in self._bad
            self._bad[block] = len(bad)
            total = sum(self._bad.values())
        if is_new:
            log.warning("%d pictures cannot be used, others stand for them; the first: %s", len(bad), bad[0])
        if total > self._most_bad:
            raise InpaintError(
                f"{total} of the {len(self)} pictures of {self.name} cannot be used, more than data.max_bad_fraction "
                f"allows; the last seen is {bad[-1]}. Mend or remove them, or allow more"
            )

    def _footer(self, name: str) -> pq.FileMetaData:
        import pyarrow.parquet as pq

        with in_one_line(f"the parquet shard {name} cannot be read"), opened(name) as file:
            return pq.ParquetFile(file).metadata

    def _wanted_columns(self) -> list[str]:
        schema = self._footers[0].schema.to_arrow_schema()
        for name, footer in zip(self._files, self._footers, strict=True):
            if footer.schema.to_arrow_schema().names != schema.names:
                raise InpaintError(f"{name} has other columns than {self._files[0]}")
        return self._source.columns.wanted(schema)


def _num_threads() -> int:
    """Processors that this process may count on, of a machine's processes."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, here // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
