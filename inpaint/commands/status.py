"""Show the state of a run: its step, the time left, its last intact checkpoint.

It only reads the run's files, so it may be called during training.

Example:
  inpaint status runs/quickstart
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="a run directory")


def run(args: argparse.Namespace) -> int:
    from inpaint.evaluation.metrics import sentence
    from inpaint.training.checkpoint import CheckpointStore, read_checkpoint
    from inpaint.training.health import judge
    from inpaint.training.standing import read_standing

    folder: Path = args.folder
    standing, store = read_standing(folder), CheckpointStore(folder / "checkpoints")
    print(standing.state, *standing.faults, sep="\n")
    for verdict in judge(standing.lines):
        print(f"health: {verdict}")
    for line in standing.progress():
        print(line)
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
