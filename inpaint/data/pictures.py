"""Owns the decoded pictures: each split of a source, decoded once into a memory map that all processes share.

After that a batch is one gather of rows. The name of a cache entry says what is in it: the source's fingerprint, the
size, and the version of the decoding.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from inpaint.data import holes
from inpaint.data.cache import build_once, cache_folder, check_room, durable
from inpaint.data.decode import Decoded, coordinates_at, decode_entries, table_of
from inpaint.data.holes import SPLITS, HoleSpec, Split, key_hash
from inpaint.data.keys import KEY_RULE, split_for
from inpaint.data.sources import Entry, Source, open_source
from inpaint.errors import InpaintError

# Raised when the same source would become another entry: other pixels, keys (`KEY_RULE`) or files.
VERSION = 2
# Where each split's indices begin among the made-up landscapes: far apart, so that a larger split moves no other.
SYNTHETIC_START: dict[Split, int] = {"train": 0, "validation": 1 << 40, "test": 2 << 40}
TASK_PICTURES, TASK_BYTES = 64, 4 << 20
NUM_NAMED = 20

log = logging.getLogger(__name__)

# Calls something in one of several processes and gives all of them what it gave.
Once = Callable[[Callable[[], str]], str]


def directly(act: Callable[[], str]) -> str:
    """The only process does it."""
    return act()


@dataclass(frozen=True)
class SyntheticSpec:
    """How many landscapes to make up, and from which seed."""

    num_train: int
    num_validation: int
    num_test: int
    seed: int


@dataclass(frozen=True)
class Pictures:
    """One split, decoded: N pictures of side S.

    Attributes:
        pixels: [N, S, S, 3], memory-mapped, read-only.
        holes: [N, 4] each picture's own hole at S, and
        crops: [N, 2] its local window.
        sources: where each was: a path in the source, or an index.
    """

    pixels: NDArray[np.uint8]
    holes: NDArray[np.int32]
    crops: NDArray[np.int32]
    sources: Sequence[str]

    def __len__(self) -> int:
        return len(self.pixels)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The pictures of `epoch` (from 1) in the order in which they are trained on."""
        return holes.epoch_order(len(self), seed, epoch)

    def take(self, chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The pixels [n, S, S, 3] of some of them."""
        return self.pixels[chosen]

    def place(self, index: int) -> str:
        """Where a picture was."""
        return str(self.sources[index])


def open_pictures(
    path: str | None,
    spec: HoleSpec,
    *,
    cache_dir: Path | None,
    max_bad_fraction: float,
    synthetic: SyntheticSpec,
    show_progress: bool,
    splits: Sequence[Split] = SPLITS,
    once_a_job: Once = directly,
    once_a_machine: Once = directly,
) -> dict[Split, Pictures]:
    """The splits of the source at `path` (see `open_source`), or made-up landscapes, at `spec.image_size`.

    The first process to come decodes; others that want the same wait for it. Bad pictures are left out and named once,
    in the log and in the entry's `bad.txt`. A picture's hole and window are the source's own where it has such columns
    (scaled), else a function of the picture's key.

    Args:
        cache_dir: where decoded pictures are kept; None: see `cache_folder`.
        max_bad_fraction: how many of all pictures may be bad.
        splits: which of them; all but `train` where that is streamed.
        once_a_job, once_a_machine: how one of several processes does something for all.

    Raises:
        InpaintError: no such source, an empty split, too many bad pictures, no room or no permission in the cache.
    """
    if path is None:
        recipe = _synthetic_recipe(synthetic, spec.image_size)
    else:
        recipe = _Photos(path, None if "train" in splits else splits, spec.image_size).recipe
    name = once_a_job(lambda: f"{recipe.fingerprint()}-{spec.image_size}px-v{VERSION}")
    entry = cache_folder(cache_dir) / name

    def build() -> str:
        build_once(entry, lambda folder: _fill(folder, entry, recipe, spec.image_size, max_bad_fraction, show_progress))
        return ""

    once_a_machine(build)
    return _open(entry, recipe.name, splits, spec, max_bad_fraction)


def num_training_pictures(path: str) -> int:
    """How many pictures the training split of a source has, before any turns out to be bad."""
    source = open_source(path)
    own_splits = source.survey().own_splits
    entries = source.entries(with_data=False)
    return sum(split_for(entry.key_hash, entry.split, own_splits) == "train" for entry in entries)


# --- What there is to decode ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Listing:
    """One split before decoding: its pictures in their order, which is that of their keys' hashes: the same for the
    same pictures, wherever they come from."""

    sources: Sequence[str]
    key_hashes: NDArray[np.uint64]


@dataclass(frozen=True)
class _Task:
    """Some pictures to decode: in which split each is, and its place there."""

    splits: NDArray[np.int8]
    places: NDArray[np.int64]
    decode: Callable[[], Decoded]


@dataclass(frozen=True)
class _Recipe:
    """How to fill an entry: `listings` comes first, and tells what is bad too; `tasks` takes how many at a time."""

    name: str
    fingerprint: Callable[[], str]
    listings: Callable[[], tuple[dict[Split, _Listing], list[str]]]
    tasks: Callable[[int], Iterator[_Task]]


class _Photos:
    """A source of pictures: opened by who needs it, listed once, then read in its own order."""

    def __init__(self, name: str, only: Sequence[Split] | None, size: int) -> None:
        self.name, self.only, self.size = name, only, size
        self.recipe = _Recipe(name, lambda: self.source.fingerprint(), self.listings, self.tasks)

    @cached_property
    def source(self) -> Source:
        from inpaint.data.stream import find_shards

        return open_source(self.name) if self.only is None else find_shards(self.name).only(self.only)

    def listings(self) -> tuple[dict[Split, _Listing], list[str]]:
        survey = self.source.survey()
        splits, hashes, ties, sources = array("b"), array("Q"), array("Q"), list[str]()
        for entry in self.source.entries(with_data=False):
            hashes.append(entry.key_hash)
            splits.append(SPLITS.index(split_for(hashes[-1], entry.split, survey.own_splits)))
            ties.append(key_hash(entry.source))
            sources.append(entry.source)
        self.splits, self.hashes = np.array(splits, np.int8), np.array(hashes, np.uint64)
        self.places = np.empty(len(sources), np.int64)
        listed: dict[Split, _Listing] = {}
        for split in self.only or SPLITS:
            its = np.flatnonzero(self.splits == SPLITS.index(split))
            its = its[np.lexsort((np.array(ties, np.uint64)[its], self.hashes[its]))]
            self.places[its] = np.arange(len(its))
            listed[split] = _Listing([sources[picture] for picture in its], self.hashes[its])
        for line in survey.lost():
            log.warning("%s: %s", self.name, line)
        return listed, [f"{name}: {why}" for name, why in survey.bad]

    def tasks(self, most: int) -> Iterator[_Task]:
        start = 0
        for entries in _portions(self.source.entries(), most):
            rows = slice(start, start + len(entries))
            start += len(entries)
            if [entry.key_hash for entry in entries] != self.hashes[rows].tolist():
                raise InpaintError(f"{self.name} was changed while it was being read; run the same command again")
            yield _Task(self.splits[rows], self.places[rows], partial(decode_entries, entries, self.size))
        if start != len(self.hashes):
            raise InpaintError(f"{self.name} was changed while it was being read; run the same command again")


def _portions(entries: Iterator[Entry], most: int) -> Iterator[list[Entry]]:
    """Some consecutive entries at a time, fewer where their bytes are in memory."""
    some: list[Entry] = []
    num_bytes = 0
    for entry in entries:
        some.append(entry)
        num_bytes += len(entry.data or b"")
        if len(some) == most or num_bytes >= TASK_BYTES:
            yield some
            some, num_bytes = [], 0
    if some:
        yield some


def _synthetic_recipe(spec: SyntheticSpec, size: int) -> _Recipe:
    from inpaint.data import synthetic

    nums: dict[Split, int] = {"train": spec.num_train, "validation": spec.num_validation, "test": spec.num_test}

    def listings() -> tuple[dict[Split, _Listing], list[str]]:
        names = {split: [str(SYNTHETIC_START[split] + index) for index in range(num)] for split, num in nums.items()}
        return {split: _Listing(its, np.array(list(map(key_hash, its)), np.uint64)) for split, its in names.items()}, []

    def decode(split: Split, places: NDArray[np.int64]) -> Decoded:
        return Decoded(synthetic.render(spec.seed, SYNTHETIC_START[split] + places, size), range(len(places)))

    def tasks(most: int) -> Iterator[_Task]:
        for number, (split, num) in enumerate(nums.items()):
            for start in range(0, num, most):
                places = np.arange(start, min(start + most, num))
                yield _Task(np.full(len(places), number, np.int8), places, partial(decode, split, places))

    # Other code may draw other pictures, so the code is part of the name.
    code = hashlib.blake2b(Path(synthetic.__file__).read_bytes(), digest_size=6).hexdigest()
    counts = "-".join(str(num) for num in nums.values())
    return _Recipe("the made-up landscapes", lambda: f"synthetic-{spec.seed}-{counts}-{code}", listings, tasks)


# --- Writing an entry -----------------------------------------------------------------------------------------------


class _SplitFiles:
    """The files of one split while they are being filled, at the places that its pictures will have."""

    def __init__(self, folder: Path, split: Split, listing: _Listing, size: int) -> None:
        self.folder, self.split, self.listing, self.size = folder, split, listing, size
        self.file = (folder / f"{split}.npy").open("wb+", buffering=0)
        self._write_header(len(listing.sources))
        self.start = self.file.tell()
        self.is_kept = np.zeros(len(listing.sources), bool)
        self.coordinates: NDArray[np.int32] | None = None

    def write(
        self, places: NDArray[np.int64], pixels: NDArray[np.uint8], coordinates: NDArray[np.int32] | None
    ) -> None:
        num_bytes, ends = 3 * self.size**2, np.flatnonzero(np.diff(places) != 1) + 1
        for run in np.split(np.arange(len(places)), ends):
            os.pwrite(self.file.fileno(), pixels[run].data, self.start + int(places[run[0]]) * num_bytes)
        self.is_kept[places] = True
        if coordinates is not None:
            if self.coordinates is None:
                self.coordinates = np.zeros((len(self.is_kept), coordinates.shape[1]), np.int32)
            self.coordinates[places] = coordinates

    def finish(self) -> int:
        """Closes the gaps that unusable pictures left; returns how many pictures there are."""
        import pyarrow as pa

        kept, num_bytes = np.flatnonzero(self.is_kept), 3 * self.size**2
        for place in range(int(np.argmin(self.is_kept)) if len(kept) < len(self.is_kept) else len(kept), len(kept)):
            moved = os.pread(self.file.fileno(), num_bytes, self.start + int(kept[place]) * num_bytes)
            os.pwrite(self.file.fileno(), moved, self.start + place * num_bytes)
        self._write_header(len(kept))
        self.file.truncate(self.start + len(kept) * num_bytes)
        os.fsync(self.file.fileno())
        self.file.close()
        coordinates = None if self.coordinates is None else self.coordinates[kept]
        table = table_of(
            [self.listing.sources[place] for place in kept.tolist()], self.listing.key_hashes[kept], coordinates
        )
        with durable(self.folder / f"{self.split}.arrow") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        return len(kept)

    def _write_header(self, num: int) -> None:
        """At the start. Its length does not depend on `num`: numpy leaves room for the first axis to grow."""
        self.file.seek(0)
        header = {"descr": "|u1", "fortran_order": False, "shape": (num, self.size, self.size, 3)}
        np.lib.format.write_array_header_1_0(self.file, header)


def _fill(folder: Path, entry: Path, recipe: _Recipe, size: int, max_bad_fraction: float, show_progress: bool) -> None:
    """Decodes all splits into `folder`, which will be called `entry`."""
    from tqdm import tqdm

    listings, bad = recipe.listings()
    num_listed = sum(len(listing.sources) for listing in listings.values())
    check_room(entry.parent, num_listed * size * size * 3)
    for split, listing in listings.items():
        _refuse_empty(recipe.name, split, len(listing.sources))
    num_seen, total = len(bad), len(bad) + num_listed
    most = max(1, min(TASK_PICTURES, TASK_BYTES // (size * size * 3)))
    files = {SPLITS.index(split): _SplitFiles(folder, split, listing, size) for split, listing in listings.items()}
    bar = tqdm(total=num_listed, desc="decoding", unit="picture", disable=not show_progress)
    with bar, ThreadPoolExecutor(_num_processors(), thread_name_prefix="decode") as pool:
        for task, part in _decode_in_order(recipe.tasks(most), pool):
            splits, places = task.splits[part.rows], task.places[part.rows]
            for number in np.unique(splits).tolist():
                its = np.flatnonzero(splits == number)
                coordinates = None if part.coordinates is None else part.coordinates[its]
                files[number].write(places[its], part.pixels[its], coordinates)
            bad.extend(part.bad)
            num_seen += len(task.places)
            bar.update(len(task.places))
            _refuse_too_many(recipe.name, bad, num_seen, total, max_bad_fraction)
    for split_files in files.values():
        _refuse_empty(recipe.name, split_files.split, split_files.finish())
    with durable(folder / "entry.json") as file:
        facts = {"source": recipe.name, "num_pictures": total, "bad": bad, "key_rule": KEY_RULE}
        file.write(json.dumps(facts).encode())
    with durable(folder / "bad.txt") as file:
        file.write("".join(f"{line}\n" for line in bad).encode())
    if bad:
        shown = "".join(f"\n  {line}" for line in bad[:NUM_NAMED])
        more = f"\n  and {len(bad) - NUM_NAMED} more" if len(bad) > NUM_NAMED else ""
        log.warning("%d of %d pictures are left out (%s):%s%s", len(bad), total, entry / "bad.txt", shown, more)


def _num_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decode_in_order(tasks: Iterator[_Task], pool: ThreadPoolExecutor) -> Iterator[tuple[_Task, Decoded]]:
    """Decodes on all processors with a few parts ahead, so that memory does not grow with the split."""
    ahead = deque((task, pool.submit(task.decode)) for task in islice(tasks, 2 * _num_processors()))
    while ahead:
        task, part = ahead.popleft()
        yield task, part.result()
        ahead.extend((task, pool.submit(task.decode)) for task in islice(tasks, 1))


def _refuse_empty(name: str, split: Split, num: int) -> None:
    if num == 0:
        raise InpaintError(
            f"the {split} split of {name} is empty: a source without splits is parted 85/10/5 and needs enough "
            "pictures for all three (100 do); add some, or give it folders train/, validation/ and test/"
        )


def _refuse_too_many(name: str, bad: Sequence[str], num_seen: int, total: int, max_bad_fraction: float) -> None:
    if len(bad) > max_bad_fraction * total:
        seen = f"{total}" if num_seen == total else f"first {num_seen} (of {total})"
        raise InpaintError(
            f"{len(bad)} of the {seen} pictures of {name} cannot be used, more than data.max_bad_fraction = "
            f"{max_bad_fraction:g} allows; the first are {'; '.join(bad[:3])}. Mend or remove them, or allow more"
        )


# --- Reading an entry -----------------------------------------------------------------------------------------------


class _Strings(Sequence[str]):
    """A memory-mapped column of text, so that millions of names cost a process nothing."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        found = self._column[index]
        return found.to_pylist() if isinstance(index, slice) else found.as_py()


def _open(
    entry: Path, name: str, splits: Sequence[Split], spec: HoleSpec, max_bad_fraction: float
) -> dict[Split, Pictures]:
    try:
        facts = json.loads((entry / "entry.json").read_bytes())
        pictures = {split: _open_split(entry, split, spec) for split in splits}
    except (OSError, ValueError, KeyError) as error:
        raise InpaintError(f"the decoded pictures in {entry} are damaged ({error}): delete that folder") from error
    _refuse_too_many(name, facts["bad"], facts["num_pictures"], facts["num_pictures"], max_bad_fraction)
    return pictures


def _open_split(entry: Path, split: Split, spec: HoleSpec) -> Pictures:
    import pyarrow

    pixels = np.load(entry / f"{split}.npy", mmap_mode="r")
    table = pyarrow.ipc.open_file(pyarrow.memory_map(str(entry / f"{split}.arrow"))).read_all()
    holes, crops = coordinates_at(table, spec)
    return Pictures(pixels, holes, crops, _Strings(table["source"]))
