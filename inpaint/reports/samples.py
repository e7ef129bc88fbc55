"""Owns the sheets of sample images: what a run's fills became over time, and what several runs make of the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpaint.evaluation.grid import COLUMNS, cells, grid
from inpaint.reports.runs import Run

NUM_IMAGES, NUM_TIMES = 6, 6
Cells = dict[str, NDArray[np.uint8]]


def over_time(run: Run) -> Image.Image | None:
    """The same held-out images, filled after up to `NUM_TIMES` epochs, the first and the last among them; or None."""
    paths = grids(run)
    if not paths:
        return None
    chosen = [paths[index] for index in np.unique(np.linspace(0, len(paths) - 1, NUM_TIMES).round().astype(int))]
    columns: Cells = {}
    for path in chosen:
        its = _cells(run, path)
        columns = columns or {name: its[name] for name in COLUMNS[:2]}
        columns[f"epoch {int(path.stem.removeprefix('epoch_'))}"] = its[COLUMNS[3]]
    return grid(columns, num_blocks=1)


def side_by_side(runs: Sequence[Run]) -> Image.Image | None:
    """What the runs that have a sample grid make of the same held-out images; None if they are not the same."""
    columns: Cells = {}
    for run in runs:
        if not (paths := grids(run)):
            continue
        its = _cells(run, paths[-1])
        columns = columns or {name: its[name] for name in COLUMNS[:2]}
        if not np.array_equal(columns[COLUMNS[0]], its[COLUMNS[0]]):
            return None
        columns[run.name] = its[COLUMNS[3]]
    return grid(columns, num_blocks=1) if columns else None


def grids(run: Run) -> list[Path]:
    """The sample grids in the order of their epochs."""
    return sorted((run.path / "samples").glob("epoch_*.png"))


def _cells(run: Run, path: Path) -> Cells:
    with Image.open(path) as sheet:
        return cells(sheet.convert("RGB"), run.settings["data"]["image_size"], COLUMNS, NUM_IMAGES)
