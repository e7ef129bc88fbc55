"""From `accelerate launch` to the first reduction and the first step: what each life of a job costs before it trains.

By the clock, with the images in the cache. The goal is 15 s to the first step with two processes on two cores.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measuring import Figure, middle

ROOT = Path(__file__).parent.parent
PROCESSES, ROUNDS = (2, 4, 8), 3


def run() -> list[Figure]:
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"INPAINT_CACHE": f"{folder}/cache", "CUDA_VISIBLE_DEVICES": ""}
        start(Path(folder) / "first", 1, environment)  # makes the images
        for processes in PROCESSES:
            rounds = [start(Path(folder) / f"{processes}-{n}", processes, environment) for n in range(ROUNDS)]
            for what, seconds in zip(("reduction", "step"), zip(*rounds, strict=True), strict=True):
                value, spread = middle(seconds)
                note = "goal 15" if (what, processes) == ("step", 2) else ""
                figures.append(Figure(f"to the first {what}, {processes} processes", value, "s", spread, note))
    return figures


def start(
    run_dir: Path, processes: int, environment: Mapping[str, str], flags: Sequence[str] = (), timeout_s: float = 300.0
) -> tuple[float, float]:
    """Seconds until the run's folder is opened, which follows the first reduction, and until its first step.

    Raises:
        RuntimeError: it ended, or did not come so far in time; with what it said.
    """
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]
    command += [
        "--num_processes",
        str(processes),
        "train.py",
        "--run-dir",
        str(run_dir),
        "--training.log_every",
        "1",
        *flags,
    ]
    marks = (run_dir / "rank0.pid", run_dir / "metrics.jsonl")
    seconds: list[float] = []
    begun = time.monotonic()
    with tempfile.TemporaryFile() as said:
        launcher = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True
        )
        try:
            for mark in marks:
                while not (mark.exists() and mark.stat().st_size):
                    if launcher.poll() is not None or time.monotonic() - begun > timeout_s:
                        said.seek(0)
                        raise RuntimeError(f"no {mark.name}: {said.read(2000).decode(errors='replace')}")
                    time.sleep(0.01)
                seconds.append(time.monotonic() - begun)
        finally:
            if launcher.poll() is None:
                os.killpg(launcher.pid, signal.SIGTERM)
                launcher.wait()
    return seconds[0], seconds[1]
