"""Owns how an entry of the cache is filled: each split's pixels in one file, what else is known in another."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inpaint.data.cache import StoppedError, check_room
from inpaint.data.decode import COORDINATES, Decoded
from inpaint.data.journal import Journal, Results
from inpaint.data.reader import map_ahead
from inpaint.data.recipes import TASK_BYTES, Listing, Recipe, Task
from inpaint.errors import InpaintError, first_few
from inpaint.files import sync, write_synced
from inpaint.processes import num_cores_each, num_here
from inpaint.sources.keys import KEY_RULE, SPLITS, Split

TASK_IMAGES = 64

log = logging.getLogger(__name__)


def fill(
    folder: Path,
    entry: Path,
    recipe: Recipe,
    size: int,
    max_bad_fraction: float,
    show_progress: bool,
    do: Callable[[Callable[[], Decoded]], Decoded] = lambda work: work(),
    wants_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Decodes all splits into `folder`, which will be called `entry`; goes on where a process left it.

    `do` calls what it is given, in this process or another; several threads call it. Raises `StoppedError` where
    `wants_stop`, asked after some images each, says so.
    """
    from tqdm import tqdm

    listings, bad = recipe.listings()
    num_listed = sum(len(listing.sources) for listing in listings.values())
    image_bytes = 3 * size**2
    check_room(
        entry.parent, num_listed * image_bytes - sum(512 * path.stat().st_blocks for path in folder.glob("*.npy"))
    )
    for split, listing in listings.items():
        _refuse_empty(recipe.name, split, len(listing.sources))
    num_seen, total = len(bad), len(bad) + num_listed
    most = max(1, min(TASK_IMAGES, TASK_BYTES // image_bytes))
    files = {SPLITS.index(split): _SplitFiles(folder, split, listing, size) for split, listing in listings.items()}
    journal, num_cores = Journal(folder), num_here() * num_cores_each()
    bar = tqdm(total=num_listed, desc="decoding", unit="image", disable=not show_progress)
    with bar, ExitStack() as stack:
        pool = ThreadPoolExecutor(num_cores, thread_name_prefix="decode")
        stack.callback(pool.shutdown, cancel_futures=True)

        def decode(tasks: Iterator[Task]) -> Results:
            # A few parts ahead, so that memory does not grow with the split.
            return map_ahead(pool, lambda task: (task, do(partial(_decode_into, folder, task))), tasks, 2 * num_cores)

        results = stack.enter_context(closing(journal.results(recipe.tasks(most), decode, image_bytes)))
        for task, part in results:
            for number, its in _by_split(task, part):
                coordinates = None if part.coordinates is None else part.coordinates[its]
                files[number].keep(task.places[part.rows][its], coordinates)
            bad.extend(part.bad)
            num_seen += len(task.places)
            bar.update(len(task.places))
            refuse_too_many(recipe.name, bad, num_seen, total, max_bad_fraction)
            if wants_stop():
                raise StoppedError
    if not all(split_files.is_kept.all() for split_files in files.values()):
        journal.path.unlink(missing_ok=True)  # its images are moved now, to where others of its were
    for split_files in files.values():
        _refuse_empty(recipe.name, split_files.split, split_files.finish())
    facts = {"source": recipe.name, "num_pictures": total, "bad": bad, "key_rule": KEY_RULE}
    write_synced(folder / "entry.json", json.dumps(facts).encode())
    write_synced(folder / "bad.txt", "".join(f"{line}\n" for line in bad).encode())
    journal.path.unlink(missing_ok=True)
    if bad:
        shown = "".join(f"\n  {line}" for line in first_few(bad))
        log.warning("%d of %d images are left out (%s):%s", len(bad), total, entry / "bad.txt", shown)


def _decode_into(folder: Path, task: Task) -> Decoded:
    """Decodes a task's images and writes their pixels to their places; returns all else."""
    part = task.decode()
    for number, its in _by_split(task, part):
        places = task.places[part.rows][its]
        with (folder / f"{SPLITS[number]}.npy").open("rb+") as file:
            np.lib.format.read_magic(file)
            (_, *shape), _, _ = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
            for run in np.split(np.arange(len(its)), np.flatnonzero(np.diff(places) != 1) + 1):
                file.seek(start + int(places[run[0]]) * math.prod(shape))
                file.write(part.pixels[its[run]].data)
    return replace(part, pixels=part.pixels[:0].copy())


def _by_split(task: Task, part: Decoded) -> list[tuple[int, NDArray[np.intp]]]:
    """By the number of the split: which of the images of `part` are its."""
    splits = task.splits[part.rows]
    return [(number, np.flatnonzero(splits == number)) for number in np.unique(splits).tolist()]


class _SplitFiles:
    """The files of one split while they are being filled, at the places that its images will have."""

    def __init__(self, folder: Path, split: Split, listing: Listing, size: int) -> None:
        self.folder, self.split, self.listing, self.size = folder, split, listing, size
        path = folder / f"{split}.npy"
        path.touch()
        self.file = path.open("rb+")
        self._write_header(len(listing.sources))
        self.file.flush()
        self.start = self.file.tell()
        self.is_kept = np.zeros(len(listing.sources), bool)
        self.coordinates: NDArray[np.int32] | None = None

    def keep(self, places: NDArray[np.int64], coordinates: NDArray[np.int32] | None) -> None:
        self.is_kept[places] = True
        if coordinates is not None:
            if self.coordinates is None:
                self.coordinates = np.zeros((len(self.is_kept), coordinates.shape[1]), np.int32)
            self.coordinates[places] = coordinates

    def finish(self) -> int:
        """Closes the gaps that unusable images left; returns how many images there are."""
        import pyarrow as pa

        kept, num_bytes = np.flatnonzero(self.is_kept), 3 * self.size**2
        for place in np.flatnonzero(kept != np.arange(len(kept))).tolist():
            self.file.seek(self.start + int(kept[place]) * num_bytes)
            moved = self.file.read(num_bytes)
            self.file.seek(self.start + place * num_bytes)
            self.file.write(moved)
        self._write_header(len(kept))
        self.file.truncate(self.start + len(kept) * num_bytes)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        sources = pa.array([self.listing.sources[place] for place in kept.tolist()], pa.string())
        columns = {"source": sources, "key_hash": self.listing.key_hashes[kept]}
        if self.coordinates is not None:
            columns |= dict(zip(COORDINATES, np.ascontiguousarray(self.coordinates[kept].T), strict=True))
        table = pa.table(columns)
        path = self.folder / f"{self.split}.arrow"
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
        sync(path)
        return len(kept)

    def _write_header(self, num: int) -> None:
        """At the start. Its length does not depend on `num`: numpy leaves room for the first axis to grow."""
        self.file.seek(0)
        header = {"descr": "|u1", "fortran_order": False, "shape": (num, self.size, self.size, 3)}
        np.lib.format.write_array_header_1_0(self.file, header)


def _refuse_empty(name: str, split: Split, num: int) -> None:
    if num == 0:
        raise InpaintError(
            f"the {split} split of {name} is empty: a source without splits is parted 85/10/5 and needs enough "
            "images for all three (100 do); add some, or give it folders train/, validation/ and test/"
        )


def refuse_too_many(name: str, bad: Sequence[str], num_seen: int, total: int, max_bad_fraction: float) -> None:
    if len(bad) > max_bad_fraction * total:
        seen = f"{total}" if num_seen == total else f"first {num_seen} (of {total})"
        raise InpaintError(
            f"{len(bad)} of the {seen} images of {name} cannot be used, more than data.max_bad_fraction = "
            f"{max_bad_fraction:g} allows; the first are {'; '.join(bad[:3])}. Mend or remove them, or allow more"
        )
