"""Owns how processes with the same command share a folder: by the system's locks, which end with their process, and by
files that appear whole or not at all.

The folder may be on a network's file system if its locks hold between machines, as those of NFS (not mounted with
`nolock`) and of Lustre (mounted with `flock`) do. Where they do not, two machines may do the same chunk, to the same
bytes, and should not write the dataset at the same moment.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inpaint.errors import InpaintError
from inpaint.files import read_object
from inpaint.sources.source import Source

# Files in the work folder that are only there to be locked.
RUNNING, CHUNKS, WRITING = "running.lock", "chunks.lock", "writing.lock"
PATIENCE_S = 5.0
FINISHED = "finished.json"


@contextmanager
def held(chunk: Path) -> Iterator[bool]:
    """Holds a chunk, named by a digest in hexadecimal, for the block; False: another process does.

    A process may hold one at a time: the locks of a file end when it is first closed.
    """
    with (chunk.parent.parent / CHUNKS).open("ab") as file:
        yield _lock(file.fileno(), place=int(chunk.stem[:12], 16))


def is_free(chunk: Path) -> bool:
    with held(chunk) as is_ours:
        return is_ours


@contextmanager
def sole_writer(work: Path) -> Iterator[bool]:
    """False: another process writes the dataset."""
    with (work / WRITING).open("ab") as file:
        yield _lock(file.fileno())


@contextmanager
def joined(work: Path, command: str) -> Iterator[None]:
    """Works in the folder for the block, beside all who were told the same; InpaintError while others are at work."""
    with (work / RUNNING).open("ab+", buffering=0) as file:
        number, deadline = file.fileno(), time.monotonic() + PATIENCE_S
        while not (is_alone := _lock(number)) and not _lock(number, shared=True):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)  # somebody is just writing the command down
        if is_alone:
            file.truncate(0)
            file.write(command.encode())
            _lock(number, shared=True)
        file.seek(0)
        if file.read() != command.encode():
            raise InpaintError(
                f"another inpaint prepare is running in {work.parent} with other options; wait for it or stop it"
            )
        yield


def _lock(descriptor: int, place: int = 0, shared: bool = False) -> bool:
    """Lock a byte of an open file, or keep it from others' locks only; False: another process has it.

    True, too, where the file system has no locks.
    """
    import fcntl  # which Windows lacks; preparing does not run there

    try:
        fcntl.lockf(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB, 1, place)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; at the end the file is on the disk and takes its place."""
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, values: dict[str, Any]) -> None:
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(values))


def last_finished(work: Path) -> dict[str, Any]:
    """What `finish` wrote; empty while a dataset is made."""
    return read_object(work / FINISHED)


def is_done(out: Path, work: Path, command: str, source: Source) -> bool:
    """Whether the same command has finished with the same images, and nothing was touched since."""
    found = last_finished(work)
    if found.get("command") != command or found != _state(out, work, command, source):
        return False
    print(f"{out} is finished: there is nothing left to do")
    return True


def finish(out: Path, work: Path, command: str, source: Source) -> None:
    write_json(work / FINISHED, _state(out, work, command, source))


def _state(out: Path, work: Path, command: str, source: Source) -> dict[str, Any]:
    return {"command": command, "source": source.fingerprint(), "files": _written(out, work)}


def _written(out: Path, work: Path) -> dict[str, list[int]]:
    """The size and time of every file that counts."""
    ours = [work / "plan.json", *work.glob("chunks/*.arrow"), *out.glob("data/*.parquet"), *out.glob("*.*")]
    states = [(path, path.stat()) for path in ours if path.is_file()]
    return {str(path.relative_to(out)): [state.st_size, state.st_mtime_ns] for path, state in states}
