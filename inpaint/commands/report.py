"""Report on runs: curves, samples and health of one; several overlaid, with a table as in a paper.

Of one run it writes the run's report.md anew, with its curves in plots/; of several, report.md in the folder report/
beside them. Runs that differ in their seeds alone are one line of the table, with the spread over them. For runs of the
presets of the paper's Table 1 the paper's scores stand beside ours. A run that is still going on is reported as it is.

Examples:
  inpaint report runs/quickstart
  inpaint report runs/table1/* --ratings ratings.sqlite
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inpaint.reports.runs import Run
    from inpaint.reports.table import Ratings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories, or folders of them")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="default: the run directory; of several runs report/ beside them"
    )
    parser.add_argument("--ratings", type=Path, metavar="FILE", help="of inpaint rate: people's scores, for the table")


def run(args: argparse.Namespace) -> int:
    from inpaint.reports.document import write_report
    from inpaint.reports.figures import require_matplotlib
    from inpaint.reports.runs import read_runs

    require_matplotlib()
    runs = read_runs(args.runs)
    ratings = {} if args.ratings is None else _ratings(args.ratings, runs)
    written = write_report(runs, args.out, ratings)
    print(f"{written.summary}\n\nwritten: {written.path}, with its pictures in plots/ beside it")
    return 0


def _ratings(path: Path, runs: Sequence[Run]) -> Ratings:
    """People's scores by the run that they are of; those of others are left out, and said."""
    from inpaint.rating.results import scores

    of_runs = {folder.resolve(): run for run in runs for folder in (run.path, run.path / "generator")}
    found, left_out = {}, []
    for model, its in scores(path).items():
        if (run := of_runs.get(Path(model).resolve())) is not None:
            found[run.path] = its
        else:
            left_out.append(model)
    if left_out:
        print(f"{path}: scores of what is no run here are left out: {', '.join(left_out)}", file=sys.stderr)
    return found
