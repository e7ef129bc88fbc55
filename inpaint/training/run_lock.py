"""Owns who writes in a run directory: `run.lock` names the holder and keeps a second writer out.

Two things tell whether a holder is alive. On one machine it is the system's lock on the open file, kept for the run's
life: it ends with its process however that ends, and containers with other process numbers or a like host name see it
too. Some file systems keep such locks within one machine or have none, so a holder elsewhere is told by whether it
renews the file; that is watched, and no clock is compared with another.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from inpaint.errors import InpaintError

RENEW_S = 10.0
# How long a lock from another machine is watched before it counts as left behind; of two that then take it at the same
# moment, the one whose name stands in it after `SETTLE_S` has it.
STALE_S, SETTLE_S = 45.0, 3.0
# How long somebody looks who only wants to know.
LOOK_S = 15.0


class RunLock:
    """The lock of one run directory, the file at `path`, from `take` to `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._token = uuid.uuid4().hex
        self._descriptor: int | None = None
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="run lock", daemon=True)

    def take(self) -> None:
        """Become the holder; InpaintError if another process is, or becomes it at the same moment."""
        descriptor, is_shared = self._opened()
        try:
            us = {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine(), "token": self._token}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(us).encode(), 0)
            os.fsync(descriptor)
            if is_shared:
                time.sleep(SETTLE_S)
                if (holder := _read(self.path)[0]).get("token") != self._token:
                    raise self._in_use(holder)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._thread.start()

    def release(self) -> None:
        if self._descriptor is None:
            return
        self._released.set()
        self._thread.join()
        if _is_at(self._descriptor, self.path):
            self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = None

    def _opened(self) -> tuple[int, bool]:
        """The file, locked by the system where it can; and whether somebody on another machine may take it too."""
        for _ in range(6):
            is_new = not self.path.exists()
            try:
                descriptor = os.open(self.path, os.O_RDWR | (os.O_CREAT | os.O_EXCL if is_new else 0), 0o644)
            except (FileExistsError, FileNotFoundError):  # made, or removed by its last holder, just now
                continue
            try:
                is_locked = _lock(descriptor)
                if _is_at(descriptor, self.path):
                    holder = _read(self.path)[0]
                    if is_locked and (is_new or holder.get("machine") == _machine()):
                        return descriptor, False
                    # An empty one is just being taken, or was by a process that died that very moment.
                    patience_s = STALE_S if os.fstat(descriptor).st_size else SETTLE_S
                    is_alive = not is_new and _is_renewed(self.path, patience_s)
                    if _is_at(descriptor, self.path):
                        if is_alive:
                            raise self._in_use(_read(self.path)[0])
                        return descriptor, True
            except BlockingIOError:  # perhaps somebody only looks at who holds it
                time.sleep(0.02)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        raise self._in_use(_read(self.path)[0])

    def _in_use(self, holder: dict[str, Any]) -> InpaintError:
        return InpaintError(
            f"--run-dir {self.path.parent} is in use by {_who(holder)}; wait for it, stop it, or give another folder "
            f"(if it is surely gone, delete {self.path})"
        )

    def _renew(self) -> None:
        """In a thread of its own: a disk that stalls holds nothing else up."""
        assert self._descriptor is not None
        trouble = ""
        while not self._released.wait(RENEW_S):
            try:
                os.utime(self._descriptor)
                holder = _read(self.path)[0]
            except OSError as error:
                if trouble != (trouble := str(error.strerror)):
                    print(f"{self.path} cannot be renewed ({trouble}); training goes on", file=sys.stderr)
                continue
            if holder.get("token", self._token) != self._token:
                print(
                    f"\ninpaint: {_who(holder)} has taken {self.path}, which was deleted or not renewed for too long; "
                    "this run leaves without saving, so that one alone writes",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)


def live_holder(path: Path) -> dict[str, Any] | None:
    """Who holds a run's lock, as `host` and `pid`, if they live; where that is elsewhere it takes up to `LOOK_S`."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        is_locked = _lock(descriptor, shared=True)
        holder = _read(path)[0]
        if is_locked and holder.get("machine") == _machine():
            return None
    except BlockingIOError:
        return {"host": "an unknown machine", "pid": "unknown"} | _read(path)[0]
    finally:
        os.close(descriptor)
    return holder if _is_renewed(path, LOOK_S) else None


def _lock(descriptor: int, shared: bool = False) -> bool:
    """Take the system's lock; False where the file system has none, BlockingIOError if another process has it."""
    import fcntl  # which Windows lacks; training does not run there

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _is_renewed(path: Path, patience_s: float) -> bool:
    before, deadline = _read(path), time.monotonic() + patience_s
    whose = f"{path} is of {_who(before[0])}"
    print(f"{whose}: watching for up to {patience_s:.0f} s whether it is alive", file=sys.stderr)
    while time.monotonic() < deadline:
        time.sleep(min(1.0, patience_s / 10))
        if _read(path) != before:
            return True
    return False


def _read(path: Path) -> tuple[dict[str, Any], int]:
    """Who is named in it, and when it was last renewed; opened anew each time, which a network's cache must heed."""
    try:
        with path.open("rb") as file:
            time_ns = os.fstat(file.fileno()).st_mtime_ns
            holder = json.loads(file.read())
    except (FileNotFoundError, ValueError):
        return {}, 0
    return (holder if isinstance(holder, dict) else {}), time_ns


def _who(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown machine')}"


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _machine() -> str:
    """This machine since it was last started: a host name may be another's too."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{socket.gethostname()}-{uuid.getnode():x}"
