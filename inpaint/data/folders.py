"""Owns what lies in a folder: its pictures or parquet shards, which split each belongs to, and a fingerprint of them.

The splits are decided here because `datasets` guesses them: it takes a file `test_p1.jpg` or a class `train_station`
for a split, and loses the rest without a word.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from inpaint.data.holes import Split
from inpaint.errors import InpaintError

# What both Pillow and the `imagefolder` reader of `datasets` take for a picture.
# fmt: off
PICTURE_SUFFIXES = frozenset((
    ".apng", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx", ".pbm", ".pgm", ".png",
    ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
))
# fmt: on
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
SHARD_NAME = re.compile(rf"({'|'.join(sorted(SPLIT_NAMES, key=len, reverse=True))})(?:-|\.|_?\d)")
SHARD_TAIL_BYTES = 1 << 20
# Of a folder of pictures, which may hold millions, so many are looked into: enough to see that all were worked over.
NUM_PROBED, PROBE_BYTES = 256, 1 << 16


@dataclass(frozen=True)
class Folder:
    """What was found, by path relative to `root`, with forward slashes, sorted.

    Attributes:
        sizes: bytes of each file that is a picture or a shard.
        others: how many other files there are of each suffix.
        unusable: pictures that cannot be handed on at all: (path, why).
    """

    root: Path
    pictures: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    unusable: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_parquet(self) -> bool:
        """Shards at the top or in `data/` are the dataset; elsewhere among pictures they are something else."""
        at_top = any("/" not in name.removeprefix("data/") for name in self.shards)
        return at_top or bool(self.shards and not self.pictures)

    def fingerprint(self) -> str:
        """Changes with names, sizes and content, not with the place or the time of copying.

        The content is that of every shard, but of `NUM_PROBED` pictures only: that another one was replaced by a file
        of the very same size is not noticed.
        """
        digest = hashlib.blake2b(digest_size=12)
        names, tail_bytes = (self.shards, SHARD_TAIL_BYTES) if self.is_parquet else (self.pictures, PROBE_BYTES)
        every = 1 if self.is_parquet else -(-len(names) // NUM_PROBED)
        for index, name in enumerate(names):
            content = "" if index % every else self._tail_hash(name, tail_bytes)
            digest.update(f"{name}\0{self.sizes[name]}\0{content}\n".encode())
        return ("parquet-" if self.is_parquet else "folder-") + digest.hexdigest()

    def _tail_hash(self, name: str, num_bytes: int) -> str:
        """Of a file's last bytes: of a shard the footer, with each column's sizes and statistics, and the last rows."""
        try:
            with (self.root / name).open("rb") as file:
                file.seek(max(0, self.sizes[name] - num_bytes))
                return hashlib.blake2b(file.read(), digest_size=16).hexdigest()
        except OSError:
            if self.is_parquet:
                raise
            return "unreadable"  # as a picture it is told when it is decoded


def list_folder(root: Path) -> Folder:
    """Lists a tree, each folder once wherever links lead; hidden files and folders are left out.

    A link to a folder of the same tree is not followed: the folder is listed under its own name.

    Raises:
        InpaintError: a folder cannot be listed, or there is neither a picture nor a shard.
    """

    def refuse(error: OSError) -> None:
        raise InpaintError(f"cannot list {error.filename}: {error.strerror}") from error

    found = Folder(root)
    real_root = root.resolve()
    seen: set[tuple[int, int]] = set()
    for here, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        status = os.stat(here)  # noqa: PTH116 - paths stay strings in this loop: there may be millions
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and not ((link := Path(here, name)).is_symlink() and link.resolve().is_relative_to(real_root))
        )
        prefix = "" if here == str(root) else Path(here).relative_to(root).as_posix() + "/"
        for name in names:
            if not name.startswith("."):
                _add(found, here, prefix, name)
    found.pictures.sort()
    found.shards.sort()
    if not found.pictures and not found.shards:
        kinds = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in found.others.most_common(5))
        held = f"there are other files in it ({kinds})" if kinds else "it is empty"
        raise InpaintError(f"no pictures found in {root}, and no parquet shards: {held}; give a folder that has some")
    return found


def _add(found: Folder, here: str, prefix: str, name: str) -> None:
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
    if suffix not in PICTURE_SUFFIXES and suffix != ".parquet":
        found.others[suffix] += 1
        return
    path = prefix + name
    try:
        path.encode()
        size = os.stat(f"{here}/{name}").st_size  # noqa: PTH116
    except UnicodeEncodeError:
        found.unusable.append((os.fsencode(path).decode(errors="replace"), "unreadable: its name is not valid UTF-8"))
    except OSError as error:
        found.unusable.append((path, f"unreadable: {error.strerror}"))
    else:
        if "::" in path:
            found.unusable.append((path, "unreadable: datasets takes `::` in a path for a link into an archive"))
            return
        found.sizes[path] = size
        (found.shards if suffix == ".parquet" else found.pictures).append(path)


def split_pictures(folder: Folder) -> tuple[dict[Split, list[str]], bool]:
    """The pictures by split, and whether their paths begin with a split's folder.

    Top folders `train`, `val` or `validation`, and `test` are splits if there is a `train` and, when it is the only
    one of them, nothing beside it; else they are classes like others, and all pictures are returned as `train`.

    Raises:
        InpaintError: there are several split folders, and pictures outside them.
    """
    tops = {name.partition("/")[0] if "/" in name else "" for name in folder.pictures}
    named = {top for top in tops if top.lower() in SPLIT_NAMES}
    has_train = any(top.lower() == "train" for top in named)
    if not has_train or (named != tops and len(named) == 1):
        return {"train": folder.pictures}, False
    splits: dict[Split, list[str]] = {}
    for name in folder.pictures:
        top, slash, _ = name.partition("/")
        if not slash or top not in named:
            raise InpaintError(
                f"{folder.root} has the split folders {', '.join(sorted(named))} and pictures outside them, such as "
                f"{name}: move these into a split, or away"
            )
        splits.setdefault(SPLIT_NAMES[top.lower()], []).append(name)
    return splits, True


def split_shards(folder: Folder) -> dict[Split, list[str]]:
    """The shards by split, told by their names (`train-00000-of-00008.parquet`) or folders; all `train` if by neither.

    Raises:
        InpaintError: some shards name a split and others do not.
    """
    splits: dict[Split, list[str]] = {}
    unnamed: list[str] = []
    for shard in folder.shards:
        *above, name = shard.split("/")
        match = SHARD_NAME.match(name)
        word = match[1] if match else above[-1].lower() if above else ""
        (splits.setdefault(SPLIT_NAMES[word], []) if word in SPLIT_NAMES else unnamed).append(shard)
    if splits and unnamed:
        raise InpaintError(f"{folder.root / unnamed[0]} belongs to no split: name it like train-00000-of-00001.parquet")
    return splits or {"train": unnamed}


def digest(rows: Iterable[str]) -> str:
    """A short hash of some lines."""
    return hashlib.blake2b("\n".join(rows).encode(), digest_size=12).hexdigest()
