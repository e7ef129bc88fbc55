"""Owns metrics.jsonl: appended to while training, cut back when a run resumes, mended where a disk has damaged it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from inpaint.files import read_json_lines, write_atomically

DAMAGED = "metrics.damaged.jsonl"


class MetricsFile:
    """One JSON object a line, each with `step` and `epoch`; what a full disk refuses is kept for the next time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unwritten: list[dict[str, Any]] = []
        # Of the lines with an evaluation (True) and without (False), as `forget_after` found them.
        self.last_steps: dict[bool, int] = {}

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line, after those that could not be written before; raises OSError if it cannot either."""
        self._unwritten.append(dict(line))
        self.flush()

    def lines(self) -> list[dict[str, Any]]:
        """All that can be read and what could not be written yet; raises OSError if the file cannot be read."""
        return [*read_json_lines(self.path)[0], *self._unwritten]

    def flush(self) -> None:
        if not self._unwritten:
            return
        with self.path.open("ab", buffering=0) as file:
            before = file.seek(0, 2)
            try:
                data = memoryview(_as_bytes(self._unwritten))
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(before)  # no half line for the next one to be appended to
                raise
        self._unwritten.clear()

    def forget_after(self, step: int, evaluated_epoch: int) -> int:
        """Drop what a run, resumed at `step`, will write again; move lines that cannot be read to `DAMAGED`: how many.

        Of `evaluated_epoch`, and of those before it, no evaluation will be written again.
        """

        def is_kept(line: Mapping[str, Any]) -> bool:
            return line["step"] <= step and (not is_evaluation(line) or line["epoch"] <= evaluated_epoch)

        self._unwritten = [line for line in self._unwritten if is_kept(line)]
        if not self.path.exists():
            return 0
        lines, damaged = read_json_lines(self.path)
        damaged += [_as_bytes([line])[:-1] for line in lines if not _is_placed(line)]
        self.last_steps = {is_evaluation(line): line["step"] for line in lines if _is_placed(line)}
        kept = _as_bytes([line for line in lines if _is_placed(line) and is_kept(line)])
        if damaged:
            with self.path.with_name(DAMAGED).open("ab") as aside:
                aside.write(b"".join(line + b"\n" for line in damaged))
        try:
            write_atomically(self.path, kept)
        except OSError:  # no room for a second one: in its place, which needs none
            with self.path.open("r+b") as file:
                file.write(kept)
                file.truncate()
        return len(damaged)


def in_order(lines: Iterable[Any]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The lines of training and those of evaluations, by their steps; of lines with the same step the last counts."""
    placed: dict[tuple[bool, int], Mapping[str, Any]] = {}
    for line in lines:
        if isinstance(line, Mapping) and type(step := line.get("step")) is int and step >= 0:
            placed[is_evaluation(line), step] = line
    training, evaluations = ([placed[key] for key in sorted(placed) if key[0] is kind] for kind in (False, True))
    return training, evaluations


def is_evaluation(line: Mapping[str, Any]) -> bool:
    return any(name.startswith("evaluation/") for name in line)


def _is_placed(line: Mapping[str, Any]) -> bool:
    return type(line.get("step")) is type(line.get("epoch")) is int


def _as_bytes(lines: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()
