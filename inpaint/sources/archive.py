"""Owns the sources whose images have paths: a folder, a tar or a zip. All three give entries of the same names."""

from __future__ import annotations

import hashlib
import heapq
import os
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from inpaint.errors import InpaintError
from inpaint.images.pixels import IMAGE_SUFFIXES, UNREAD_SUFFIXES
from inpaint.sources.keys import NO_CLASS, Layout, printable
from inpaint.sources.source import MAX_FILE_BYTES, Entry, Survey, unusable

# Of a folder of images, which may hold millions, so many are looked into: enough to see that all were worked over.
NUM_PROBED, PROBE_BYTES = 256, 1 << 16
ZIP_HEADER_BYTES = 30


class PathSource:
    """A folder, a tar or a zip; which split and class an image has say the folders that it lies in."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def survey(self) -> Survey:
        return self._looked[0]

    def fingerprint(self) -> str:
        """Of a folder the names and sizes of all images and the content of `NUM_PROBED` of them: that another one was
        replaced by a file of the very same size is not noticed. Of an archive its size and parts of it."""
        if self.path.is_dir():
            _, _, digest, probed = self._looked
            digest = digest.copy()
            for entry in probed:
                digest.update(_tail(entry))
            return f"folder-{digest.hexdigest()}"
        size = self.path.stat().st_size
        digest = hashlib.blake2b(str(size).encode(), digest_size=12)
        with self.path.open("rb") as file:
            starts = {max(0, (size - PROBE_BYTES) * part // (NUM_PROBED - 1)) for part in range(NUM_PROBED)}
            for start in sorted(starts):
                file.seek(start)
                digest.update(file.read(PROBE_BYTES))
        return f"archive-{digest.hexdigest()}"

    def entries(self, with_data: bool = True) -> Iterator[Entry]:
        found, layout, *_ = self._looked
        for entry in self._files(Survey(), with_data):
            *folders, _ = entry.source.split("/")
            if isinstance(read := layout.read(tuple(folders)), tuple):
                below = "/".join(entry.source.split("/")[layout.num_shared :])
                yield replace(
                    entry, source=below, split=read[0] if found.own_splits else None, label=read[1] or NO_CLASS
                )

    def located(self) -> Iterator[Entry]:
        return self.entries()

    @cached_property
    def _looked(self) -> tuple[Survey, Layout, Any, list[Entry]]:
        """What is there, how its folders are read, a digest of names and sizes, and whose content is to be probed."""
        found, digest = Survey(), hashlib.blake2b(digest_size=12)
        folders: Counter[tuple[str, ...]] = Counter()

        def seen() -> Iterator[tuple[bytes, Entry]]:
            for entry in self._files(found, with_data=False):
                folders[tuple(entry.source.split("/")[:-1])] += 1
                line = f"{entry.source}\0{entry.size}\n".encode()
                digest.update(line)
                yield hashlib.blake2b(line, digest_size=8).digest(), entry

        probed = [entry for _, entry in heapq.nsmallest(NUM_PROBED, seen(), key=lambda pair: pair[0])]
        return found, self._lay_out(found, folders), digest, probed

    def _lay_out(self, found: Survey, folders: Counter[tuple[str, ...]]) -> Layout:
        if not folders and not found.bad:
            kinds = ", ".join(f"{num} {suffix or 'without a suffix'}" for suffix, num in found.others.most_common(5))
            held = f"there are other files in it ({kinds})" if kinds else "it is empty"
            raise InpaintError(f"no images found in {self.path}, and no parquet shards: {held}; give one that has some")
        try:
            layout = Layout.of(list(folders), in_archive=not self.path.is_dir())
        except InpaintError as error:
            raise InpaintError(f"in {self.path} {error}") from error
        for folder, num in folders.items():
            if isinstance(read := layout.read(folder), str):
                found.pass_over(read, "/".join(folder) + "/", num)
            else:
                found.labels[read[1] or NO_CLASS] += num
                found.own_splits |= {read[0]} if read[0] else frozenset()
        if len(found.own_splits) == 1:
            found.own_splits = frozenset()  # all of the images, whatever it is called
        found.num_pictures, found.is_places365 = found.labels.total(), layout.is_places365
        strange = ", ".join(sorted(layout.strange)[:8])
        if layout.is_places365:
            others = f"; not its classes: {strange}" if strange else ""
            found.remark = f"taken for Places365: {len(layout.official)} of its classes{others}"
        elif len(layout.official) > len(layout.strange) > 0 or (layout.official and layout.splits):
            some = ", ".join(sorted(layout.official)[:8])
            found.remark = f"not taken for Places365, of whose names it has only {some}: {strange} are none"
        return layout

    def _files(self, found: Survey, with_data: bool) -> Iterator[Entry]:
        if self.path.is_dir():
            return _walk(self.path.resolve(), self.path, "", found, set(), IMAGE_SUFFIXES)
        if zipfile.is_zipfile(self.path):
            return _zip_members(self.path, found)
        return _tar_members(self.path, found, with_data)


def find_shards(root: Path) -> list[str]:
    """Paths in `root` of its parquet shards, if these are the dataset: at the top, in `data/`, or without images."""
    if not any(any(root.glob(pattern)) for pattern in ("*.parquet", "data/*.parquet")) and next(
        _walk(root.resolve(), root, "", Survey(), set(), IMAGE_SUFFIXES), None
    ):
        return []
    return [entry.source for entry in _walk(root.resolve(), root, "", Survey(), set(), {".parquet"}, max_bytes=None)]


def _tail(entry: Entry) -> bytes:
    assert entry.file is not None
    try:
        with entry.file.open("rb") as file:
            file.seek(max(0, entry.size - PROBE_BYTES))
            return hashlib.blake2b(file.read(PROBE_BYTES)).digest()
    except OSError:
        return b"unreadable"  # which is told when it is decoded


def _walk(
    root: Path,
    folder: Path,
    prefix: str,
    found: Survey,
    seen: set[tuple[int, int]],
    suffixes: frozenset[str] | set[str],
    max_bytes: int | None = MAX_FILE_BYTES,
) -> Iterator[Entry]:
    """The files below `folder` that have one of `suffixes`. Links to folders elsewhere are followed, none twice.

    Links to folders of the same tree are not: these have their own names, and links may form loops.
    """
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return found.pass_over("link to a folder already read", prefix)
        seen.add((status.st_dev, status.st_ino))
        children = sorted(os.scandir(folder), key=lambda child: child.name)
    except OSError as error:
        raise InpaintError(f"cannot list {folder}: {error.strerror}") from error
    for child in children:
        name = prefix + child.name
        try:
            if child.is_dir():
                if child.is_symlink() and Path(child.path).resolve().is_relative_to(root):
                    found.pass_over("link to a folder of the same tree", printable(name))
                elif not _is_hidden(child.name):
                    yield from _walk(root, Path(child.path), f"{name}/", found, seen, suffixes, max_bytes)
                continue
            of_file = child.stat() if _is_image(name, found, suffixes) else None
        except OSError as error:
            if _is_image(name, found, suffixes):
                found.pass_over(f"unreadable: {error.strerror}", printable(name), is_image=True)
            continue
        if of_file is not None:
            if fault := unusable(of_file, 0 if max_bytes is None else None):
                found.pass_over(f"unreadable: {fault}", printable(name), is_image=True)
            else:
                yield Entry(printable(name), size=of_file.st_size, file=Path(child.path))
    return None


def _tar_members(path: Path, found: Survey, with_data: bool) -> Iterator[Entry]:
    """The images in a tar. Of a plain tar only the headers are read; a compressed one is read through."""
    try:
        with path.open("rb") as start:
            compressed = start.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"))
        # Without a buffer, which would fill up with the images behind the headers.
        with (
            path.open("rb", buffering=0) as file,
            tarfile.open(path, "r|*") if compressed else tarfile.open(mode="r:", fileobj=file) as tar,
        ):
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else it remembers all of them
                name = member.name.removeprefix("./")
                if not member.isdir() and _is_usable(name, member.size, found):
                    if not member.isreg() or member.issparse():
                        found.pass_over("link or special file in an archive", printable(name))
                    elif not compressed:
                        yield Entry(printable(name), size=member.size, file=path, offset=member.offset_data)
                    else:
                        content = tar.extractfile(member) if with_data else None
                        yield Entry(printable(name), size=member.size, data=content.read() if content else None)
            # `tarfile` takes a header that is cut short or damaged for the end, which is a block of zeros.
            file.seek(tar.offset)
            if not compressed and file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no header and no end mark at byte {tar.offset}")
    except (tarfile.TarError, EOFError, OSError) as error:
        detail = " ".join(str(error).split())
        raise InpaintError(f"the tar {path} can't be read to its end ({detail}); is the download complete?") from error


def _zip_members(path: Path, found: Survey) -> Iterator[Entry]:
    """The images in a zip, by name; where the bytes lie says each one's own header."""
    try:
        with zipfile.ZipFile(path) as members, path.open("rb", buffering=0) as file:
            for member in sorted(members.infolist(), key=lambda member: member.filename):
                if member.is_dir() or not _is_usable(member.filename, member.file_size, found):
                    continue
                if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    found.pass_over("encrypted or compressed in a rare way", member.filename, is_image=True)
                    continue
                if stat.S_ISLNK(member.external_attr >> 16):
                    found.pass_over("link or special file in an archive", member.filename)
                    continue
                file.seek(member.header_offset)
                header = file.read(ZIP_HEADER_BYTES)
                lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
                yield Entry(
                    member.filename,
                    size=member.compress_size,
                    file=path,
                    offset=member.header_offset + ZIP_HEADER_BYTES + lengths,
                    is_deflated=member.compress_type == zipfile.ZIP_DEFLATED,
                )
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise InpaintError(f"the zip {path} can't be read ({error}); is the download complete?") from error


def _is_usable(name: str, size: int, found: Survey) -> bool:
    """Whether a member of an archive may be an image; else it is passed over."""
    if name.startswith("/") or ".." in name.split("/"):
        found.pass_over("unsafe path", printable(name))
    elif _is_image(name, found, IMAGE_SUFFIXES):
        if size <= MAX_FILE_BYTES:
            return True
        found.pass_over("unreadable: larger than 1 GiB", printable(name), is_image=True)
    return False


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_image(name: str, found: Survey, suffixes: frozenset[str] | set[str]) -> bool:
    """By its name alone; what the file really is shows when it is opened."""
    *folders, last = name.split("/")
    suffix = os.path.splitext(last)[1].lower()  # noqa: PTH122 - a tar's names are no paths here
    if _is_hidden(last) or any(map(_is_hidden, folders)):
        found.pass_over("hidden", printable(name))
    elif suffix in UNREAD_SUFFIXES:
        found.pass_over(f"{suffix[1:].upper()} images, which need {UNREAD_SUFFIXES[suffix]}", printable(name))
        found.others[suffix] += 1
    elif suffix not in suffixes:
        found.pass_over("not an image by its name", printable(name))
        found.others[suffix] += 1
    else:
        return True
    return False
