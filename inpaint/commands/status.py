"""Show the state of a run: its step, the time left, its last intact checkpoint.

It only reads the run's files, so it may be called during training.

Example:
  inpaint status runs/quickstart
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inpaint.errors import InpaintError

# What is shown here; lines of metrics.jsonl without it are of evaluations.
KEYS = {"step", "total_steps", "epoch", "images_seen", "time/total_s"}
PACE = {"time/images_per_s", "memory/peak_gib"}  # runs of older versions have not noted it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="a run directory")


def run(args: argparse.Namespace) -> int:
    from inpaint.evaluation.metrics import sentence
    from inpaint.files import read_json_lines
    from inpaint.training.checkpoint import CheckpointStore, read_checkpoint
    from inpaint.training.health import judge
    from inpaint.training.run_directory import CONFIG, LOCK, METRICS, PREEMPTED, finished_step
    from inpaint.training.run_lock import live_holder

    folder: Path = args.folder
    store = CheckpointStore(folder / "checkpoints")
    if not (folder / CONFIG).is_file() and not store.steps():
        raise InpaintError(f"{folder} holds no run (no {CONFIG}); give the --run-dir of a training")
    if holder := live_holder(folder / LOCK):
        print(f"running: process {holder.get('pid')} on {holder.get('host')}")
    elif (folder / PREEMPTED).exists():
        print("stopped on request; the same command resumes it")
    else:
        print("finished" if finished_step(folder) in store.steps()[-1:] else "not running; the same command resumes it")
    lines, damaged = read_json_lines(folder / METRICS)
    if damaged:
        print(f"{METRICS}: {len(damaged)} damaged line(s) are left out")
    if _is_cut(folder / METRICS):
        print(f"{METRICS} ends within a line, which is left out")
    for verdict in judge(lines):
        print(f"health: {verdict}")
    if last := next((line for line in reversed(lines) if _has_numbers(line, KEYS)), None):
        total, per_step = last["total_steps"], last["time/total_s"] / max(1, last["step"])
        print(f"step {last['step']} of {total}, epoch {last['epoch']}, {last['images_seen']} images seen")
        if _has_numbers(last, PACE):
            print(f"{last['time/images_per_s']:.0f} images/s, peak memory {last['memory/peak_gib']:.1f} GiB")
        if last["step"] < total:
            print(f"about {(total - last['step']) * per_step / 60:.0f} minutes of training left")
    checkpoint = store.newest(read_checkpoint, damaged=lambda folder, error: print(f"damaged: {folder} ({error})"))
    sound = checkpoint.path if checkpoint is not None else None
    print(f"last intact checkpoint: {sound}" if sound else "no intact checkpoint yet")
    if best := store.best():
        print(f"best so far: step {best['step']}, on validation images: {sentence(best)}")
    if (folder / "generator").is_dir():
        print(f"usable now: inpaint fill --model {folder} uses its generator/")
    elif sound:
        print(f"usable now: inpaint fill --model {folder} uses the generator in {sound.name}")
    return 0


def _has_numbers(line: Mapping[str, Any], keys: set[str]) -> bool:
    return all(type(line.get(key)) in (int, float) for key in keys)


def _is_cut(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.seek(0, os.SEEK_END) > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read() != b"\n"
    except FileNotFoundError:
        return False
