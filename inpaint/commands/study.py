"""Train and evaluate several presets on this machine, such as the paper's Table 1, and report on them.

The same command again resumes: finished runs are passed over, the others go on exactly where they were. A run that
fails is named, and the others go on. Ctrl-C or SIGTERM saves what runs and stops. Each run is kept in its own folder in
runs/NAME, its log in runs/NAME/logs; a second seed of `original` in `original-seed1`. With --jobs each run has its
share of the cores, and a GPU of its own where there are several. What follows -- are settings, as train.py takes them,
for all runs.

Examples:
  inpaint study table1 --epochs 10 -- --data.path photos/
  inpaint study table1 --epochs 2 --width 16 --jobs 2 -- --data.synthetic_train 4096
  inpaint study paper/original paper/mse-adv-10 --out runs/table1 --seeds 3 --epochs 10 -- --data.path photos/
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from inpaint.errors import InpaintError, UsageError

TAKES_SETTINGS = True  # behind --
EXIT_STOPPED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "inpaint study NAME|PRESET... [--epochs N] [--width W] [--seeds K] [--jobs J] [--out DIR] [-- SETTINGS]"
    )
    add = parser.add_argument
    add("names", nargs="+", metavar="NAME|PRESET", help="table1, or presets and .yaml files")
    add("--epochs", type=int, metavar="N", help="training.epochs of each run")
    add("--width", type=int, metavar="W", help="model.width of each run")
    add("--seeds", type=int, default=1, metavar="K", help="runs of each setting, with seeds that follow one another")
    add("--jobs", type=int, default=1, metavar="J", help="runs at a time, each with its share of the cores; default: 1")
    add("--out", type=Path, metavar="DIR", help="the folder of the runs; default: runs/NAME, of presets runs/study")


def run(args: argparse.Namespace) -> int:
    from inpaint.arguments import read_settings
    from inpaint.reports.figures import require_matplotlib
    from inpaint.studies.plan import plan
    from inpaint.studies.runner import Runner

    for name in ("seeds", "jobs"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} is {getattr(args, name)}; it must be at least 1")
    require_matplotlib()  # now, not when all is trained
    flags, given = [*args.settings], read_settings(args.settings)
    for name, setting in (("epochs", "training.epochs"), ("width", "model.width")):
        value = getattr(args, name)
        if value is not None and setting in given:
            raise UsageError(f"--{name} and --{setting} are the same setting; give one of them")
        flags += [] if value is None else [f"--{setting}", str(value)]
    runs = plan(args.names, args.out, args.seeds, flags)
    folder = runs[0].run_dir.parent
    outcome = Runner(folder, runs, args.jobs).run()
    if outcome.stopped_by:
        print("asked to stop: all runs are saved; the same command goes on", file=sys.stderr)
        return EXIT_STOPPED
    _report(folder)
    if outcome.failed:
        told = "; ".join(f"{name}: {why}" for name, why in outcome.failed.items())
        raise InpaintError(
            f"{len(outcome.failed)} of {len(runs)} runs failed, which the same command tries again: {told}"
        )
    return 0


def _report(folder: Path) -> None:
    """On all runs in the folder, those of earlier studies too; what cannot be reported on is said and no failure."""
    from inpaint.reports.document import write_report
    from inpaint.reports.runs import read_runs

    try:
        written = write_report(read_runs([folder]), None, {})
        print(f"{written.summary}\n\nwritten: {written.path}")
    except InpaintError as error:
        print(f"no report: {error}", file=sys.stderr)
