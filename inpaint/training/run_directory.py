"""Owns the run directory: whose it is, who writes in it, its small files. Only the main process comes here."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor
from tqdm import tqdm

from inpaint.config import Config
from inpaint.errors import InpaintError, UsageError
from inpaint.files import publish_directory, remove_directory, write_atomically
from inpaint.models.generator import Generator
from inpaint.training.tracking import Tracker

CONFIG, METRICS, LOCK, PREEMPTED, PID, REPORT, EVALUATION = (
    "config.yaml",
    "metrics.jsonl",
    "run.lock",
    "PREEMPTED",
    "rank0.pid",
    "report.md",
    "evaluation.json",
)
ENVIRONMENT = "environment.json"
# All that a run leaves, so that --overwrite never removes anything else.
OURS = (
    *(METRICS, PREEMPTED, PID, REPORT, EVALUATION, ENVIRONMENT),
    *("samples", "checkpoints", "generator", "debug", "tensorboard", "hub_queue"),
)
# A changed value here makes a checkpoint's tensors fit no longer.
SHAPES = ("model.", "data.image_size", "data.window_px")
# A lock from another machine counts as stale when it was not renewed for so long.
RENEW_S, STALE_S = 10.0, 45.0


class RunDirectory:
    """One run's folder, locked against a second writer from `open` to `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics: Any = None
        self._tracker: Tracker | None = None
        self._said: set[str] = set()

    def open(self, config: Config, resume: bool, overwrite: bool) -> list[str]:
        """Take the folder for this run, or say why not before anything in it is touched.

        Args:
            config: saved as config.yaml of a new run; that of an older one stays until `save_config`.
            resume: whether a run that is there may go on.
            overwrite: with `resume` off, whether a run that is there may be thrown away.

        Returns:
            What changed since the run was last started, one line each, where that is allowed.

        Raises:
            UsageError: the folder is not a run's, or the run in it may not be touched.
            InpaintError: another process is writing in it, or it cannot be written.
        """
        try:
            exists = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
            if exists and not (self.path / CONFIG).is_file() and not (self.path / LOCK).is_file():
                what = "holds other things" if self.path.is_dir() else "is a file"
                raise UsageError(f"--run-dir {self.path} {what} and no run; give a new or empty folder")
            if (self.path / CONFIG).is_file() and not resume and not overwrite:
                raise UsageError(
                    f"--run-dir {self.path} holds a run and --no-resume was given; give another folder, or --overwrite "
                    "to throw that run away"
                )
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock()
            if not resume:
                for name in OURS:
                    path = self.path / name
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            changes = self._changes(config) if resume else []
            if not resume or not (self.path / CONFIG).is_file():
                write_atomically(self.path / CONFIG, config.to_yaml().encode())
            (self.path / PID).write_text(str(os.getpid()))
            (self.path / PREEMPTED).unlink(missing_ok=True)
            (self.path / "samples").mkdir(exist_ok=True)
        except OSError as error:
            raise InpaintError(
                f"--run-dir {self.path} cannot be written ({error.strerror}: {error.filename}); give another folder"
            ) from error
        return changes

    def save_config(self, config: Config) -> None:
        """config.yaml: what the run is trained with from now on; not before a start has come so far as to train."""
        with self.forgiving(CONFIG):
            write_atomically(self.path / CONFIG, config.to_yaml().encode())

    def saved_config(self) -> dict[str, Any]:
        """With what settings the run that is there was trained; empty if there is none, or it never began to train."""
        if not any((self.path / "checkpoints").glob("step_*")):
            return {}
        try:
            values = yaml.safe_load((self.path / CONFIG).read_bytes())
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        is_config = isinstance(values, dict) and all(isinstance(section, dict) for section in values.values())
        return values if is_config else {}

    def log(self, line: Mapping[str, Any]) -> None:
        """Append to metrics.jsonl."""
        with self.forgiving(METRICS):
            if self._metrics is None:
                self._metrics = (self.path / METRICS).open("a", buffering=1)
            self._metrics.write(json.dumps(line) + "\n")
            if self._tracker is not None:
                self._tracker.log(line)

    @contextmanager
    def forgiving(self, what: str) -> Iterator[None]:
        """Within, a full disk or a vanished folder costs no more than `what`, and is said once."""
        try:
            yield
        except OSError as error:
            reason = f"{what} cannot be written ({error.strerror}: {error.filename or self.path}); training goes on"
            if reason not in self._said:
                self._said.add(reason)
                tqdm.write(reason, file=sys.stderr)

    def track(self, kind: str, step: int) -> None:
        """Send what is logged from `step` on to a tracker too."""
        if self._tracker is not None:
            self._tracker.close()
        self._tracker = Tracker(kind, self.path / "tensorboard", step)

    def forget_after(self, step: int, evaluated_epoch: int) -> None:
        """Drop the lines of metrics.jsonl that the run, resumed at `step`, will write again."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        path = self.path / METRICS
        if not path.exists():
            return
        kept = []
        for text in path.read_text().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue  # the line that was being written when the run died
            evaluated = line["epoch"] <= evaluated_epoch if "evaluation/hole_psnr" in line else True
            if line["step"] <= step and evaluated:
                kept.append(text + "\n")
        write_atomically(path, "".join(kept).encode())

    def save_generator(self, weights: Mapping[str, Tensor], generator: Generator) -> None:
        """generator/: `weights` as float32 in `generator`'s shape, put in the place of an older one when whole."""
        generator.load_state_dict(
            {name: tensor.to(generator.state_dict()[name].dtype) for name, tensor in weights.items()}
        )
        temporary, final = self.path / ".generator.tmp", self.path / "generator"
        if temporary.exists():
            shutil.rmtree(temporary)
        generator.save_pretrained(temporary)
        if final.exists():
            remove_directory(final)
        publish_directory(temporary, final)

    def mark_finished(self, step: int) -> None:
        """Note that nothing is left to do at `step`: trained, judged, saved, and queued for the Hub."""
        write_atomically(self.path / EVALUATION, json.dumps(self._evaluation() | {"finished": step}, indent=1).encode())

    def finished_step(self) -> int | None:
        """The step at which nothing was left to do; None if that never came."""
        return self._evaluation().get("finished") if (self.path / "generator").is_dir() else None

    def _evaluation(self) -> dict[str, Any]:
        try:
            return json.loads((self.path / EVALUATION).read_text())
        except (OSError, json.JSONDecodeError):
            return {}

    def save_environment(self, facts: Mapping[str, Any]) -> None:
        """environment.json: what the model card says of hardware and hours."""
        write_atomically(self.path / ENVIRONMENT, (json.dumps(facts, indent=1) + "\n").encode())

    def renew(self) -> None:
        """Show other machines that this run is alive; called every `RENEW_S`."""
        with self.forgiving(LOCK):
            os.utime(self.path / LOCK)

    def close(self, preempted: bool = False) -> None:
        """Leave the folder to the next."""
        if self._metrics is not None:
            self._metrics.close()
        if self._tracker is not None:
            self._tracker.close()
        if preempted:
            write_atomically(self.path / PREEMPTED, b"The run was asked to stop and can be resumed.\n")
        (self.path / PID).unlink(missing_ok=True)
        (self.path / LOCK).unlink(missing_ok=True)

    def _changes(self, config: Config) -> list[str]:
        try:
            before = _flat(yaml.safe_load((self.path / CONFIG).read_text()))
        except (OSError, yaml.YAMLError, AttributeError):
            return []
        after = _flat(config.model_dump(mode="json"))
        differing = [key for key in after if before.get(key, after[key]) != after[key]]
        lines = [f"{key}: {before[key]} -> {after[key]}" for key in differing]
        fatal = [line for key, line in zip(differing, lines, strict=True) if key.startswith(SHAPES)]
        if fatal and (self.path / "checkpoints").exists():
            self._unlock_quietly()
            raise UsageError(
                f"--run-dir {self.path} holds a run whose networks have another shape ({'; '.join(fatal)}); give "
                "another --run-dir, or the old values"
            )
        return lines

    def _lock(self) -> None:
        lock = self.path / LOCK
        mine = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())})
        for _ in range(3):
            try:
                descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                if holder := live_holder(lock):
                    raise InpaintError(
                        f"--run-dir {self.path} is in use by process {holder['pid']} on {holder['host']}; wait for it, "
                        f"stop it, or give another folder (if it is surely gone, delete {lock})"
                    ) from None
                # Only one of several processes that find the lock stale can rename it.
                stale = lock.with_name(f".{LOCK}.stale-{os.getpid()}")
                try:
                    os.rename(lock, stale)
                    stale.unlink()
                except FileNotFoundError:
                    continue
            else:
                os.write(descriptor, mine.encode())
                os.close(descriptor)
                return
        raise InpaintError(f"--run-dir {self.path} is being taken by another process; try again")

    def _unlock_quietly(self) -> None:
        (self.path / LOCK).unlink(missing_ok=True)


def live_holder(lock: Path, patience_s: float = STALE_S) -> dict[str, Any] | None:
    """Who holds a run's lock, if they live: on this machine by their process, on another by whether they renew it.

    Args:
        lock: the lock file.
        patience_s: how long to watch another machine's; a lock renewed less than `STALE_S` ago then counts as alive.
    """
    try:
        holder = json.loads(lock.read_text())
        pid, host = int(holder["pid"]), holder["host"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        holder, pid, host = {"pid": "unknown", "host": "another machine"}, 0, ""
    if host == socket.gethostname():
        return holder if _started(pid) == holder.get("started") and _started(pid) is not None else None
    deadline = time.monotonic() + patience_s
    try:
        while time.time() - lock.stat().st_mtime < STALE_S:
            seen = lock.stat().st_mtime
            if time.monotonic() >= deadline:
                return holder
            time.sleep(2)
            if lock.stat().st_mtime != seen:
                return holder
    except FileNotFoundError:
        pass
    return None


def _started(pid: int) -> str | None:
    """When a process on this machine began, so that a reused pid is told apart; None if it is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        pass
    if Path("/proc/self").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "unknown"
    return "unknown"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
