"""Owns checkpoints on the disk: safetensors and JSON in a folder, whole or not there, each file with its hash.

Only the main process comes here. What a checkpoint means is the trainer's; how its tensors are gathered, the runtime's.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor

from inpaint.errors import InpaintError
from inpaint.files import (
    human_size,
    publish_directory,
    read_object,
    remove_directory,
    sync,
    write_atomically,
    write_synced,
)

log = logging.getLogger(__name__)
_Read = TypeVar("_Read")

VERSION = 1
MANIFEST, STATE, BEST = "manifest.json", "state.json", "best.json"
_PREFIX, _TEMPORARY, _DAMAGED, _TRASH = "step_", ".tmp-", "damaged-", ".trash-"


class DamagedCheckpointError(Exception):
    """Why a checkpoint cannot be trusted."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint in memory, read from `path`."""

    path: Path
    tensors: dict[str, dict[str, Tensor]]
    """By file name without `.safetensors`, then by tensor name; on the CPU."""
    state: dict[str, Any]
    """What `state.json` holds."""


class CheckpointStore:
    """The checkpoints of one run, `step_NNNNNNNN/` each; written in the background, one at a time.

    The newest `keep` stay, beside the best. The folder `root` is made if it is not there.
    """

    def __init__(self, root: Path, keep: int = 2) -> None:
        self.root, self.keep = root, keep
        self._writer: threading.Thread | None = None
        self._failure: Exception | None = None
        self._num_failures, self._retry_at = 0, math.inf
        self.bytes_needed = 0

    def steps(self) -> list[int]:
        """The steps whose checkpoints are there, oldest first; whether they are sound is only known by reading."""
        numbers = (path.name.removeprefix(_PREFIX) for path in self.root.glob(f"{_PREFIX}*"))
        return sorted(int(number) for number in numbers if number.isdigit())

    def folder(self, step: int) -> Path:
        return self.root / f"{_PREFIX}{step:08d}"

    def save(self, step: int, tensors: Mapping[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Begin to write a checkpoint; waits only for the one before it. What is there for `step` stays as it is.

        `tensors` and `state` are as a `Checkpoint` has them; nobody changes them from now on.
        """
        self.wait()
        if self.folder(step).exists():
            return
        self._writer = threading.Thread(target=self._write_safely, args=(step, tensors, state), name="checkpoint")
        self._writer.start()

    def wait(self) -> None:
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def take_failure(self) -> Exception | None:
        """Why the last save failed, once; None if it did not or is still going on."""
        failure, self._failure = self._failure, None
        return failure

    def wants_retry(self) -> bool:
        """Whether the last save failed and may succeed now; said once, and later each time that it fails again."""
        if time.monotonic() < self._retry_at or not self._has_room():
            return False
        self._retry_at = math.inf
        return True

    def best(self) -> dict[str, Any] | None:
        """The step and figures of the best checkpoint so far, if one was named and can be read."""
        best = read_object(self.root / BEST)
        return best if type(best.get("step")) is int and type(best.get("hole_psnr")) is float else None

    def set_best(self, step: int, figures: Mapping[str, float]) -> None:
        """Name the checkpoint that pruning spares."""
        self.root.mkdir(parents=True, exist_ok=True)
        write_atomically(self.root / BEST, json.dumps({"step": step, **figures}).encode())

    def newest(
        self, read: Callable[[Path], _Read], damaged: Callable[[Path, DamagedCheckpointError], Any]
    ) -> _Read | None:
        """What `read` finds in the newest checkpoint that is sound; `damaged` is told of those that are not."""
        for folder in map(self.folder, reversed(self.steps())):
            try:
                return read(folder)
            except DamagedCheckpointError as error:
                damaged(folder, error)
        return None

    def newest_sound(self) -> Checkpoint | None:
        """The newest checkpoint that reads as it was written; damaged ones are named and set aside, not deleted.

        InpaintError if there were some and not one is sound: to begin anew would throw the run away unasked.
        """
        self.wait()
        if sound := self.newest(read_checkpoint, self._set_aside):
            return sound
        if damaged := list(self.root.glob(f"{_DAMAGED}*")):
            raise InpaintError(
                f"not one checkpoint in {self.root} is sound ({len(damaged)} are set aside as {_DAMAGED}*); to begin "
                "this run anew give --no-resume --overwrite, to keep what is left of it another --run-dir"
            )
        return None

    def _set_aside(self, folder: Path, why: DamagedCheckpointError) -> None:
        names = (f"{_DAMAGED}{folder.name}{f'-{number}' if number else ''}" for number in itertools.count())
        aside = next(self.root / name for name in names if not (self.root / name).exists())
        try:
            os.rename(folder, aside)
        except OSError as error:
            raise InpaintError(f"{folder} is damaged and cannot be set aside ({error.strerror})") from error
        log.warning("checkpoint %s is damaged: %s; set aside as %s", folder, why, aside)

    def _write_safely(self, step: int, tensors: Mapping[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        try:
            self._write(step, tensors, state)
        except Exception as error:  # noqa: BLE001 - handed to the training loop, which says it and goes on
            self._failure = error
            shutil.rmtree(self.root / f"{_TEMPORARY}{self.folder(step).name}", ignore_errors=True)
            self._retry_at = time.monotonic() + min(60.0, 2.0**self._num_failures - 1)
            self._num_failures += 1
        else:
            self._num_failures, self._retry_at = 0, math.inf

    def _write(self, step: int, tensors: Mapping[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.bytes_needed = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
        if not self._has_room():
            free = shutil.disk_usage(self.root).free
            raise OSError(f"{human_size(self.bytes_needed)} are needed in {self.root}, {human_size(free)} are free")
        temporary = self.root / f"{_TEMPORARY}{self.folder(step).name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        manifest: dict[str, Any] = {"version": VERSION, "files": {}}

        def write(name: str, data: bytes) -> None:
            write_synced(temporary / name, data)
            manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

        for name, group in tensors.items():
            write(f"{name}.safetensors", serialise(dict(group)))
        write(STATE, json.dumps({"version": VERSION, **state}, indent=1).encode())
        manifest["sha256"] = _digest(manifest)
        write_synced(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        publish_directory(temporary, self.folder(step))
        try:
            self._prune()
        except OSError as error:
            log.warning("old checkpoints in %s cannot be removed (%s: %s)", self.root, error.strerror, error.filename)

    def _has_room(self) -> bool:
        try:
            return shutil.disk_usage(self.root).free >= self.bytes_needed * 1.02 + 2**20
        except OSError:  # the folder is not there; to write will make it or tell why not
            return True

    def _prune(self) -> None:
        """Only ever called when the newest checkpoint is whole."""
        best = self.best()
        spared = {*self.steps()[-self.keep :], best["step"] if best else -1}
        for step in self.steps():
            if step not in spared:
                remove_directory(self.folder(step))
        for leftover in [*self.root.glob(f"{_TRASH}*"), *self.root.glob(f"{_TEMPORARY}*")]:
            shutil.rmtree(leftover)
        sync(self.root)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint, trusting nothing that its manifest does not vouch for.

    DamagedCheckpointError if a file is missing or not what was written, InpaintError if a newer version wrote it.
    """
    with _damage_told(folder):
        files = _listed_files(folder)
        state = _state(folder, files.pop(STATE))
        with ThreadPoolExecutor(max_workers=max(1, len(files))) as pool:
            list(pool.map(lambda name: _compare(folder / name, files[name]), files))
        # Mapped, not read once more: what is used of them is copied to where it belongs.
        tensors = {name.removesuffix(".safetensors"): load_file(folder / name) for name in files}
    return Checkpoint(folder, tensors, state)


def read_state(folder: Path) -> dict[str, Any]:
    """What `state.json` of a checkpoint holds, without reading its tensors; raises as `read_checkpoint`."""
    with _damage_told(folder):
        return _state(folder, _listed_files(folder)[STATE])


def _listed_files(folder: Path) -> dict[str, dict[str, Any]]:
    manifest = json.loads((folder / MANIFEST).read_bytes())
    # The first version of the format did without; what is newer has it, or is damaged.
    is_vouched_for = "sha256" in manifest
    if is_vouched_for and manifest["sha256"] != _digest(manifest):
        raise DamagedCheckpointError(f"{MANIFEST} is not what was written (its SHA-256 differs)")
    version = manifest["version"]
    if version > VERSION and is_vouched_for:
        raise InpaintError(f"{folder} was written by a newer version of inpaint (format {version}); update inpaint")
    if version != VERSION:
        raise DamagedCheckpointError(f"{MANIFEST} names a format that never was ({version!r})")
    return dict(manifest["files"])


def _digest(manifest: Mapping[str, Any]) -> str:
    """The SHA-256 of everything else in a manifest; stays as it is in every later version of the format."""
    others = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def _state(folder: Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    _compare(folder / STATE, expected)
    return json.loads((folder / STATE).read_bytes())


def _compare(path: Path, expected: Mapping[str, Any]) -> None:
    with path.open("rb") as file:
        if (size := os.fstat(file.fileno()).st_size) != expected["bytes"]:
            raise DamagedCheckpointError(f"{path.name} has {size} bytes, not {expected['bytes']}")
        if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
            raise DamagedCheckpointError(f"{path.name} is not what was written (its SHA-256 differs)")


@contextmanager
def _damage_told(folder: Path) -> Iterator[None]:
    """Whatever broken bytes lead a reader to becomes a DamagedCheckpointError."""
    try:
        yield
    except OSError as error:
        name = Path(error.filename or folder).name
        raise DamagedCheckpointError(f"{name} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"its {MANIFEST} is not as it was written ({error})") from error
    except SafetensorError as error:
        raise DamagedCheckpointError(f"not safetensors ({error})") from error
