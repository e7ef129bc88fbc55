"""How long training stands still for a checkpoint of paper-size networks, and accelerate's own in the same run."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from benchmarks.measuring import Figure, middle, ratio, take_turns
from benchmarks.subject import Subject, configured, reset_threads
from inpaint.training.checkpoint import CheckpointStore
from inpaint.training.state import Progress, load_state, save_state
from inpaint.training.task import build_networks


def run() -> list[Figure]:
    reset_threads()
    config = configured("paper/final", 2)
    ours = Subject(config)
    ours.step(3)
    accelerator = Accelerator(cpu=True)
    networks = [accelerator.prepare(network) for network in (*build_networks(config), build_networks(config)[0])]
    for network in networks[:2]:
        adam = accelerator.prepare(torch.optim.Adam(network.parameters()))
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        adam.step()
    with tempfile.TemporaryDirectory() as name:
        store = CheckpointStore(Path(name) / "ours", keep=1)
        progress = Progress()

        def begin() -> None:
            progress.step += 1
            save_state(store, ours.runtime, ours.task, progress, config)

        seconds = take_turns(
            {
                "stall": begin,
                "write": store.wait,
                "save": lambda: accelerator.save_state(f"{name}/theirs", safe_serialization=True),
                "load": lambda: load_state(store, ours.runtime, ours.task, config),
                "load_state": lambda: accelerator.load_state(f"{name}/theirs"),
            },
            rounds=3,
            clock=time.perf_counter,
        )
    whole = [stall + write for stall, write in zip(seconds["stall"], seconds["write"], strict=True)]
    num = ours.task.num_parameters
    size = f"{4e-6 * (3 * sum(num.values()) + num['generator']):.0f} MB"
    named = {
        "training stands still": (seconds["stall"], "the rest is written while it goes on"),
        "until it is on the disk": (whole, "with hashes and an fsync of each file"),
        "accelerate.save_state": (seconds["save"], "stands still for all of it; no hash, no fsync"),
        "load, with hashes": (seconds["load"], ""),
        "accelerate.load_state": (seconds["load_state"], ""),
    }
    figures = []
    for what, (times, note) in named.items():
        value, spread = middle(times)
        figures.append(Figure(f"{what}, networks, average and moments ({size})", value, "s", spread, note))
    figures.append(ratio("stall: against accelerate.save_state", seconds["stall"], seconds["save"]))
    figures.append(ratio("load: against accelerate.load_state", seconds["load"], seconds["load_state"]))
    ours.close()
    return figures
