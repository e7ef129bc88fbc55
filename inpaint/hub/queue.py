"""Owns the queue on disk: what of a run is to be pushed, what has been, and what to say about it.

`RUN/hub_queue/` holds a numbered folder for each snapshot that waits, `ledger.jsonl` with what happened to the others,
and `run_id`. A snapshot is complete once its folder has its number, so a kill at any moment leaves either none or a
whole one. Whoever reads passes over what is damaged; `mend` sets it aside.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from inpaint.fidelity import RECONSTRUCTION_FILE
from inpaint.files import read_object, write_atomically

MAX_WAITING = 16
# What a line of the ledger must hold to mean something.
_LEDGER_KEYS: dict[str, dict[str, type]] = {
    "created": {"repo_id": str, "private": bool},
    "superseded": {"repo_id": str, "private": bool, "label": str},
    "pushed": {"repo_id": str, "private": bool, "label": str, "commit": str, "url": str, "notes": list},
}
_WEIGHTS = ("config.json", "model.safetensors")
_RUN_FILES = ("config.yaml", "metrics.jsonl", "report.md", "evaluation.json", "environment.json")
_RUN_FOLDERS = ("samples", "plots")  # what report.md shows


@dataclass(frozen=True)
class Snapshot:
    """A run as it was at one moment: `folder/files` is what the repository shall hold."""

    folder: Path
    label: str
    """The commit's title and its tag, such as `epoch-0007`, `best` or `final`."""
    repo_id: str
    private: bool

    @property
    def files(self) -> Path:
        return self.folder / "files"

    @property
    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files.rglob("*") if path.is_file())


class PushQueue:
    """The queue of one run. Any process may add to it; whoever holds `lock` pushes from it."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.folder = run_dir, run_dir / "hub_queue"

    @property
    def run_id(self) -> str:
        """What tells this run's commits from those of another one that pushes to the same repository."""
        path = self.folder / "run_id"
        if not path.exists():
            write_atomically(path, uuid.uuid4().hex[:12].encode())
        return path.read_text(errors="replace")

    def add(self, label: str, repo_id: str, private: bool, checkpoint: Path | None = None) -> None:
        """Copy what a push needs; afterwards training may change its files as it likes.

        Images and checkpoints are written anew, never into, so a hard link does for them. A waiting snapshot of the
        same label is superseded, and so is the oldest when more than `MAX_WAITING` wait.
        """
        unfinished = self.folder / f".new-{os.getpid()}"
        shutil.rmtree(unfinished, ignore_errors=True)
        files, generator = unfinished / "files", self.run_dir / "generator"
        shutil.copytree(generator, files, ignore=shutil.ignore_patterns("README.md"))
        for name in _RUN_FILES:
            if (self.run_dir / name).is_file():
                shutil.copy2(self.run_dir / name, files / name)
        for name in _RUN_FOLDERS:
            if (self.run_dir / name).is_dir():
                shutil.copytree(self.run_dir / name, files / name, copy_function=_link)
        if checkpoint is not None:
            shutil.copytree(checkpoint, files / "checkpoints" / checkpoint.name, copy_function=_link)
        if missing := _missing(files):
            raise FileNotFoundError(f"{generator} holds no {' and no '.join(missing)}")
        (unfinished / "snapshot.json").write_text(json.dumps({"label": label, "repo_id": repo_id, "private": private}))
        number = 1 + max((int(folder.name) for folder in self._numbered()), default=0)
        unfinished.rename(self.folder / f"{number:06}")
        with self.lock() as is_mine:
            # What is being pushed at this moment must not vanish under the pusher's hands.
            waiting = self.waiting() if is_mine else []
            newest_of = {snapshot.label: snapshot for snapshot in waiting}
            kept = [snapshot for snapshot in waiting if newest_of[snapshot.label] == snapshot][-MAX_WAITING:]
            for snapshot in waiting:
                if snapshot not in kept:
                    self.finish(snapshot, "superseded")

    def waiting(self) -> list[Snapshot]:
        """Oldest first."""
        snapshots = (_snapshot(folder) for folder in sorted(self._numbered()))
        return [snapshot for snapshot in snapshots if snapshot is not None]

    def sweep(self) -> None:
        """Remove what a killed process left half copied."""
        for folder in self.folder.glob(".new-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def mend(self) -> list[str]:
        """Set aside what cannot be read, in `hub_queue/damaged/`, so that the rest can be pushed; a line about each."""
        aside = []
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            aside.append(_set_aside(self.folder, self.run_dir))
        if (self.folder / "lock").is_dir():
            aside.append(_set_aside(self.folder / "lock", self.folder / "damaged"))
        if self.folder.is_dir():
            with self.lock() as is_mine:
                if is_mine:  # else another process may be writing just what is read here
                    sound = [line for line in _text(self.folder / "ledger.jsonl").splitlines() if _event(line)]
                    aside += [_set_aside(path, self.folder / "damaged") for path in self._damaged(sound)]
                    if sound and not (self.folder / "ledger.jsonl").exists():
                        write_atomically(self.folder / "ledger.jsonl", "".join(f"{line}\n" for line in sound).encode())
        return [f"{old.relative_to(self.run_dir)} is damaged: set aside as {new}" for old, new in aside]

    def _damaged(self, sound: list[str]) -> list[Path]:
        run_id, ledger = self.folder / "run_id", self.folder / "ledger.jsonl"
        damaged = [folder for folder in self._numbered() if _snapshot(folder) is None]
        if os.path.lexists(run_id) and not re.fullmatch("[0-9a-f]{12}", _text(run_id)):
            damaged.append(run_id)
        if os.path.lexists(ledger) and (_text(ledger).splitlines() != sound or not ledger.is_file()):
            damaged.append(ledger)
        return damaged

    def finish(self, snapshot: Snapshot, event: str, **details: Any) -> None:
        """Write down what became of a snapshot, then remove it: a kill in between repeats it, and that does no harm."""
        self.record(event, label=snapshot.label, repo_id=snapshot.repo_id, private=snapshot.private, **details)
        removed = snapshot.folder.with_name(f".new-{snapshot.folder.name}-done")
        shutil.rmtree(removed, ignore_errors=True)
        snapshot.folder.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)  # `mend` of another process may be at it too

    def record(self, event: str, **details: Any) -> None:
        path = self.folder / "ledger.jsonl"
        is_cut = bool(text := _text(path)) and not text.endswith("\n")
        with path.open("a") as ledger:
            ledger.write("\n" * is_cut + json.dumps({"event": event, **details}) + "\n")
            ledger.flush()
            os.fsync(ledger.fileno())

    def ledger(self) -> list[dict[str, Any]]:
        """What happened, oldest first. What a damaged line would have said is found out anew."""
        events = (_event(line) for line in _text(self.folder / "ledger.jsonl").splitlines())
        return [event for event in events if event is not None]

    @contextmanager
    def lock(self) -> Iterator[bool]:
        """Whether this process alone may push now; the lock dies with its process."""
        try:
            held = FileLock(self.folder / "lock").acquire(blocking=False)
        except Timeout:
            yield False
        else:
            with held:
                yield True

    def pushed(self, repo_id: str) -> dict[str, dict[str, Any]]:
        """The ledger's line of each label that is on the Hub, in order; nothing from before a repository was remade."""
        lines: dict[str, dict[str, Any]] = {}
        for line in self.ledger():
            if line["repo_id"] == repo_id and line["event"] == "created":
                lines.clear()
            elif line["repo_id"] == repo_id and line["event"] == "pushed":
                lines[line["label"]] = line
        return lines

    def statement(self, repo_id: str, why: str | None = None) -> str:
        """What is on the Hub and what is not, in a few plain lines; `why` the last try failed, if it did."""
        pushed, waiting = self.pushed(repo_id), [s.label for s in self.waiting()]
        lines = [f"Hub: nothing of this run is in {repo_id}."]
        if pushed:
            newest = list(pushed.values())[-1]
            lines = [f"Hub: {repo_id} holds {', '.join(pushed)}; newest: {newest['url']}"]
            lines += [f"Hub: note: {label}: {note}" for label, line in pushed.items() for note in line["notes"]]
        superseded = [
            line["label"]
            for line in self.ledger()
            if (line["event"], line["repo_id"]) == ("superseded", repo_id) and line["label"] not in (*pushed, *waiting)
        ]
        if superseded:
            lines.append(f"Hub: never pushed, since newer ones took their place: {', '.join(superseded)}.")
        if waiting:
            lines.append(f"Hub: NOT pushed yet: {', '.join(waiting)}{f' ({why})' if why else ''}.")
            lines.append(f"Hub: finish it with: inpaint push {self.run_dir}")
        return "\n".join(lines)

    def _numbered(self) -> list[Path]:
        return [folder for folder in self.folder.glob("*") if re.fullmatch("[0-9]{6,12}", folder.name)]


def _snapshot(folder: Path) -> Snapshot | None:
    """The snapshot that waits in a folder; None if it is damaged, or gone because it has been pushed just now."""
    try:
        snapshot = Snapshot(folder, **read_object(folder / "snapshot.json"))
    except TypeError:
        return None
    has_types = (type(snapshot.label), type(snapshot.repo_id), type(snapshot.private)) == (str, str, bool)
    return snapshot if has_types and not _missing(snapshot.files) else None


def _missing(files: Path) -> list[str]:
    """What the repository's files lack to be a generator."""
    second = read_object(files / "config.json").get("has_reconstruction") is True
    wanted = (*_WEIGHTS, RECONSTRUCTION_FILE) if second else _WEIGHTS
    return [name for name in wanted if not (files / name).is_file()]


def _event(line: str) -> dict[str, Any] | None:
    """A line of the ledger; None if it is damaged."""
    try:
        event = json.loads(line)
        is_sound = all(isinstance(event[key], kind) for key, kind in _LEDGER_KEYS[event["event"]].items())
    except (ValueError, TypeError, KeyError):
        return None
    return event if is_sound else None


def _text(path: Path) -> str:
    """What a file holds, damaged or not; nothing if there is none or it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _set_aside(path: Path, place: Path) -> tuple[Path, Path]:
    """Where it was and where it is now."""
    place.mkdir(exist_ok=True)
    names = (f"{path.name}.damaged-{number}" for number in itertools.count(1))
    target = next(place / name for name in names if not os.path.lexists(place / name))
    path.rename(target)
    return path, target


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
