"""`train.py` on all cores beside other programs: alone, and with two endless loops a core, its threads spinning for
microseconds or sleeping at once while they wait for one another. Its fair share is threads / (threads + loops) of what
it does alone; half of that is the goal. By the clock, since this is about waiting: for a machine with nothing else to
do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measuring import Figure
from inpaint.processes import num_cores

TRAIN = Path(__file__).parent.parent / "train.py"
SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE"}
ENDLESS = {
    "training.epochs": 10**6,
    "training.log_every": 1,
    "data.synthetic_train": 512,
    "data.synthetic_held_out": 64,
    "training.phases": "[1, 0, 0]",
    "evaluation.every_epochs": 10**6,
    "checkpointing.every_minutes": "null",
}


def run(seconds: float = 20.0, *more: str) -> list[Figure]:
    """Args: how long each run is watched, and more arguments for train.py."""
    threads, loops = num_cores(), 2 * num_cores()
    alone, sleeping_alone = (images_per_s(env, seconds, more) for env in ({}, SLEEPING))
    with busy(loops):
        spinning, sleeping = (images_per_s(env, seconds, more) for env in ({}, SLEEPING))
    fair = alone * threads / (threads + loops)
    return [
        Figure(f"quickstart, phase 1, {threads} threads, alone", alone, "img/s"),
        Figure("alone, threads sleeping", sleeping_alone, "img/s"),
        Figure(f"beside {loops} loops", spinning, "img/s"),
        Figure(f"beside {loops} loops, of its fair share", spinning / fair, "x"),
        Figure(f"beside {loops} loops, threads sleeping", sleeping, "img/s"),
    ]


def images_per_s(env: Mapping[str, str], seconds: float, more: tuple[str, ...] = ()) -> float:
    """How many images train.py sees in a second, from its second logged step on."""
    flags = [f"--{name}={value}" for name, value in ENDLESS.items()]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(TRAIN), "--run-dir", f"{folder}/run", *flags, *more]
        training = subprocess.Popen(command, env={**inherited, **env}, stderr=subprocess.DEVNULL)
        try:
            until = float("inf")
            while training.poll() is None and (time.monotonic() < until or len(_lines(folder)) < 4):
                time.sleep(0.2)
                if len(_lines(folder)) >= 2:
                    until = min(until, time.monotonic() + seconds)
            _, first, *_, last = _lines(folder)
        finally:
            training.kill()
            training.wait()
    return (last["images_seen"] - first["images_seen"]) / (last["time/total_s"] - first["time/total_s"])


@contextmanager
def busy(num: int) -> Iterator[None]:
    """Beside it, so many programs that never wait."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def _lines(folder: str) -> list[dict[str, float]]:
    try:
        text = (Path(folder) / "run" / "metrics.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]
