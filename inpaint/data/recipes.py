"""Owns what there is to decode: the images of a source, or synthetic landscapes, by split and in their order."""

from __future__ import annotations

import hashlib
import logging
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inpaint.config import DataConfig
from inpaint.data.decode import Decoded, decode_entries
from inpaint.errors import InpaintError
from inpaint.sources.keys import SPLITS, Split, key_hash, split_for
from inpaint.sources.opening import open_source
from inpaint.sources.source import Entry, Source

# Where each split's indices begin among the synthetic landscapes: far apart, so that a larger split moves no other.
SYNTHETIC_START: dict[Split, int] = {"train": 0, "validation": 1 << 40, "test": 2 << 40}
# What draws them.
CODE = Path(__file__).parent / "synthetic"
# Of images in memory for one task.
TASK_BYTES = 4 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SyntheticSpec:
    """How many landscapes to make up, and from which seed."""

    num_train: int
    num_validation: int
    num_test: int
    seed: int
    clutter: float = 0.0
    """Share of the training images with clutter."""

    @classmethod
    def of(cls, data: DataConfig) -> SyntheticSpec:
        """What a training without `data.path` learns from."""
        held_out = data.synthetic_held_out
        return cls(data.synthetic_train, held_out, held_out, seed=0, clutter=data.synthetic_clutter)


@dataclass(frozen=True)
class Listing:
    """One split before decoding: its images in their order, which is that of their keys' hashes: the same for the
    same images, wherever they come from."""

    sources: Sequence[str]
    key_hashes: NDArray[np.uint64]


@dataclass(frozen=True)
class Task:
    """Some images to decode: in which split each is, and its place there."""

    splits: NDArray[np.int8]
    places: NDArray[np.int64]
    decode: Callable[[], Decoded]

    @property
    def digest(self) -> int:
        return zlib.crc32(self.splits.tobytes() + self.places.tobytes())


class PhotoRecipe:
    """A source of images: opened by who needs it, listed once (`listings`), then read in its own order (`tasks`).

    Of shards that are streamed for the rest, `only` some splits; None: all.
    """

    def __init__(self, name: str, only: Sequence[Split] | None, size: int) -> None:
        self.name, self.only, self.size = name, only, size

    @cached_property
    def source(self) -> Source:
        from inpaint.data.stream import find_shards

        return open_source(self.name) if self.only is None else find_shards(self.name).only(self.only)

    def fingerprint(self) -> str:
        return self.source.fingerprint()

    def listings(self) -> tuple[dict[Split, Listing], list[str]]:
        """The splits, and what can't be used."""
        survey = self.source.survey()
        splits, hashes, ties, sources = array("b"), array("Q"), array("Q"), list[str]()
        for entry in self.source.entries(with_data=False):
            hashes.append(entry.key_hash)
            splits.append(SPLITS.index(split_for(hashes[-1], entry.split, survey.own_splits)))
            ties.append(key_hash(entry.source))
            sources.append(entry.source)
        self.splits, self.hashes = np.array(splits, np.int8), np.array(hashes, np.uint64)
        self.places = np.empty(len(sources), np.int64)
        listed: dict[Split, Listing] = {}
        for split in self.only or SPLITS:
            its = np.flatnonzero(self.splits == SPLITS.index(split))
            its = its[np.lexsort((np.array(ties, np.uint64)[its], self.hashes[its]))]
            self.places[its] = np.arange(len(its))
            listed[split] = Listing([sources[image] for image in its], self.hashes[its])
        for line in survey.lost():
            log.warning("%s: %s", self.name, line)
        return listed, [f"{name}: {why}" for name, why in survey.bad]

    def tasks(self, most: int) -> Iterator[Task]:
        """All images, at most so many at a time."""
        changed = InpaintError(f"{self.name} was changed while it was being read; run the same command again")
        start = 0
        for entries in _portions(self.source.entries(), most):
            rows = slice(start, start + len(entries))
            start += len(entries)
            if [entry.key_hash for entry in entries] != self.hashes[rows].tolist():
                raise changed
            yield Task(self.splits[rows], self.places[rows], partial(decode_entries, entries, self.size))
        if start != len(self.hashes):
            raise changed


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


class SyntheticRecipe:
    name = "the synthetic landscapes"

    def __init__(self, spec: SyntheticSpec, size: int) -> None:
        self.spec, self.size = spec, size
        nums = spec.num_train, spec.num_validation, spec.num_test
        self.nums: dict[Split, int] = dict(zip(SPLITS, nums, strict=True))

    def fingerprint(self) -> str:
        # Other code may draw other landscapes, so all of it is part of the name.
        code = b"".join(path.read_bytes() for path in sorted(CODE.glob("*.py")))
        digest = hashlib.blake2b(code, digest_size=6).hexdigest()
        clutter = f"-{self.spec.clutter}" if self.spec.clutter else ""
        return f"synthetic-{self.spec.seed}-{'-'.join(map(str, self.nums.values()))}{clutter}-{digest}"

    def listings(self) -> tuple[dict[Split, Listing], list[str]]:
        names = {
            split: [str(SYNTHETIC_START[split] + index) for index in range(num)] for split, num in self.nums.items()
        }
        return {split: Listing(its, np.array(list(map(key_hash, its)), np.uint64)) for split, its in names.items()}, []

    def tasks(self, most: int) -> Iterator[Task]:
        for split, num in self.nums.items():
            for start in range(0, num, most):
                places = np.arange(start, min(start + most, num))
                splits = np.full(len(places), SPLITS.index(split), np.int8)
                yield Task(splits, places, partial(self._decode, split, SYNTHETIC_START[split] + places))

    def _decode(self, split: Split, indices: NDArray[np.int64]) -> Decoded:
        from inpaint.data.synthetic.clutter import is_cluttered, with_clutter
        from inpaint.data.synthetic.landscapes import render

        images = render(self.spec.seed, indices, self.size)
        if split == "train" and self.spec.clutter:
            some = is_cluttered(self.spec.seed, indices, self.spec.clutter)
            images[some] = with_clutter(self.spec.seed, indices[some], images[some])
        return Decoded(images, range(len(indices)))


Recipe = PhotoRecipe | SyntheticRecipe
