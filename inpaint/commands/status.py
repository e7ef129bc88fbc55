"""Say where a run stands: its step, the time left, its last sound checkpoint.

Looks only at the run's files, so it may be called while the run goes on.

Example:
  inpaint status runs/quickstart
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from inpaint.errors import InpaintError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="a run directory")


def run(args: argparse.Namespace) -> int:
    from inpaint.training.checkpoint import CheckpointStore, DamagedCheckpointError, read_checkpoint
    from inpaint.training.run_directory import CONFIG, LOCK, METRICS, PREEMPTED, REPORT, live_holder

    folder: Path = args.folder
    if not (folder / CONFIG).is_file():
        raise InpaintError(f"{folder} holds no run (no {CONFIG}); give the --run-dir of a training")
    holder = live_holder(folder / LOCK, patience_s=0) if (folder / LOCK).exists() else None
    if holder:
        print(f"running: process {holder['pid']} on {holder['host']}")
    elif (folder / PREEMPTED).exists():
        print("stopped when asked to; the same command resumes it")
    else:
        print("finished" if (folder / REPORT).exists() else "not running; the same command resumes it")
    if last := _last_line(folder / METRICS):
        total, per_step = last["total_steps"], last["time/total_s"] / last["step"]
        print(f"step {last['step']} of {total}, epoch {last['epoch']}, {last['images_seen']} pictures seen")
        if last["step"] < total:
            print(f"about {(total - last['step']) * per_step / 60:.0f} minutes of training left")
    store = CheckpointStore(folder / "checkpoints")
    for step in reversed(store.steps()):
        try:
            read_checkpoint(store.folder(step))
        except DamagedCheckpointError as error:
            print(f"damaged: {store.folder(step)} ({error})")
            continue
        print(f"last sound checkpoint: {store.folder(step)}")
        break
    else:
        print("no sound checkpoint yet")
    if best := store.best():
        print(f"best so far: step {best['step']}, hole PSNR {best['hole_psnr']:.2f} dB on validation pictures")
    return 0


def _last_line(path: Path) -> dict | None:
    """The newest line of training in metrics.jsonl."""
    lines = path.read_text().splitlines() if path.exists() else []
    for text in reversed(lines):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue  # being written just now
        if "time/total_s" in line:
            return line
    return None
