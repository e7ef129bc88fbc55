"""Owns folders that are computed once and shared: an entry of the cache appears whole, or not at all."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from inpaint.errors import InpaintError
from inpaint.files import human_size, sync_directory

# Between two looks whether another machine or job is done.
LOCK_POLL_S = 1.0


def cache_folder(configured: Path | None) -> Path:
    """The folder given, else $INPAINT_CACHE, else inpaint in $XDG_CACHE_HOME, which is ~/.cache where nobody says."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "")
    home = home if home.is_absolute() else Path("~/.cache")  # its specification says to pass over any other
    return Path(configured or os.environ.get("INPAINT_CACHE") or home / "inpaint").expanduser()


def build_once(entry: Path, fill: Callable[[Path], None]) -> None:
    """Makes sure that the folder `entry` is there, by calling `fill` with an empty folder that then takes its name.

    One process at a time: others wait, and find the entry made. What a killed process left is removed by the next.

    Raises:
        InpaintError: the cache cannot be written, or what `fill` raises.
    """
    if entry.is_dir():
        return
    with _locked(entry):
        if entry.is_dir():
            return
        mine = f"{entry.name}.partial-{socket.gethostname()}-"
        folder = entry.parent / f"{mine}{os.getpid()}"
        try:
            for left in entry.parent.iterdir():
                if left.name.startswith(mine):  # by a process that was killed, since the lock is ours
                    shutil.rmtree(left)
            folder.mkdir()
            fill(folder)
            sync_directory(folder)
            folder.rename(entry)
            sync_directory(entry.parent)
        except OSError as error:
            raise _cannot_write(entry.parent, error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def check_room(cache: Path, num_bytes: int) -> None:
    """Raises InpaintError if `num_bytes` and a little more do not fit."""
    free = shutil.disk_usage(cache).free
    if free < num_bytes * 1.05:
        raise InpaintError(
            f"the cache of decoded pictures needs {human_size(num_bytes)} in {cache}, where {human_size(free)} are "
            "free: make room, or set data.cache_dir or $INPAINT_CACHE to another folder"
        )


@contextmanager
def durable(path: Path) -> Iterator[BinaryIO]:
    """A new file that is on the disk when the block ends."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _locked(entry: Path) -> Iterator[None]:
    """One process of the machine at a time; the system frees the lock of one that is killed."""
    from filelock import FileLock

    lock = FileLock(f"{entry}.lock")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(poll_interval=LOCK_POLL_S)
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise _cannot_write(entry.parent, error) from error
    try:
        yield
    finally:
        lock.release()


def _cannot_write(cache: Path, error: Exception) -> InpaintError:
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return InpaintError(
        f"cannot write to the cache of decoded pictures, {cache} ({why}): set data.cache_dir or $INPAINT_CACHE to "
        "another folder"
    )
