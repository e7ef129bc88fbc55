"""Owns what a source of images is, for `prepare` and for training alike: a stream of entries, each with its key.

Whatever the source, its entries come in an order that only its contents decide, and are never all in memory. The same
images have the same keys, splits and holes in every kind of source.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from inpaint.images.pixels import BadImage
from inpaint.sources.keys import NO_CLASS, Split, key_hash, key_of

# What is passed over and no image, or one that is read under another name.
HARMLESS = frozenset(
    ("hidden", "not an image by its name", "link to a folder already read", "link to a folder of the same tree")
)
# No image is larger; what is may be a device, or a file that is mostly holes.
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a source: what it is called, and where its bytes are.

    Args:
        source: its path in the original, with "/", as text; its content's hash where there is none.
        split: the source's own split that it is in, or None.
        size: of the file in bytes.
        file, offset: the file that holds the bytes; None and no `data`: there are none.
        data: the bytes themselves, where the source can only be read from front to back.
        rows: of a row that is not read yet the `RowGroup` that it is in, where it has the number `offset`.
        hole, crop: [x, y, width, height] and [x, y] in pixels of the stored image, where the source has them.
    """

    source: str
    label: str = NO_CLASS
    split: Split | None = None
    size: int = 0
    file: Path | None = None
    offset: int = 0
    is_deflated: bool = False
    data: bytes | None = None
    hole: Sequence[int] | None = None
    crop: Sequence[int] | None = None
    rows: Any = None

    @property
    def key(self) -> str:
        """What decides its split, if it has none of its own, and its hole."""
        return key_of(self.label, self.source)

    @property
    def key_hash(self) -> int:
        return key_hash(self.key)

    def read(self) -> bytes:
        """The image file's bytes.

        Raises:
            BadImage: there are none, or the file can't be read.
        """
        if self.data is not None:
            return self.data
        if self.file is None:
            raise BadImage("unreadable", "the row holds no image")
        try:
            if fault := unusable(self.file.stat(), self.size):
                raise BadImage("unreadable", fault)
            with self.file.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, MAX_FILE_BYTES) if self.is_deflated else data
        except (FileNotFoundError, PermissionError, zlib.error) as error:
            raise BadImage("unreadable", getattr(error, "strerror", None) or str(error)) from error


def unusable(status: os.stat_result, size: int | None = None) -> str:
    """Why a file is not to be read as an image; empty if it may be."""
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    return "larger than 1 GiB" if (status.st_size if size is None else size) > MAX_FILE_BYTES else ""


@dataclass
class Survey:
    """What a first pass, over the names alone, found.

    Args:
        labels: images by class; empty where only reading the images tells.
        own_splits: those that the source has itself; empty: images are parted by their keys.
        passed_over: what is not used, by kind; `examples` has the first name of each.
        bad: the images among that: (name, why).
        others: suffixes of files that are no images.
        is_places365: the classes are those of Places365, and its terms hold.
        remark: what was taken for what, if that is not plain.
    """

    labels: Counter[str] = field(default_factory=Counter)
    num_pictures: int | None = None
    own_splits: frozenset[Split] = frozenset()
    passed_over: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    bad: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    is_places365: bool = False
    remark: str = ""

    def pass_over(self, kind: str, name: str, num: int = 1, is_image: bool = False) -> None:
        self.passed_over[kind] += num
        self.examples.setdefault(kind, name)
        if is_image:
            self.bad.append((name, kind))

    def lost(self) -> list[str]:
        """What may be images and is not used, other than bad ones, one line each."""
        kinds = self.passed_over.keys() - HARMLESS - {kind for _, kind in self.bad}
        return [
            f"passed over: {self.passed_over[kind]} {kind}, such as {self.examples[kind]!r}" for kind in sorted(kinds)
        ]


class Source(Protocol):
    """A place that images come from."""

    def survey(self) -> Survey:
        """See what is there, once."""
        ...

    def fingerprint(self) -> str:
        """Changes with the images, not with where they lie or when they were copied."""
        ...

    def entries(self, with_data: bool = True) -> Iterator[Entry]:
        """Every image, in the same order each time; for their names alone without what is costly to read."""
        ...

    def located(self) -> Iterator[Entry]:
        """Every image in that order, with no more read than says where it is: `rows.loaded` reads the rest."""
        ...
