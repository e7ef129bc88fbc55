"""A disk that can lose its power: real file-system calls, with a record of what a crash at any of them would leave."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CALLS = ("open", "write", "fsync", "rename", "replace", "unlink", "mkdir", "rmdir")


class Crash(BaseException):
    """The process has ended here; nothing of it may catch this."""


class CrashingDisk:
    """Counts the calls that change files under `root` and ends the process at the one asked for.

    A crash at call n happens before it, or, for a write, in the middle of it. `surviving` rebuilds what is left when
    all that was not yet synced is lost: a file has the content of its last fsync, a directory the entries of its.
    """

    def __init__(self, root: Path, crash_at: int | None = None) -> None:
        self.root, self.crash_at, self.num_calls = root, crash_at, 0
        self.names: list[str] = []
        self._contents: dict[int, bytes] = {}
        self._entries: dict[int, dict[str, int]] = {}
        # Held open, so that the number of a removed file is not given to a new one.
        self._held: list[int] = []
        for folder, _, _ in os.walk(root):
            self._record(Path(folder))

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))

    def surviving(self, into: Path) -> Path:
        """What a power cut leaves, rebuilt in `into`."""
        self._rebuild(self.root.stat().st_ino, into)
        return into

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            changes = name != "open" or args[1] & os.O_CREAT
            if changes:
                self.num_calls += 1
                self.names.append(name)
                if self.num_calls == self.crash_at:
                    if name == "write":
                        call(args[0], bytes(args[1])[: len(args[1]) // 2])
                    raise Crash(name)
            result = call(*args, **kwargs)
            if name == "open" and changes:
                self._held.append(os.dup(result))
            elif name == "fsync":
                self._record(Path(f"/proc/self/fd/{args[0]}").readlink(), deep=False)
            return result

        return watched

    def _record(self, path: Path, deep: bool = True) -> None:
        number = path.stat().st_ino
        if path.is_dir():
            self._entries[number] = {entry.name: entry.inode() for entry in os.scandir(path)}
            for file in path.iterdir() if deep else ():
                if file.is_file():
                    self._record(file)
        else:
            self._contents[number] = path.read_bytes()

    def _rebuild(self, number: int, into: Path) -> None:
        into.mkdir(parents=True)
        for name, child in self._entries.get(number, {}).items():
            if child in self._entries or self._is_directory(child):
                self._rebuild(child, into / name)
            else:
                (into / name).write_bytes(self._contents.get(child, b""))

    def _is_directory(self, number: int) -> bool:
        return any(
            folder.stat().st_ino == number for folder in self.root.rglob("*") if stat.S_ISDIR(folder.stat().st_mode)
        )
