"""Owns how files reach the disk so that a crash at any moment leaves the old state or the new, never half of one.

And how small ones are read back from a disk that may have damaged them.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import yaml

from inpaint.errors import UsageError

# Why nothing can be put into a folder, whatever it is.
NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_FILES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file through to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Make a file's content last, or what was created, renamed or removed in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file's content in one step."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write_synced(temporary, data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)  # half a file on a full disk would take the room that is left
        raise
    sync(path.parent)


def require_replaceable(path: Path) -> None:
    """UsageError where something lies at `path` that a file must not take the place of, such as a device or a FIFO."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return
    if kind != stat.S_IFREG:
        what = _NO_FILES.get(kind, "no regular file")
        raise UsageError(f"the output {path} is {what}, which no file can take the place of; give another name")


def publish_directory(temporary: Path, final: Path) -> None:
    """Make the content of a finished directory's files last, then give it its name in one step."""
    for path in (*temporary.iterdir(), temporary):
        sync(path)
    os.rename(temporary, final)
    sync(final.parent)


def remove_directory(path: Path) -> None:
    """Remove a directory so that nobody ever sees half of it under its name."""
    doomed = path.with_name(f".trash-{path.name}")
    if doomed.exists():
        shutil.rmtree(doomed)
    os.rename(path, doomed)
    shutil.rmtree(doomed)


def human_size(num_bytes: float) -> str:
    """Bytes in the unit that leaves something before the point: 0.7 KiB, 20.0 MiB, 1.5 GiB."""
    for unit in ("KiB", "MiB"):
        num_bytes /= 1024
        if num_bytes < 1000:
            return f"{num_bytes:.1f} {unit}"
    return f"{num_bytes / 1024:.1f} GiB"


def read_object(path: Path) -> dict[str, Any]:
    """The keys of a JSON file, or of one named .yaml; none if it is missing or damaged."""
    read = yaml.safe_load if path.suffix == ".yaml" else json.loads
    try:
        values = read(path.read_bytes())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The objects of a file with one JSON object a line, and the whole lines that are none.

    A last line that was cut short, as by a kill while it was written, is in neither.
    """
    try:
        *lines, _cut = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], []
    objects, damaged = [], []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            objects.append(value)
        else:
            damaged.append(line)
    return objects, damaged
