"""No worker outlives its launcher, whenever that is killed: also before the worker has begun to look for it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from running import PATIENCE_S, TRAIN, environment, launch, tiny_config

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")

# Each process of one start, and those that it starts, carry it in their environment.
MARK = "INPAINT_TEST_START"


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    return tiny_config(tmp_path, training={"epochs": 100_000}, evaluation={"every_epochs": 100_000})


def alive(start: str) -> list[int]:
    """The processes of this start that run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ, state = (folder / "environ").read_bytes(), (folder / "stat").read_text().rpartition(")")[2]
        except OSError:  # gone meanwhile, or another user's
            continue
        if f"{MARK}={start}".encode() in environ.split(b"\0") and state.split()[0] != "Z":
            found.append(int(folder.name))
    return found


def assert_gone(start: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while left := alive(start):
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"{len(left)} processes are left after {PATIENCE_S} s")
        time.sleep(0.1)


def test_a_launcher_that_died_before_its_worker_ran_is_missed(endless: Path, tmp_path: Path) -> None:
    """A stand-in for the launcher, as its own lasts longer than a worker's first instruction."""
    start = uuid.uuid4().hex
    worker = [sys.executable, str(TRAIN), "--config", str(endless), "--run-dir", str(tmp_path / "run")]
    shell = f"subprocess.Popen(['sh', '-c', 'sleep 1; exec \"$@\"', 'sh', *{worker!r}])"
    launcher = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, time; {shell}; time.sleep(0.3)"],
        env=environment() | {MARK: start, "ACCELERATE_MIXED_PRECISION": "no"},
    )
    launcher.wait()
    assert alive(start), "the worker must have been started to be an orphan"
    assert_gone(start)
    assert not (tmp_path / "run").exists(), "it began to train"


def test_a_shell_is_no_dead_launcher() -> None:
    """Somebody sets what launchers set, by hand and for this command alone."""
    command = f"ACCELERATE_MIXED_PRECISION=no {sys.executable} {TRAIN} --help; exit $?"
    ended = subprocess.run(["sh", "-c", command], env=environment(), capture_output=True, text=True)
    assert ended.returncode == 0 and "usage:" in ended.stdout, ended.stderr


def kill_launchers(kills: int, latest_s: float, processes: int, engine: str, endless: Path, tmp_path: Path) -> None:
    generator = random.Random(f"{processes} {engine}")
    for number in range(kills):
        start = uuid.uuid4().hex
        run = ("--config", endless, "--run-dir", tmp_path / str(number))
        job = launch(engine, *run, processes=processes, env={MARK: start})
        time.sleep(generator.uniform(0.2, latest_s))
        assert job.processes[0].poll() is None, f"it ended by itself\n{job.stderr}"
        job.processes[0].kill()
        job.processes[0].wait()
        assert_gone(start)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("engine", ["cpu", "deepspeed_zero2"])
@pytest.mark.parametrize("processes", [1, 2])
def test_no_process_is_left_whenever_the_launcher_is_killed(
    processes: int, engine: str, endless: Path, tmp_path: Path
) -> None:
    kill_launchers(int(os.environ.get("SOAK_LAUNCHER_KILLS", "10")), 12, processes, engine, endless, tmp_path)


def test_no_process_is_left_of_two_launchers_killed_early(endless: Path, tmp_path: Path) -> None:
    kill_launchers(2, 2.5, 2, "cpu", endless, tmp_path)
