"""Owns the table: a fill's figures over images and holes, beside the classical baselines' on the same."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from inpaint.evaluation.metrics import Filled, Metric, all_metrics, rows_of


def metric_sums(filled: Filled, metrics: Mapping[str, Metric] | None = None) -> Tensor:
    """What some images add to the states of all `metrics`: add it up over batches and processes, then take `means`.

    Returns:
        float64 [the states' sizes together] on the CPU, in the order of `metrics` (None: those of the table).
    """
    return torch.cat([rows.sum(0) for rows in rows_of(all_metrics() if metrics is None else metrics, filled)])


def no_sums(metrics: Mapping[str, Metric] | None = None) -> Tensor:
    """What no image at all adds."""
    judged = all_metrics() if metrics is None else metrics
    return torch.zeros(sum(metric.state_size for metric in judged.values()), dtype=torch.float64)


def means(sums: Tensor, metrics: Mapping[str, Metric] | None = None) -> dict[str, float]:
    """Every metric's figure from `metric_sums`, added up; nan where no image had it."""
    metrics = all_metrics() if metrics is None else metrics
    states = sums.split([metric.state_size for metric in metrics.values()])
    return {name: metric.compute(state).item() for (name, metric), state in zip(metrics.items(), states, strict=True)}


def markdown_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """One row a method, aligned so that it reads as well on a terminal as rendered; a figure nobody had is a dash."""
    metrics = all_metrics()
    cells = [["method", *(metric.heading for metric in metrics.values())]]
    cells += [
        [method, *(metric.text(figures.get(name, math.nan)) for name, metric in metrics.items())]
        for method, figures in rows.items()
    ]
    return aligned(cells)


def aligned(cells: list[list[str]]) -> str:
    """Markdown of rows, the headings first: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        f"| {first:<{widths[0]}} | "
        + " | ".join(f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        + " |"
        for first, *others in [cells[0], rule, *cells[1:]]
    )


def behind(rows: Mapping[str, Mapping[str, float]], method: str) -> str:
    """The beginning of a sentence that says which simple fills `method` does not reach in the hole; "" if none.

    Args:
        rows: as `markdown_table`; those of "mean fill" and "Telea" are looked at, by hole PSNR.
    """
    own = rows[method]["hole_psnr"]
    ahead = [
        f"{name} ({rows[name]['hole_psnr']:.1f} dB)" for name in ("mean fill", "Telea") if rows[name]["hole_psnr"] > own
    ]
    return f"**In the hole the {method} ({own:.1f} dB) is below {' and '.join(ahead)}**" if ahead else ""
