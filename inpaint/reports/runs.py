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
from inpaint.training.metrics_file import in_order
from inpaint.training.run_directory import CONFIG, EVALUATION
from inpaint.training.standing import Standing, is_run, read_standing

MEASURED = Path("evaluation", "evaluation.json")
_SEED = re.compile(r"-seed\d+$")


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

    @cached_property
    def data_digest(self) -> str | None:
        """`digest_of` its data, as its newest sound checkpoint has it; None if none does."""
        state = CheckpointStore(self.path / "checkpoints").newest(read_state, damaged=lambda folder, error: None)
        return None if state is None else state.get("data_digest") or None

    @property
    def last_step(self) -> int:
        """How far it is known to have come; 0 before its first line."""
        lines = [*self.training[-1:], *self.evaluations[-1:], self.standing.end]
        return max((line["step"] for line in lines if line), default=0)

    @property
    def weights_step(self) -> int | None:
        """The step after which the weights are that its figures on test images are of; None if that is not known."""
        step = self.final.get("weights_step")
        return step if type(step) is int else None

    @property
    def lacks(self) -> str:
        """Why it has no figures on test images, in words; "" if it has."""
        if self.final:
            return ""
        if not self.training:
            return f"no step is in its metrics yet ({self.standing.state})"
        return f"its figures come when it is finished ({', '.join([self.standing.state, *self.standing.progress()])})"


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
