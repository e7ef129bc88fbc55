"""Owns where a run stands, read from its files alone, so that it may be asked while the run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inpaint.errors import InpaintError, first_few
from inpaint.files import read_json_lines, read_object
from inpaint.training.checkpoint import CheckpointStore
from inpaint.training.run_directory import CONFIG, EVALUATION, LOCK, METRICS, PREEMPTED, finished_step
from inpaint.training.run_lock import live_holder

# What is shown of a line of training.
KEYS = {"step", "total_steps", "epoch", "images_seen", "time/total_s"}
PACE = {"time/images_per_s", "memory/peak_gib"}  # runs of older versions have not noted it
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Standing:
    """What the files of a run say.

    Attributes:
        state: whether it runs, is finished, or goes on with the same command, in words.
        is_finished: whether nothing of it is left to do.
        lines: of metrics.jsonl, as they stand there.
        faults: what of metrics.jsonl cannot be read or is missing, in words.
        end: of a finished run what its last line would say of how far it is, from evaluation.json; else {}.
    """

    state: str
    is_finished: bool
    lines: list[dict[str, Any]]
    faults: list[str]
    end: Mapping[str, int]

    def progress(self) -> list[str]:
        """How far it is, how fast, and how much is left; none before its first line."""
        return _progress(self.lines, self.end)


def is_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file() or bool(CheckpointStore(folder / "checkpoints").steps())


def is_finished(folder: Path) -> bool:
    """Whether the run's last checkpoint is the one it was to end with."""
    return finished_step(folder) in CheckpointStore(folder / "checkpoints").steps()[-1:]


def read_standing(folder: Path) -> Standing:
    """InpaintError if `folder` holds no run."""
    if not is_run(folder):
        raise InpaintError(f"{folder} holds no run (no {CONFIG}); give the --run-dir of a training")
    is_whole = is_finished(folder)
    if holder := live_holder(folder / LOCK):
        state, is_whole = f"running: process {holder.get('pid')} on {holder.get('host')}", False
    elif (folder / PREEMPTED).exists():
        state = "stopped on request; the same command resumes it"
    else:
        state = "finished" if is_whole else "not running; the same command resumes it"
    lines, damaged = read_json_lines(folder / METRICS)
    faults = []
    if damaged:
        every = (folder / METRICS).read_bytes().split(b"\n")
        numbers = [str(number) for number, line in enumerate(every, 1) if line in damaged]
        faults = [f"{METRICS}: {len(damaged)} damaged line(s) are left out: {', '.join(first_few(numbers, 5))}"]
    end = _end(folder) if is_whole else {}
    if missing := _missing(lines, end, _is_cut(folder / METRICS)):
        faults.append(missing)
    return Standing(state, is_whole, lines, faults, end)


def read_progress(folder: Path) -> list[str]:
    """`Standing.progress`, of the end of metrics.jsonl alone: for who asks often."""
    try:
        with (folder / METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            tail = file.read()
    except FileNotFoundError:
        return []
    lines = []
    for line in tail.split(b"\n")[:-1]:
        with suppress(ValueError):  # the first is cut
            lines.append(json.loads(line))
    return _progress([line for line in lines if isinstance(line, dict)])


def _progress(lines: Sequence[Mapping[str, Any]], end: Mapping[str, int] | None = None) -> list[str]:
    last: Mapping[str, Any] = next((line for line in reversed(lines) if _has_numbers(line, KEYS)), {})
    if not (at := end or last):
        return []
    told = [f"step {at['step']} of {at['total_steps']}, epoch {at['epoch']}, {at['images_seen']} images seen"]
    if _has_numbers(last, PACE):
        told.append(f"{last['time/images_per_s']:.0f} images/s, peak memory {last['memory/peak_gib']:.1f} GiB")
    if (left := at["total_steps"] - at["step"]) > 0:
        per_step = last["time/total_s"] / max(1, last["step"])
        told.append(f"about {left * per_step / 60:.0f} minutes of training left")
    return told


def _end(folder: Path) -> dict[str, int]:
    final = read_object(folder / EVALUATION)
    keys = {"step": "steps", "total_steps": "steps", "epoch": "epochs", "images_seen": "images_seen"}
    return {key: final[name] for key, name in keys.items()} if _has_numbers(final, keys.values()) else {}


def _missing(lines: Sequence[Mapping[str, Any]], end: Mapping[str, int], is_cut: bool) -> str:
    """What is not there of the end of metrics.jsonl, in words; "" if nothing that can be known."""
    last = max((line["step"] for line in lines if _has_numbers(line, {"step"})), default=0)
    parts = ["ends within a line, which is left out"] if is_cut else []
    if end and last < end["step"]:
        after = f" after step {last}" if last else ""
        parts.append(f"has no line{after}, while the run is finished at step {end['step']}")
    return f"{METRICS} {'; it '.join(parts)}" if parts else ""


def _has_numbers(line: Mapping[str, Any], keys: Iterable[str]) -> bool:
    return all(type(line.get(key)) in (int, float) for key in keys)


def _is_cut(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.seek(0, os.SEEK_END) > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read() != b"\n"
    except FileNotFoundError:
        return False
