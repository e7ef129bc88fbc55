"""Owns the ways into a source of pictures: a folder, a tar file, or a dataset of the Hub, each as a stream of entries.

Whatever the source, its entries come in an order that only its contents decide, and are never all in memory. A folder
and its tar give entries of the same names.
"""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from inpaint.data.folders import PICTURE_SUFFIXES
from inpaint.data.places365 import class_of, known_spellings, spelling
from inpaint.errors import InpaintError, UsageError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# Folders that divide a dataset, never a part of the path that all its pictures share.
SPLIT_FOLDERS = frozenset({"train", "val", "validation", "test"})
NO_CLASS = "unlabelled"


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture of a source: what it is called, and where its bytes are.

    Args:
        source: its path in the original, with "/", without the folders that all pictures share.
        label: its class.
        key: `<class>/<file name>`, or its index where there is no path; decides its split and its hole.
        size: in bytes.
        file, offset: the file that holds the bytes.
        data: the bytes themselves, where the source can only be read from front to back.
    """

    source: str
    label: str
    key: str
    size: int
    file: Path | None = None
    offset: int = 0
    data: bytes | None = None

    def read(self) -> bytes:
        """The picture file's bytes."""
        if self.data is not None:
            return self.data
        assert self.file is not None
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass
class Survey:
    """What a first pass, over the names alone, found.

    Args:
        labels: pictures by class; empty where only reading the pictures tells.
        num_pictures: how many there are, if known.
        passed_over: what is no picture, by kind; `examples` has the first name of each.
        is_places365: a tree `train/<class>/...` with official class names only.
    """

    labels: Counter[str] = field(default_factory=Counter)
    num_pictures: int | None = None
    passed_over: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    is_places365: bool = False

    def pass_over(self, kind: str, name: str) -> None:
        self.passed_over[kind] += 1
        self.examples.setdefault(kind, name)


class Source(Protocol):
    """A place that pictures come from."""

    def survey(self) -> Survey:
        """See what is there; comes before `entries`."""
        ...

    def entries(self) -> Iterator[Entry]:
        """Every picture, in the same order each time."""
        ...


def open_source(source: str) -> Source:
    """A folder of pictures, a tar file, a folder of parquet shards, or a Hub id (`ORG/NAME` or `ORG/NAME@REVISION`).

    Raises:
        UsageError: it is none of these.
    """
    path = Path(source)
    if path.is_dir():
        has_shards = any(any(path.glob(pattern)) for pattern in ("*.parquet", "data/*.parquet"))
        return HubSource(source) if has_shards else PathSource(path)
    if path.is_file():
        if path.name.endswith(TAR_SUFFIXES) or tarfile.is_tarfile(path):
            return PathSource(path)
        raise UsageError(f"--source {source} is a file, but no tar; give a folder, a tar or a Hub id")
    if source.count("/") == 1 and not source.startswith((".", "/", "~")) and not source.endswith(TAR_SUFFIXES):
        return HubSource(source)
    raise UsageError(f"--source {source} does not exist; give a folder, a tar or a Hub id such as ORG/NAME")


class PathSource:
    """A folder or a tar: pictures have paths, and the last folder is the class."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_shared = 0

    def survey(self) -> Survey:
        found = Survey()
        folders: Counter[tuple[str, ...]] = Counter(
            tuple(file.source.split("/")[:-1]) for file in self._files(found, with_data=False)
        )
        # A tar often has everything below one folder more than the folder it was made of.
        above = [tuple(takewhile(lambda part: part not in SPLIT_FOLDERS, folder[:-1])) for folder in folders]
        self.num_shared = len(os.path.commonprefix(above))  # noqa: RUF071 - of tuples, whole parts are compared
        for folder, num in folders.items():
            found.labels[class_of(folder[self.num_shared :]) or NO_CLASS] += num
        found.num_pictures = found.labels.total()
        found.is_places365 = any("train" in folder for folder in folders) and all(
            not SPLIT_FOLDERS.isdisjoint(folder[:-1]) and spelling(class_of(folder) or "") in known_spellings()
            for folder in folders
        )
        return found

    def entries(self) -> Iterator[Entry]:
        for file in self._files(Survey(), with_data=True):
            parts = file.source.split("/")[self.num_shared :]
            label = class_of(tuple(parts[:-1]))
            key = f"{label}/{parts[-1]}" if label else parts[-1]
            yield replace(file, source="/".join(parts), label=label or NO_CLASS, key=key)

    def _files(self, found: Survey, with_data: bool) -> Iterator[Entry]:
        if self.path.is_dir():
            return _walk(self.path.resolve(), self.path, "", found, seen=set())
        return _tar_members(self.path, found, with_data)


class HubSource:
    """A dataset with a column of pictures, from the Hub or a folder of parquet shards, read as a stream.

    Every process streams all of it and works on its part: the keys of pictures without a path are their indices.
    """

    def __init__(self, source: str) -> None:
        self.name, _, self.revision = (source, "", "") if Path(source).is_dir() else source.partition("@")

    def survey(self) -> Survey:
        splits = self._splits()
        info = next(iter(splits.values())).info
        sizes = [info.splits[name].num_examples for name in splits] if info.splits else [0]
        return Survey(num_pictures=sum(sizes) if all(sizes) else None)

    def entries(self) -> Iterator[Entry]:
        import datasets

        index = 0
        for name, split in self._splits().items():
            features = split.features
            images = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
            if not images:
                raise UsageError(f"{self.name} has no column of pictures; its columns are {', '.join(features)}")
            classes = next((c for c, kind in features.items() if isinstance(kind, datasets.ClassLabel)), None)
            columns = [images[0], *([classes] if classes else []), *(["source"] if "source" in features else [])]
            rows = split.select_columns(columns).cast_column(images[0], datasets.Image(decode=False))
            for row in rows:
                label = None if classes is None or row[classes] is None else features[classes].int2str(row[classes])
                path = row.get("source") or row[images[0]]["path"]
                yield _row_entry(row[images[0]], path, label, index, split=str(name))
                index += 1

    def _splits(self) -> dict[str, Any]:
        import datasets

        try:
            splits = datasets.load_dataset(self.name, revision=self.revision or None, streaming=True)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            detail = " ".join(str(error).split()) or type(error).__name__
            raise InpaintError(f"the dataset {self.name} can't be opened: {detail}") from error
        if any(split.features is None for split in splits.values()):
            raise InpaintError(f"the dataset {self.name} does not say what its columns are; save it as parquet first")
        return dict(splits)


def _row_entry(image: dict[str, Any], path: str | None, label: str | None, index: int, split: str) -> Entry:
    data = image["bytes"]
    if data is None:
        import fsspec

        with fsspec.open(image["path"], "rb") as file:
            data = file.read()
    name = path.rsplit("/", 1)[-1] if path else str(index)
    key = f"{label}/{name}" if path and label else name
    return Entry(path or f"{split}/{index}", label or NO_CLASS, key, len(data), data=data)


def _walk(root: Path, folder: Path, prefix: str, found: Survey, seen: set[tuple[int, int]]) -> Iterator[Entry]:
    """The pictures below `folder`. Links to folders elsewhere are followed, but none is entered twice.

    Links to folders of the same tree are not: these have their own names, and links may form loops.
    """
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return found.pass_over("link to a folder already read", prefix)
        seen.add((status.st_dev, status.st_ino))
        children = sorted(os.scandir(folder), key=lambda child: child.name)
    except OSError as error:
        raise InpaintError(f"the folder {folder} can't be read: {error.strerror}") from error
    for child in children:
        name = prefix + child.name
        if child.is_dir():
            if child.is_symlink() and Path(child.path).resolve().is_relative_to(root):
                found.pass_over("link to a folder of the same tree", name)
            elif not _is_hidden(child.name):
                yield from _walk(root, Path(child.path), f"{name}/", found, seen)
        elif _is_picture(name, found):
            if child.is_file():
                yield Entry(name, "", "", child.stat().st_size, file=Path(child.path))
            else:
                found.pass_over("broken link", name)
    return None


def _tar_members(path: Path, found: Survey, with_data: bool) -> Iterator[Entry]:
    """The pictures in a tar. Of a plain tar only the headers are read; a compressed one is read through."""
    try:
        compressed = _is_compressed(path)
        with tarfile.open(path, "r|*" if compressed else "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else it remembers all of them
                name = member.name.removeprefix("./")
                if member.isdir():
                    continue
                if name.startswith("/") or ".." in name.split("/"):
                    found.pass_over("unsafe path", name)
                elif not _is_picture(name, found):
                    continue
                elif not member.isreg() or member.issparse():
                    found.pass_over("link or special file in a tar", name)
                elif not compressed:
                    yield Entry(name, "", "", member.size, file=path, offset=member.offset_data)
                else:
                    content = tar.extractfile(member) if with_data else None
                    yield Entry(name, "", "", member.size, data=content.read() if content else None)
            if not compressed:
                _check_end(path, tar.offset)
    except (tarfile.TarError, EOFError, OSError) as error:
        detail = " ".join(str(error).split())
        raise InpaintError(f"the tar {path} can't be read to its end ({detail}); is the download complete?") from error


def _check_end(path: Path, offset: int) -> None:
    """`tarfile` takes a header that is cut short or damaged for the end, which is a block of zeros."""
    with path.open("rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no header and no end mark at byte {offset}")


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(6)
    return start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_picture(name: str, found: Survey) -> bool:
    """By its name alone; what the file really is shows when it is opened."""
    *folders, last = name.split("/")
    if _is_hidden(last) or any(map(_is_hidden, folders)):
        found.pass_over("hidden", name)
        return False
    if os.path.splitext(last)[1].lower() not in PICTURE_SUFFIXES:  # noqa: PTH122 - a tar's names are no paths here
        found.pass_over("not a picture by its name", name)
        return False
    return True
