"""Owns the rule by which an image is known: its class, its key and its split, the same wherever it is read from.

The key, `<class>/<file name>`, decides the split and the hole of an image that brings none. The class is the official
name for Places365, else the folders between the source's root and the file, joined by "-"; in tables it is the name of
the label. An image without a name is known by its content. The rule has a version, written into datasets, caches and
runs, so that none of them mixes two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from inpaint.errors import InpaintError
from inpaint.sources.places365 import official_class

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

# Raised whenever an image may get another key; 1 took the last folder alone, and counted images without a path.
KEY_RULE = 2
# The class, in tables, of an image that has none.
NO_CLASS = "unlabelled"
SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "data_256", "data_large", "data_256_standard", "data_large_standard"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev", "val_256", "val_large"), "validation"),
    **dict.fromkeys(("test", "test_256", "test_large"), "test"),
}
# Of a tree's classes, the share that must be official for it to be Places365.
OFFICIAL_SHARE = 0.75


def class_of(folders: Sequence[str]) -> str:
    """The class of an image that lies in `folders`, outermost first; "" for none: ("f", "field", "wild") and
    ("field_wild",) are "field-wild", ("europe", "lake") is "europe-lake"."""
    name = "-".join(folders)
    return official_class(name) or name


def key_of(label: str, source: str) -> str:
    """The key of an image of class `label` ("" or `NO_CLASS`: none) whose path ends in its file's name."""
    name = source.rpartition("/")[2]
    return f"{label}/{name}" if label not in ("", NO_CLASS) else name


def key_hash(key: str) -> int:
    """64 bits from an image's key (`<class>/<file name>`, or its index): the same on every machine, for ever."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def split_of(hashed_key: int) -> Split:
    """85/10/5 by the key's hash alone, so that adding images moves none to another split (paper, "Dataset")."""
    position = hashed_key % 10_000
    return "train" if position < 8_500 else "validation" if position < 9_500 else "test"


def split_for(hashed_key: int, own: Split | None, present: Collection[Split]) -> Split:
    """An image's split: its own, but those that the source lacks are taken out of `train` by the key."""
    by_key = split_of(hashed_key)
    return by_key if own is None or (own == "train" and by_key not in present) else own


def printable(name: str) -> str:
    """A file's name as text: names need not be UTF-8, columns of text must."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Layout:
    """How the folders of a tree are read.

    Attributes:
        num_shared: outermost folders that hold all images and are part of no class.
        splits: what the folders below these are, by name, where they are splits.
        is_places365: most classes have official names, in a tree like the official ones.
        official, strange: the tree's classes, with official names and without.
    """

    num_shared: int
    splits: Mapping[str, Split]
    is_places365: bool
    official: frozenset[str]
    strange: frozenset[str]

    @classmethod
    def of(cls, folders: Sequence[tuple[str, ...]], in_archive: bool) -> Layout:
        """The layout of a tree whose images lie in `folders`.

        Folders `train`, `val`, `dev`, `test` and the like are splits if there is a `train`, and if this is the only one
        of them and has others beside it, only if it holds no images itself. Else they are classes. What an archive
        holds mostly lies in one folder more than the folder that it was made of.
        """
        num_shared = 0
        above = {tuple(takewhile(lambda part: part.lower() not in SPLIT_NAMES, folder)) for folder in folders}
        if len(above) == 1 and "train" in {SPLIT_NAMES.get(_at(folder, len(min(above))).lower()) for folder in folders}:
            num_shared = len(above.pop())
        elif in_archive and len({folder[:1] for folder in folders}) == 1 and all(len(folder) > 1 for folder in folders):
            num_shared = 1
        inner = [folder[num_shared:] for folder in folders]
        tops = {_at(folder, 0) for folder in inner}
        splits = {top: SPLIT_NAMES[top.lower()] for top in tops if top.lower() in SPLIT_NAMES}
        is_class = any(len(folder) == 1 and splits.get(folder[0]) == "train" for folder in inner)
        if "train" not in splits.values() or (len(splits) == 1 < len(tops) and is_class):
            splits = {}
        parts = [
            folder[1:] if _at(folder, 0) in splits else folder
            for folder in inner
            if _at(folder, 0) in splits or not splits
        ]
        classes = {class_of(part) for part in parts} - {""}
        official = frozenset(name for name in classes if official_class(name))
        is_lettered = any(len(part) > 1 and len(part[0]) == 1 and class_of(part) in official for part in parts)
        is_places365 = (
            len(official) > 0 and len(official) >= OFFICIAL_SHARE * len(classes) and bool(splits or is_lettered)
        )
        if splits and not is_places365 and (outside := sorted(tops - splits.keys())):
            raise InpaintError(
                f"there are the split folders {', '.join(sorted(splits))} and images outside them, such as in "
                f"{outside[0] or 'the folder itself'}: move these into a split, or away"
            )
        return cls(num_shared, splits, is_places365, official, frozenset(classes - official))

    def read(self, folders: tuple[str, ...]) -> tuple[Split | None, str] | str:
        """The split (None: it has none of its own) and class of an image in `folders`; else why it is passed over."""
        inner = folders[self.num_shared :]
        if not self.splits:
            return None, class_of(inner)
        if _at(inner, 0) not in self.splits:
            return "outside the split folders"
        if self.is_places365 and len(inner) == 1:
            return "in a split of Places365 without class folders"
        return self.splits[inner[0]], class_of(inner[1:])


def _at(folders: tuple[str, ...], index: int) -> str:
    return folders[index] if len(folders) > index else ""
