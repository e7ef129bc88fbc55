"""Owns what a report knows of each run: its settings, its lines, where it stands, how its generator was measured."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from inpaint.errors import InpaintError, UsageError, first_few
from inpaint.files import read_object
from inpaint.training.checkpoint import CheckpointStore, read_state
from inpaint.training.health import Verdict, judge
from inpaint.training.identity import is_same_place
from inpaint.training.metrics_file import in_order
from inpaint.training.run_directory import CONFIG, EVALUATION
from inpaint.training.standing import Standing, is_run, read_standing

MEASURED = Path("evaluation", "evaluation.json")
_SEED = re.compile(r"-seed\d+$")
# What makes the held-out images and their holes; with synthetic landscapes also how many there are.
_DATA = ("image_size", "hole_min_px", "hole_max_px")
_SYNTHETIC = ("synthetic_train", "synthetic_held_out")


@dataclass(frozen=True)
class Run:
    """A run directory as it was read; the run may go on meanwhile.

    Attributes:
        settings: of config.yaml, by section.
        training, evaluations: the lines of metrics.jsonl in the order of their steps.
        final: what evaluation.json holds of a finished run, else {}.
    """

    path: Path
    name: str
    settings: Mapping[str, Any]
    standing: Standing
    training: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]]
    final: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, name: str) -> Run:
        """InpaintError if its settings cannot be read, of which everything else depends."""
        settings = read_object(path / CONFIG)
        if lacks := [
            section for section in ("data", "model", "training") if not isinstance(settings.get(section), dict)
        ]:
            raise InpaintError(
                f"{path / CONFIG} is missing or damaged (no {', '.join(lacks)}); the command that trained the run "
                "brings it back"
            )
        standing = read_standing(path)
        training, evaluations = in_order(standing.lines)
        final = read_object(path / EVALUATION) if standing.is_finished else {}
        return cls(path, name, settings, standing, training, evaluations, final if "rows" in final else {})

    @property
    def setting(self) -> str:
        """Its name without the number of its seed."""
        return _SEED.sub("", self.name)

    @cached_property
    def health(self) -> list[Verdict]:
        return judge(self.standing.lines)

    @cached_property
    def measured(self) -> Mapping[str, Any]:
        """What `inpaint evaluate` found of its generator as it is: `figures`, `intervals`, `facts`; {} if nothing."""
        facts = read_object(self.path / MEASURED)
        weights = self.path / "generator" / "model.safetensors"
        if not facts.get("methods") or not weights.is_file():
            return {}
        if (self.path / MEASURED).stat().st_mtime_ns < weights.stat().st_mtime_ns:
            return {}  # of weights that it no longer has
        names = [name for name in facts.get("models", {}) if Path(name) in (self.path, self.path / "generator")]
        names = names or [*facts.get("models", {})]
        return {**facts["methods"][names[0]], "facts": facts} if len(names) == 1 else {}

    @property
    def lacks(self) -> str:
        """Why it has no figures on test images, in words; "" if it has."""
        if not self.training:
            return f"no step is in its metrics yet ({self.standing.state})"
        if not self.final:
            return (
                f"its figures come when it is finished ({', '.join([self.standing.state, *self.standing.progress()])})"
            )
        return ""


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs at `paths`, or in them; what is neither is passed over, and said.

    Raises:
        UsageError: there is none.
        InpaintError: the settings of one cannot be read.
    """
    found: list[Path] = []
    passed: list[str] = []
    for path in paths:
        inner = [path] if is_run(path) else sorted(filter(is_run, path.glob("*"))) if path.is_dir() else []
        found += [run for run in inner if run.resolve() not in [other.resolve() for other in found]]
        if not inner:
            passed.append(str(path))
    told = ", ".join(first_few(passed, 5))
    if not found:
        raise UsageError(f"no run in {told} (no {CONFIG}); give run directories, or a folder of them")
    if passed:
        print(f"no runs, passed over: {told}", file=sys.stderr)
    names = [path.resolve().name for path in found]
    if len(set(names)) < len(names):
        names = [str(path) for path in found]
    return [Run.read(path, name) for path, name in zip(found, names, strict=True)]


def require_same_data(runs: Sequence[Run]) -> None:
    """Raise InpaintError with what differs, if figures of these runs cannot stand beside one another.

    A run without a single step has none.
    """
    begun = [run for run in runs if run.training]
    for first, other in ((begun[0], other) for other in begun[1:]):
        if told := _data_difference(first, other):
            raise InpaintError(
                f"{first.path} and {other.path} are of different data, which cannot stand in one table: {told}; give "
                "runs of the same data together"
            )


def _data_difference(one: Run, other: Run) -> str:
    ours, theirs = one.settings["data"], other.settings["data"]
    keys = _DATA + (_SYNTHETIC if ours.get("path") is None else ())
    told = [f"data.{key} is {ours.get(key)} and {theirs.get(key)}" for key in keys if ours.get(key) != theirs.get(key)]
    digests = [_digest(run) for run in (one, other)]
    paths = ours.get("path"), theirs.get("path")
    if None not in digests:  # the same data may lie elsewhere, or others in the same place
        if digests[0] != digests[1] and not told:
            told.append(f"the validation images of {paths[0]} and {paths[1]} differ")
    elif not is_same_place(*paths):
        told.insert(0, f"data.path is {paths[0]} and {paths[1]}")
    measured = [run.measured.get("facts", {}) for run in (one, other)]
    if all(measured) and not told:
        for part in ("data", "holes"):
            if measured[0][part].get("sha256") != measured[1][part].get("sha256"):
                words = [", ".join(f"{k} {v}" for k, v in facts[part].items() if k != "sha256") for facts in measured]
                told.append(f"they were evaluated on different {part} ({words[0]}; {words[1]}): inpaint evaluate anew")
    return "; ".join(told)


def _digest(run: Run) -> str | None:
    state = CheckpointStore(run.path / "checkpoints").newest(read_state, damaged=lambda folder, error: None)
    return None if state is None else state.get("data_digest") or None
