"""Owns how files reach the disk so that a crash at any moment leaves the old state or the new, never half of one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


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


def sync_directory(path: Path) -> None:
    """Make what was created, renamed or removed in a directory last."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file's content in one step."""
    temporary = path.with_name(f".{path.name}.tmp")
    write_synced(temporary, data)
    os.replace(temporary, path)
    sync_directory(path.parent)


def publish_directory(temporary: Path, final: Path) -> None:
    """Give a finished directory its name in one step; its files must have been written through."""
    sync_directory(temporary)
    os.rename(temporary, final)
    sync_directory(final.parent)


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
