"""Owns which runs a study is made of, and what of each is done already."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inpaint.arguments import Options, parse_arguments, read_settings
from inpaint.config import Config
from inpaint.errors import UsageError
from inpaint.files import read_object
from inpaint.hints import hint
from inpaint.resolve import preset_names
from inpaint.studies.published import load_study, study_names
from inpaint.training.identity import differences
from inpaint.training.opening import settled
from inpaint.training.run_directory import RunDirectory
from inpaint.training.standing import is_finished, is_run

EVALUATION = Path("evaluation", "evaluation.json")


@dataclass(frozen=True)
class Planned:
    """One run: its folder, the settings as `train.py` takes them, and what they amount to."""

    run_dir: Path
    arguments: tuple[str, ...]
    config: Config

    @property
    def name(self) -> str:
        return self.run_dir.name

    @property
    def training(self) -> list[str]:
        return [sys.executable, "-m", "inpaint.training", *self.arguments]

    @property
    def evaluation(self) -> list[str]:
        data = [] if self.config.data.path is None else ["--data", self.config.data.path]
        of = ["--model", str(self.run_dir), "--out", str(self.run_dir / EVALUATION.parent)]
        return [sys.executable, "-m", "inpaint", "evaluate", *of, "--baselines", *data]

    def is_finished(self) -> bool:
        """Whether its training has come to an end, with these settings or those of before."""
        return is_finished(self.run_dir)

    def is_trained(self) -> bool:
        """Whether nothing of its training is left to do with these settings."""
        if not self.is_finished():
            return False
        before = RunDirectory(self.run_dir).saved_config()
        return differences(before, settled(self.config, Options(self.run_dir))) == ([], [])

    def is_evaluated(self) -> bool:
        """Whether its generator, as it is now, was measured on the test images with their own holes."""
        result, weights = self.run_dir / EVALUATION, self.run_dir / "generator" / "model.safetensors"
        facts = read_object(result)
        asked = facts.get("data", {}).get("split"), facts.get("holes", {}).get("given")
        return asked == ("test", "stored") and result.stat().st_mtime_ns >= weights.stat().st_mtime_ns


def plan(names: Sequence[str], out: Path | None, seeds: int, flags: Sequence[str]) -> list[Planned]:
    """The runs in the order in which they are made: every setting once before any has a second seed.

    Args:
        names: a study's, or presets and .yaml files.
        out: the folder of their folders; None: runs/<study>, or runs/study.
        seeds: how many runs each has; the first has the seed of its settings, the next ones that follow it.
        flags: settings on top of each, as on `train.py`'s command line.

    Raises:
        UsageError: names or settings are wrong, or a folder holds another run; nothing was begun.
    """
    presets = [preset for name in names for preset in _presets(name)]
    if twice := [preset for preset, num in Counter(presets).items() if num > 1]:
        raise UsageError(f"{twice[0]} is given twice; each setting once, and --seeds K for more runs of it")
    if "hub.repo_id" in read_settings(flags) and len(presets) * seeds > 1:
        raise UsageError("hub.repo_id: the runs of a study cannot share one repository; afterwards: inpaint push RUN")
    folder = out or Path("runs", names[0] if names[0] in study_names() else "study")
    stems = {
        preset: Path(preset).with_suffix("").name if _is_file(preset) else preset.rpartition("/")[2]
        for preset in presets
    }
    if twice := [stem for stem, num in Counter(stems.values()).items() if num > 1]:
        same = " and ".join(preset for preset in presets if stems[preset] == twice[0])
        raise UsageError(
            f"{same} would both be kept in {folder / twice[0]}; give them in two studies with an --out each"
        )
    found = []
    for number in range(seeds):
        for preset in presets:
            run_dir = folder / (stems[preset] + (f"-seed{number}" if number else ""))
            arguments = ["--config", preset, "--run-dir", str(run_dir), *flags]
            config = parse_arguments(arguments)[0]
            if number:
                seed = config.training.seed + number
                arguments += ["--training.seed", str(seed)]
                config = parse_arguments(arguments)[0]
            found.append(Planned(run_dir, tuple(arguments), config))
    for planned in found:
        _refuse_another(planned)
    return found


def _presets(name: str) -> list[str]:
    if name in study_names():
        return [row.preset for row in load_study(name).rows]
    if not _is_file(name) and name not in preset_names():
        known = [*study_names(), *preset_names()]
        nearest = hint(name, known) or f"there are {', '.join(known)}"
        raise UsageError(f"{name} is neither a study nor a preset nor a .yaml file; {nearest}")
    return [name]


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _refuse_another(planned: Planned) -> None:
    if not is_run(planned.run_dir):
        return
    before = RunDirectory(planned.run_dir).saved_config()
    another, _ = differences(before, settled(planned.config, Options(planned.run_dir)))
    if another:
        raise UsageError(
            f"{planned.run_dir} holds another run ({'; '.join(another)}); give the old values to go on with it, or "
            "another --out"
        )
