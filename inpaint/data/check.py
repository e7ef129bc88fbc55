"""Owns `inpaint prepare --check`: what would keep a dataset from training, read the way training reads it."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from inpaint.data.holes import SPLITS, HoleSpec, Split
from inpaint.data.photos import Photos, find
from inpaint.data.pixels import BadPicture, open_picture
from inpaint.errors import InpaintError

SHARD_OF = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.parquet")
AGAIN = "run the command that made it again"


def faults(name: str, show_progress: bool = True) -> list[str]:
    """What is wrong with a dataset (a folder or a Hub id) and how to mend it, one sentence each; empty if nothing is.

    Every picture is decoded. Copies are told by their bytes.
    """
    found = list(_shard_faults(Path(name))) if Path(name).is_dir() else []
    if found:
        return found
    try:
        source = find(name, show_progress)
        splits = source.read(None)
    except InpaintError as error:
        return [str(error)]
    found += [f"{path} can't be used: {why}; mend or delete it" for path, why in source.unusable]
    found += [
        f"there is no picture in {split}; it takes some hundred pictures for each split to get its share"
        for split in SPLITS
        if not len(splits[split])
    ]
    seen: dict[bytes, tuple[Split, str]] = {}
    sizes: set[tuple[int, int]] = set()
    with tqdm(desc="checking", total=sum(map(len, splits.values())), unit="picture", disable=not show_progress) as bar:
        for split, photos in splits.items():
            found += _picture_faults(split, photos, seen, sizes, bar)
    if any(photos.holes is not None for photos in splits.values()):
        found += _coordinate_faults(splits, sizes)
    if Path(name, "holes.csv").is_file():
        found += _table_faults(Path(name, "holes.csv"), splits)
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
            yield f"{split} has {len(present)} of its {int(num)} shards; {AGAIN}, or fetch the missing ones"


def _picture_faults(
    split: Split, photos: Photos, seen: dict[bytes, tuple[Split, str]], sizes: set[tuple[int, int]], bar: tqdm
) -> Iterator[str]:
    bad: list[str] = []
    copies: list[str] = []
    for source, row in zip(photos.sources, photos.dataset, strict=True):
        bar.update()
        data = row["image"]["bytes"] or Path(row["image"]["path"]).read_bytes()
        try:
            sizes.add(open_picture(data).size)
        except BadPicture as error:
            bad.append(f"{source} ({error})")
        first_split, first = seen.setdefault(hashlib.blake2b(data, digest_size=16).digest(), (split, source))
        if first_split != split:
            copies.append(f"{source} (in {first_split} too, as {first})")
    if bad:
        yield f"{len(bad)} pictures of {split} can't be decoded, such as {bad[0]}; prepare the source again"
    if copies:
        yield f"{len(copies)} pictures of {split} stand in another split, such as {copies[0]}; prepare drops copies"


def _coordinate_faults(splits: dict[Split, Photos], sizes: set[tuple[int, int]]) -> Iterator[str]:
    """Holes and windows are in pixels of the stored picture, so all must be squares of one size."""
    if len(sizes) != 1 or any(width != height for width, height in sizes):
        shown = ", ".join(f"{width}x{height}" for width, height in sorted(sizes)[:4])
        yield f"pictures with stored holes must all be squares of one size; these are {shown}; prepare the source again"
        return
    size = next(iter(sizes))[0]
    window = HoleSpec.scaled(size).window_px
    for split, photos in splits.items():
        if photos.holes is None or photos.crops is None:
            continue
        x, y, width, height = photos.holes.T
        left, top = photos.crops.T
        is_inside = (left >= 0) & (top >= 0) & (left + window <= size) & (top + window <= size)
        holds = (left <= x) & (top <= y) & (x + width <= left + window) & (y + height <= top + window)
        wrong = np.flatnonzero(~(is_inside & holds & (width > 0) & (height > 0)))
        if len(wrong):
            where = photos.sources[wrong[0]]
            yield (
                f"{len(wrong)} holes of {split} do not lie in their {window} px window in the {size} px picture, such "
                f"as that of {where}; {AGAIN}, or train with --data.holes resampled"
            )


def _table_faults(table: Path, splits: dict[Split, Photos]) -> Iterator[str]:
    rows = (
        [source, *map(str, hole), *map(str, crop)]
        for photos in splits.values()
        if photos.holes is not None and photos.crops is not None
        for source, hole, crop in zip(photos.sources, photos.holes.tolist(), photos.crops.tolist(), strict=True)
    )
    with table.open(encoding="utf-8", newline="") as file:
        if sorted(list(csv.reader(file))[1:]) != sorted(rows):
            yield f"{table} does not say the same as the columns `hole` and `crop`; delete it and {AGAIN}"
