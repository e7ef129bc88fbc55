"""Owns `inpaint prepare --check`: finds what would spoil training, reading the dataset as training does."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from inpaint.errors import InpaintError
from inpaint.holes.spec import HoleSpec
from inpaint.images.pixels import BadImage, open_image
from inpaint.sources.keys import SPLITS, Split, split_for
from inpaint.sources.opening import open_source
from inpaint.sources.source import Entry

SHARD_OF = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.parquet")
AGAIN = "run the command that made it again"


def faults(name: str, show_progress: bool = True) -> list[str]:
    """What is wrong with a dataset (a folder or a Hub id) and how to fix it, one sentence each; empty if it is fine.

    Every image is decoded. Copies are recognised by their bytes.
    """
    found = list(_shard_faults(Path(name))) if Path(name).is_dir() else []
    if found:
        return found
    try:
        source = open_source(name, "--check")
        survey = source.survey()
        found += [f"{path} can't be used: {why}; fix or delete it" for path, why in survey.bad]
        seen = _Seen()
        for entry in tqdm(source.entries(), "checking", survey.num_pictures, unit="image", disable=not show_progress):
            seen.add(split_for(entry.key_hash, entry.split, survey.own_splits), entry)
    except InpaintError as error:
        return [*found, str(error)]
    found += seen.faults()
    if (table := Path(name, "holes.csv")).is_file():
        with table.open(encoding="utf-8", newline="") as file:
            if sorted(list(csv.reader(file))[1:]) != sorted(seen.rows()):
                found.append(f"{table} disagrees with the columns `hole` and `crop`; delete it and {AGAIN}")
    return found


def _shard_faults(folder: Path) -> Iterator[str]:
    wanted: dict[tuple[str, str], set[str]] = {}
    for shard in sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]):
        try:
            pq.ParquetFile(shard)
        except (pa.ArrowException, OSError):
            yield f"{shard} is damaged or cut short; delete it and {AGAIN}"
        if match := SHARD_OF.fullmatch(shard.name):
            wanted.setdefault((match[1], match[3]), set()).add(match[2])
    for (split, num), present in wanted.items():
        if len(present) != int(num):
            yield f"{split} has only {len(present)} of its {int(num)} shards; {AGAIN}, or download the missing ones"


class _Seen:
    def __init__(self) -> None:
        self.num: Counter[Split] = Counter()
        self.sizes: set[tuple[int, int]] = set()
        self._first: dict[bytes, tuple[Split, str]] = {}
        self._bad: dict[Split, list[str]] = defaultdict(list)
        self._copies: dict[Split, list[str]] = defaultdict(list)
        self._holes: dict[Split, list[tuple[str, list[int]]]] = {split: [] for split in SPLITS}

    def rows(self) -> list[list[str]]:
        """What holes.csv should hold."""
        return [[source, *map(str, numbers)] for its in self._holes.values() for source, numbers in its]

    def add(self, split: Split, entry: Entry) -> None:
        self.num[split] += 1
        try:
            data = entry.read()
            self.sizes.add(open_image(data).size)
            digest = hashlib.blake2b(data, digest_size=16).digest()
            first_split, first = self._first.setdefault(digest, (split, entry.source))
            if first_split != split:
                self._copies[split].append(f"{entry.source} (in {first_split} too, as {first})")
        except BadImage as error:
            self._bad[split].append(f"{entry.source} ({error})")
        if entry.hole is not None and entry.crop is not None:
            self._holes[split].append((entry.source, [*map(int, entry.hole), *map(int, entry.crop)]))

    def faults(self) -> Iterator[str]:
        for split in SPLITS:
            bad, copies = self._bad[split], self._copies[split]
            if not self.num[split]:
                yield f"there is no image in {split}; with a few hundred images each split gets its share"
            if bad:
                yield f"{len(bad)} images of {split} can't be decoded, such as {bad[0]}; prepare the source again"
            if copies:
                yield (
                    f"{len(copies)} images of {split} are in another split too, such as {copies[0]}; prepare drops them"
                )
        if any(self._holes.values()):
            yield from self._coordinate_faults()

    def _coordinate_faults(self) -> Iterator[str]:
        """Holes and windows are in pixels of the stored image, so all must be squares of one size."""
        if len(self.sizes) != 1 or any(width != height for width, height in self.sizes):
            shown = ", ".join(f"{width}x{height}" for width, height in sorted(self.sizes)[:4])
            yield (
                f"images with stored holes must all be squares of one size; these are {shown}; prepare the source again"
            )
            return
        size = next(iter(self.sizes))[0]
        window = HoleSpec.scaled(size).window_px
        for split, listed in self._holes.items():
            wrong = [
                source
                for source, (x, y, width, height, left, top) in listed
                if not 0 <= left <= x < x + width <= left + window <= size
                or not 0 <= top <= y < y + height <= top + window <= size
            ]
            if wrong:
                yield (
                    f"{len(wrong)} holes of {split} do not lie in their {window} px window in the {size} px image, "
                    f"such as that of {wrong[0]}; {AGAIN}, or train with --data.holes resampled"
                )
