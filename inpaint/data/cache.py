"""Owns folders that are computed once and shared: an entry of the cache appears whole, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from inpaint.errors import InpaintError
from inpaint.files import human_size, sync

# Between two looks whether another machine or job is done.
LOCK_POLL_S = 1.0
# What a disk, a user or a file has no more room for.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StoppedError(Exception):
    """Who wanted an entry was asked to stop before it was there; what there is of it is gone on with."""


def cache_folder(configured: Path | None) -> Path:
    """The folder given, else $INPAINT_CACHE, else inpaint in $XDG_CACHE_HOME, which is ~/.cache where nobody says."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "")
    home = home if home.is_absolute() else Path("~/.cache")  # its specification says to pass over any other
    return Path(configured or os.environ.get("INPAINT_CACHE") or home / "inpaint").expanduser()


def build_once(entry: Path, fill: Callable[[Path], None], wants_stop: Callable[[], bool] = lambda: False) -> None:
    """Makes sure that the folder `entry` is there, by calling `fill` with a folder that then takes its name.

    One process at a time: others wait, and find the entry made. The folder is empty, or as one left it that was killed,
    stopped, or could not read. Raises `StoppedError` where `wants_stop` says so while this one waits.
    """
    if entry.is_dir():
        return
    from filelock import FileLock, Timeout  # the system frees the lock of a process that is killed

    mine = f"{entry.name}.partial-{socket.gethostname()}-"
    folder = entry.parent / f"{mine}{os.getpid()}"
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock, taken = FileLock(f"{entry}.lock"), None
        while taken is None:
            try:
                taken = lock.acquire(timeout=LOCK_POLL_S, poll_interval=LOCK_POLL_S)
            except Timeout:
                if wants_stop():
                    raise StoppedError from None
        with taken:
            if entry.is_dir():
                return
            # By processes that are gone, since the lock is ours. Renamed, so that their helpers find it no more.
            left = [path for path in entry.parent.iterdir() if path.name.startswith(mine)]
            for path in left[1:]:
                shutil.rmtree(path)
            if left:
                left[0].rename(folder)
            folder.mkdir(exist_ok=True)
            try:
                fill(folder)
            except Exception as error:  # raised again
                # What is decoded is kept where an image could not be read now; not where they have to be others.
                has_room = not (isinstance(error, OSError) and error.errno in _NO_ROOM)
                are_wrong = isinstance(error, InpaintError) and error.__cause__ is None
                if are_wrong or not has_room or not any(folder.iterdir()):
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            sync(folder)
            folder.rename(entry)
            sync(entry.parent)
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InpaintError(
            f"cannot write to the cache of decoded images, {entry.parent} ({why}): set data.cache_dir or "
            "$INPAINT_CACHE to another folder"
        ) from error


def check_room(cache: Path, num_bytes: int) -> None:
    """Raises InpaintError if `num_bytes` and a little more do not fit."""
    free = shutil.disk_usage(cache).free
    if free < num_bytes * 1.05:
        raise InpaintError(
            f"the cache of decoded images needs {human_size(num_bytes)} in {cache}, where {human_size(free)} are "
            "free: make room, or set data.cache_dir or $INPAINT_CACHE to another folder"
        )
