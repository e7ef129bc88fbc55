"""Owns the processes of a study: so many runs at a time, each trained and then evaluated, all stopped together."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from inpaint.distributed.signals import StopRequest, tied_to_us
from inpaint.errors import InpaintError
from inpaint.processes import LAUNCHER_MARKS, num_cores
from inpaint.studies.plan import Planned
from inpaint.training.run_directory import LOCK
from inpaint.training.run_lock import live_holder
from inpaint.training.standing import read_progress

LOGS, GUARD = "logs", ".study.lock"
POLL_S = 0.2
# Between two lines on a run where no terminal shows them in place.
TELL_EVERY_S = 60.0
# How long a run is waited for that another process has: one that an earlier study has left is saving.
LEFT_S = 300.0
# Of the line that says why a run failed, in characters.
MOST_SAID = 400
# Where tqdm and the shell's colours stood.
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass
class Outcome:
    """How a study ended; `failed` has a reason for each run by name, `stopped_by` is a signal."""

    failed: dict[str, str] = field(default_factory=dict)
    stopped_by: str | None = None


@dataclass
class _Job:
    planned: Planned
    stage: str
    process: subprocess.Popen[bytes]
    log: Path
    began_at: int
    started: float
    told: float


class Runner:
    """Works through the runs of one study, whose folder is its own for as long as that takes.

    Killed itself, it takes its processes with it on Linux: they save, and the next study goes on from there.
    """

    def __init__(self, folder: Path, runs: list[Planned], jobs: int) -> None:
        self.folder, self.runs, self.num_jobs = folder, runs, jobs
        self._waiting = [*runs]
        self._slots: list[_Job | None] = [None] * jobs
        self._held: dict[str, float] = {}
        self._devices = _devices()
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Until all are done or a signal asks to stop; InpaintError if another study is at work in the folder."""
        with _guarded(self.folder):
            stop, bars = StopRequest(), _Bars(self.num_jobs)
            try:
                while self._waiting or any(self._slots):
                    if stop.asked and not self.outcome.stopped_by:
                        self.outcome.stopped_by = stop.asked
                        self._waiting.clear()
                        for job in filter(None, self._slots):
                            job.process.terminate()
                    for number, its in enumerate(self._slots):
                        if its is not None and its.process.poll() is not None:
                            self._slots[number] = self._ended(its, number)
                        if self._slots[number] is None and self._waiting and not stop.asked:
                            self._slots[number] = self._begin(self._waiting.pop(0), number)
                    bars.show(self._slots)
                    time.sleep(POLL_S)
            finally:
                for job in filter(None, self._slots):
                    job.process.kill()
                    job.process.wait()
                bars.close()
                stop.restore()
        return self.outcome

    def _begin(self, planned: Planned, slot: int) -> _Job | None:
        """What is to be done of it first; None if nothing is."""
        number = f"{self.runs.index(planned) + 1} of {len(self.runs)}"
        if holder := live_holder(planned.run_dir / LOCK):
            whose = f"process {holder.get('pid')} on {holder.get('host')}"
            since = self._held.setdefault(planned.name, time.monotonic())
            if time.monotonic() - since > LEFT_S:
                self._fail(planned, f"{whose} trains it already")
            else:
                self._waiting.append(planned)
            return None
        if not planned.is_trained():
            return self._start(planned, "training", planned.training, slot, number)
        if not planned.is_evaluated():
            return self._start(planned, "evaluating", planned.evaluation, slot, number)
        _say(f"{planned.name} ({number}): finished before, passed over")
        return None

    def _start(self, planned: Planned, stage: str, command: list[str], slot: int, number: str = "") -> _Job:
        log = self.folder / LOGS / f"{planned.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            began_at = file.tell()
            process = subprocess.Popen(
                command,
                env=self.environment(slot),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C at the terminal is for the study, which tells them
                preexec_fn=tied_to_us(),
            )
        if number:
            _say(f"{planned.name} ({number}): {stage}, log in {log}")
        return _Job(planned, stage, process, log, began_at, time.monotonic(), time.monotonic())

    def environment(self, slot: int) -> dict[str, str]:
        """Of a process in a job's place: its share of the cores, and a GPU of its own where there are several."""
        # A run that goes on keeps the number of threads that it began with.
        threads = {"OMP_NUM_THREADS": str(max(1, num_cores() // self.num_jobs))}
        device = {"CUDA_VISIBLE_DEVICES": self._devices[slot % len(self._devices)]} if self._devices else {}
        foreign = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"} | LAUNCHER_MARKS
        return threads | {name: value for name, value in os.environ.items() if name not in foreign} | device

    def _ended(self, job: _Job, slot: int) -> _Job | None:
        """What comes next of its run."""
        planned, code = job.planned, job.process.returncode
        if self.outcome.stopped_by:
            return None
        if code or not (planned.is_finished() if job.stage == "training" else planned.is_evaluated()):
            how = f"ended with code {code}" if code >= 0 else f"was ended by signal {-code}"
            self._fail(planned, f"{job.stage} {how}: {_last_words(job)} ({job.log})")
            return None
        if job.stage == "training":
            return self._start(planned, "evaluating", planned.evaluation, slot)
        _say(f"{planned.name}: done")
        return None

    def _fail(self, planned: Planned, why: str) -> None:
        self.outcome.failed[planned.name] = why
        _say(f"{planned.name}: FAILED, {why}" + ("; the others go on" if len(self.runs) > 1 else ""))


class _Bars:
    """A line for each run that is at work: in place on a terminal, else now and then."""

    def __init__(self, num: int) -> None:
        self._bars: list[Any] = []
        if sys.stderr.isatty():
            form = {"bar_format": "{desc}", "leave": False, "dynamic_ncols": True}
            self._bars = [tqdm(total=1, position=number, **form) for number in range(num)]
        self._due = 0.0

    def show(self, jobs: list[_Job | None]) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + 1
        for number, job in enumerate(jobs):
            if self._bars:
                self._bars[number].set_description_str(_line(job) if job else "")
            elif job is not None and now >= job.told + TELL_EVERY_S:
                job.told = now
                _say(_line(job))

    def close(self) -> None:
        for bar in self._bars:
            bar.close()


def _line(job: _Job) -> str:
    told = read_progress(job.planned.run_dir) if job.stage == "training" else []
    return f"{job.planned.name}: {', '.join([job.stage, *told])}"


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def _last_words(job: _Job) -> str:
    """The line of its log that says why: our own, which begins with `inpaint`, else the last."""
    with job.log.open("rb") as file:
        file.seek(job.began_at)
        text = _CONTROL.sub("", file.read().decode(errors="replace"))
    lines = [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
    own = [line for line in lines if line.startswith("inpaint")]
    return (own or lines or ["it said nothing"])[-1][:MOST_SAID]


def _devices() -> list[str]:
    """The GPUs that may be shared out, as CUDA_VISIBLE_DEVICES names them; none where there are not several."""
    import torch

    num = torch.cuda.device_count()
    if num < 2:
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[:num] if given else [str(number) for number in range(num)]


@contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """Keeps a second study out of the folder; the system ends it with this process, however that ends."""
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / GUARD)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InpaintError(
            f"another study is at work in {folder}; wait for it, stop it, or give another --out"
        ) from error
    except OSError as error:
        raise InpaintError(f"--out {folder} cannot be written ({error.strerror}); give another folder") from error
    try:
        yield
    finally:
        lock.release()
