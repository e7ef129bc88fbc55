"""Killed at random, or moved from engine to engine, a run ends with the weights of one that nothing disturbed."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from running import LAST, Job, assert_same_end, differences, start, steps, train, weights

# Where the runs end that are killed at random: three epochs.
KILLED_LAST = 30


def kill(job: Job) -> None:
    for process in job.processes:
        process.kill()
    for process in job.processes:
        process.wait()


def one_kill(job: Job, run: Path, generator: random.Random) -> None:
    """kill -9 at a random moment, or inside a save, once training has begun; at once if it has ended."""
    until = generator.randrange(1, KILLED_LAST)
    inside_a_save = generator.random() < 0.5
    with job:
        while all(process.poll() is None for process in job.processes):
            reached = steps(run) and steps(run)[-1] >= until
            saving = any((run / "checkpoints").glob(".tmp-*"))
            if (inside_a_save and saving) or (not inside_a_save and reached):
                break
            time.sleep(0.001)
        time.sleep(generator.random() * 0.05)
        kill(job)


@pytest.mark.parametrize(("processes", "engine", "kills"), [(1, None, 2), (2, None, 2), (2, "zero2", 1)])
def test_kill_9_at_random_moments_costs_no_bit(
    processes: int, engine: str | None, kills: int, config: Path, tmp_path: Path
) -> None:
    soak_kills(processes, engine, kills, config, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("processes", "engine"), [(1, None), (2, None), (2, "zero2")])
def test_kill_9_again_and_again(processes: int, engine: str | None, config: Path, tmp_path: Path) -> None:
    soak_kills(processes, engine, int(os.environ.get("SOAK_KILLS", "20")), config, tmp_path)


def soak_kills(processes: int, engine: str | None, kills: int, config: Path, tmp_path: Path) -> None:
    """Kill and restart, beginning anew whenever the run got to its end before the next kill."""
    generator = random.Random(processes * 10 + len(engine or ""))
    how: dict[str, Any] = {"processes": processes, "engine": engine}
    flags = ["--config", config, "--training.epochs", "3"]
    train(*flags, "--run-dir", tmp_path / "straight", **how).ok()
    run = tmp_path / "run_0"
    for number in range(kills):
        if KILLED_LAST in steps(run):
            run = tmp_path / f"run_{number}"
        one_kill(start(*flags, "--run-dir", run, **how), run, generator)
    train(*flags, "--run-dir", run, **how).ok()
    assert_same_end(run, tmp_path / "straight", KILLED_LAST)


@pytest.mark.soak
def test_one_run_under_every_engine_in_turn(config: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"processes": 2}
    train("--config", config, "--run-dir", tmp_path / "straight", **how).ok()
    for number, engine in enumerate((None, "zero2", "zero3", "zero1", None), start=1):
        flags = ["--training.max_steps", str(4 * number)]
        train("--config", config, "--run-dir", tmp_path / "run", *flags, engine=engine, **how).ok()
    assert_same_end(tmp_path / "run", tmp_path / "straight", LAST)


@pytest.mark.soak
def test_one_run_on_two_one_four_and_two_processes(config: Path, tmp_path: Path) -> None:
    precision = ["--training.precision", "float64"]
    train("--config", config, "--run-dir", tmp_path / "straight", *precision, processes=2).ok()
    for number, processes in enumerate((2, 1, 4, 2), start=1):
        flags = [*precision, "--training.max_steps", str(5 * number)]
        train("--config", config, "--run-dir", tmp_path / "run", *flags, processes=processes).ok()
    apart = differences(weights(tmp_path / "run", LAST), weights(tmp_path / "straight", LAST))
    assert max(apart.values()) < 1e-9, apart
