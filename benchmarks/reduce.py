"""Bytes and time that two processes spend on exchanging gradients, in each phase, over gloo on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.measuring import Figure, middle, take_turns
from benchmarks.subject import Subject, configured, reset_threads

PHASES = {1: ("generator",), 2: ("discriminator",), 3: ("generator", "discriminator")}
WIDTH, BATCH, ROUNDS = 16, 8, 15


def run() -> list[Figure]:
    measured = json.loads(_in_two_processes(["-m", "benchmarks.reduce"]))
    figures = []
    for phase, (num_bytes, reduced, alone) in enumerate(measured, start=1):
        spent, spread = middle([1e3 * (both - own) for both, own in zip(reduced, alone, strict=True)])
        step = 1e3 * middle(reduced)[0]
        note = f"{num_bytes / 1e6:.1f} MB a process and step; a step takes {step:.0f} ms by the clock"
        figures.append(Figure(f"width {WIDTH}, batch 2 x {BATCH}, phase {phase}: reduction", spent, "ms", spread, note))
    return figures


def _in_two_processes(arguments: list[str]) -> str:
    """What rank 0 printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    common = {**os.environ, **meeting, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"a process failed: {said}")
    return said[0].splitlines()[-1]


def _work() -> None:
    """One of the two: prints by phase the bytes, and the seconds of steps with and without the exchange."""
    reset_threads()
    subject = Subject(configured("paper/original", 2 * BATCH, model__width=WIDTH))
    networks: dict[str, Any] = dict(subject.task.networks)
    batch = subject.batch()

    def alone(phase: int) -> None:
        with ExitStack() as stack:
            for network in networks.values():
                stack.enter_context(network.engine.no_sync())
            subject.step(phase, batch)

    measured = []
    for phase, trained in PHASES.items():
        rivals = {"reduced": partial(subject.step, phase, batch), "alone": partial(alone, phase)}
        seconds = take_turns(rivals, ROUNDS, time.perf_counter)
        num_bytes = sum(4 * p.numel() for name in trained for p in networks[name].module.parameters())
        measured.append((num_bytes, seconds["reduced"], seconds["alone"]))
    is_main = subject.runtime.is_main
    networks.clear()
    subject.close()
    if is_main:
        print(json.dumps(measured))


if __name__ == "__main__":
    _work()
