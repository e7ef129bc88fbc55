"""Owns the run directory: whose it is, who writes in it, its small files. Only the main process comes here."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from safetensors import SafetensorError
from tqdm import tqdm

from inpaint.config import Config
from inpaint.errors import InpaintError, UsageError
from inpaint.files import publish_directory, read_object, remove_directory, write_atomically
from inpaint.hub.card import write_generator_card
from inpaint.models.generator import Generator
from inpaint.training.checkpoint import CheckpointStore, read_state
from inpaint.training.health import ILL, Verdict, judge
from inpaint.training.identity import another_run, differences
from inpaint.training.metrics_file import DAMAGED, MetricsFile, is_evaluation
from inpaint.training.run_lock import RunLock
from inpaint.training.tracking import STATE, Tracker

CONFIG, METRICS, LOCK, PREEMPTED, PID = "config.yaml", "metrics.jsonl", "run.lock", "PREEMPTED", "rank0.pid"
REPORT, EVALUATION, ENVIRONMENT = "report.md", "evaluation.json", "environment.json"
# All that a run leaves, so that --overwrite never removes anything else.
OURS = (
    *(METRICS, DAMAGED, PREEMPTED, PID, REPORT, EVALUATION, ENVIRONMENT),
    *(
        "samples",
        "plots",
        "checkpoints",
        "generator",
        "debug",
        "evaluation",
        "tensorboard",
        "wandb",
        STATE,
        "hub_queue",
    ),
)


class RunDirectory:
    """One run's folder, locked against a second writer from `open` to `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = RunLock(path / LOCK)
        self._metrics = MetricsFile(path / METRICS)
        self._tracker: Tracker | None = None
        self._said: dict[str, str] = {}

    def open(self, config: Config, resume: bool, overwrite: bool) -> list[str]:
        """Take the folder for this run, or say why not before anything in it is touched.

        `config` becomes the config.yaml of a new run; that of an older one stays until `save_config`.

        Returns:
            What changed since the run was last started, one line each, where that is allowed.

        Raises:
            UsageError: the folder is not a run's, or the run in it may not be touched.
            InpaintError: another process is writing in it, or it cannot be written.
        """
        is_run = (self.path / CONFIG).is_file() or any(self.path.glob("checkpoints/*step_*"))
        try:
            exists = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
            if exists and not is_run and not (self.path / LOCK).is_file():
                what = "holds other things" if self.path.is_dir() else "is a file"
                raise UsageError(f"--run-dir {self.path} {what} and no run; give a new or empty folder")
            if is_run and not resume and not overwrite:
                raise UsageError(
                    f"--run-dir {self.path} holds a run and --no-resume was given; give another folder, or --overwrite "
                    "to throw that run away"
                )
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.take()
            try:
                return self._begin(config, resume)
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise InpaintError(
                f"--run-dir {self.path} cannot be written ({error.strerror}: {error.filename or self.path}); "
                "give another folder"
            ) from error

    def _begin(self, config: Config, resume: bool) -> list[str]:
        changes: list[str] = []
        for name in () if resume else OURS:
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if resume:
            before = self.saved_config()
            another, changes = differences(before, config)
            if another:
                raise another_run(self.path, another)
            if before and not self._config_file():
                write_atomically(self.path / CONFIG, yaml.safe_dump(before, sort_keys=False).encode())
                changes.append(f"{CONFIG} was missing or damaged and is back from the newest checkpoint")
        if not resume or not (self.path / CONFIG).is_file():
            write_atomically(self.path / CONFIG, config.to_yaml().encode())
        (self.path / PID).write_text(str(os.getpid()))
        (self.path / PREEMPTED).unlink(missing_ok=True)
        (self.path / "samples").mkdir(exist_ok=True)
        return changes

    def save_config(self, config: Config) -> None:
        """config.yaml: what the run is trained with from now on; not before a start has come so far as to train."""
        self.write(CONFIG, config.to_yaml().encode())
        self.mark_finished(None)

    def saved_config(self) -> dict[str, Any]:
        """The settings that the run which is there was last saved with; empty if there is none or it never trained.

        Its newest checkpoint tells; where that holds none, as the first did not, config.yaml.
        """
        store = CheckpointStore(self.path / "checkpoints")
        # A damaged one is named and set aside when it is to be loaded.
        state = store.newest(read_state, damaged=lambda folder, error: None)
        return {} if state is None else state.get("config") or self._config_file()

    def log(self, line: Mapping[str, Any], image: Image.Image | None = None) -> None:
        """Append to metrics.jsonl; a tracker gets the image too."""
        with self.tolerate_io_errors(METRICS):
            self._metrics.append(line)
        if self._tracker is not None:
            self._tracker.log(line, image)

    def log_evaluation(self, line: Mapping[str, Any], image: Image.Image | None) -> list[Verdict]:
        """Log it with the run's `health`; returns that, if something is wrong or no longer is and the last differed."""
        lines = self._logged()
        verdicts = judge([*lines, line])
        names = [verdict.name for verdict in verdicts]
        last = next((earlier.get("health") for earlier in reversed(lines) if is_evaluation(earlier)), None)
        before = [name for name in last if isinstance(name, str)] if isinstance(last, list) else []
        self.log({**line, "health": names}, image)
        if self._tracker is not None:
            for verdict in verdicts:
                if verdict.is_ill and verdict.name not in before:
                    self._tracker.alert(verdict.name, str(verdict), line["step"])
        changed = names != before and any(verdict.is_ill for verdict in verdicts)
        return verdicts if changed or (ILL & {*before}) - {*names} else []

    def health(self) -> list[Verdict]:
        return judge(self._logged())

    def _logged(self) -> list[dict[str, Any]]:
        with self.tolerate_io_errors(METRICS):
            return self._metrics.lines()
        return []

    @contextmanager
    def tolerate_io_errors(self, what: str) -> Iterator[None]:
        """Within, a full disk or a vanished folder costs no more than `what`; said once each time it begins."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            strerror, filename = getattr(error, "strerror", None), getattr(error, "filename", None)
            reason = f"{what} cannot be written ({strerror or error}: {filename or self.path}); training goes on"
            if self._said.get(what) != reason:
                self._said[what] = reason
                tqdm.write(reason, file=sys.stderr)
        else:
            self._said.pop(what, None)

    def write(self, name: str, data: bytes, what: str | None = None) -> None:
        """Replace the file `name` in one step; `what` it is called where that cannot be done."""
        with self.tolerate_io_errors(what or name):
            write_atomically(self.path / name, data)

    @property
    def unwritten(self) -> list[str]:
        """What of a finished run could not be written when it was last tried."""
        return [name for name in ("generator/", METRICS, EVALUATION, REPORT) if name in self._said]

    def track(self, config: Config, step: int) -> None:
        """Send what is logged from `step` on to a tracker too; after `forget_after`."""
        with self.tolerate_io_errors("the tracker's state"):
            if self._tracker is not None:
                self._tracker.close()
            settings = config.model_dump(mode="json")
            self._tracker = Tracker(config.training.tracker, self.path, step, self._metrics.last_steps, settings)

    def forget_after(self, step: int, evaluated_epoch: int) -> None:
        """Drop the lines of metrics.jsonl that the run, resumed at `step`, will write again."""
        with self.tolerate_io_errors(METRICS):
            if num := self._metrics.forget_after(step, evaluated_epoch):
                tqdm.write(f"{num} line(s) of {METRICS} could not be read and are now in {DAMAGED}", file=sys.stderr)

    def save_generator(self, generator: Generator) -> None:
        """generator/, put in the place of an older one when whole."""
        temporary, final = self.path / ".generator.tmp", self.path / "generator"
        with self.tolerate_io_errors("generator/"):
            try:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
                try:
                    write_generator_card(self.path, temporary, generator.reconstruction is not None)
                except Exception as error:  # noqa: BLE001 - without it `save_pretrained` writes a plainer one
                    tqdm.write(f"the generator's card cannot be made ({error}); training goes on", file=sys.stderr)
                generator.save_pretrained(temporary)
                if final.exists():
                    remove_directory(final)
                publish_directory(temporary, final)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def mark_finished(self, step: int | None) -> None:
        """Note that nothing is left to do at `step`: trained, judged, saved, and queued for the Hub; None: there is."""
        evaluation = read_object(self.path / EVALUATION)
        if evaluation.get("finished") != step:
            self.write(EVALUATION, json.dumps(evaluation | {"finished": step}, indent=1).encode())

    def close(self, preempted: bool = False) -> None:
        with self.tolerate_io_errors(METRICS):
            self._metrics.flush()
        if self._tracker is not None:
            self._tracker.close()
        if preempted:
            self.write(PREEMPTED, b"The run was asked to stop and can be resumed.\n")
        with self.tolerate_io_errors(LOCK):
            (self.path / PID).unlink(missing_ok=True)
            self._lock.release()

    def _config_file(self) -> dict[str, Any]:
        values = read_object(self.path / CONFIG)
        return values if any(isinstance(part, dict) for part in values.values()) else {}


def finished_step(run_dir: Path) -> int | None:
    """The step at which nothing of a run was left to do; None if that never came, or more is to be done since."""
    step = read_object(run_dir / EVALUATION).get("finished")
    return step if type(step) is int and (run_dir / "generator").is_dir() else None
