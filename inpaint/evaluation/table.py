"""Owns the table: a fill's mean figures over pictures and holes, beside the classical baselines' on the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inpaint.data.batches import hole_masks
from inpaint.evaluation.baselines import Fill
from inpaint.evaluation.metrics import METRICS, composite_u8, picture_metrics

_HEADINGS = {"psnr": "PSNR", "l1": "L1", "ssim": "SSIM"}
_DECIMALS = {"psnr": 2, "l1": 4, "ssim": 4}


@torch.no_grad()
def metric_sums(
    fill: Fill,
    images_u8: NDArray[np.uint8],
    holes: NDArray[np.int32],
    batch_size: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """What one process adds to the table: add the results of all processes, then take `means`.

    Args:
        fill: (masked_image [B, 3, S, S] in [0, 1], mask [B, 1, S, S]) -> output [B, 3, S, S]; a network in eval mode.
        images_u8: [N, S, S, 3], this process's slice of the split; a memory map is read batch by batch. N may be 0.
        holes: [N, 4], each [x, y, width, height] in pixels.
        batch_size: pictures filled at once.
        device: where `fill` wants its tensors.

    Returns:
        float64 [2, 6] on the CPU: for each of `METRICS` the sum over pictures, and how many pictures had the figure.
    """
    sums = torch.zeros(2, len(METRICS), dtype=torch.float64)
    for start in range(0, len(images_u8), batch_size):
        batch = slice(start, start + batch_size)
        image_u8 = torch.from_numpy(np.array(images_u8[batch])).to(device).permute(0, 3, 1, 2)
        mask = hole_masks(torch.from_numpy(np.array(holes[batch])).to(device), image_u8.shape[-1])
        output = fill(image_u8.float() / 255 * (1 - mask), mask)
        figures = picture_metrics(composite_u8(output, image_u8, mask), image_u8, mask)
        values = torch.stack([figures[name] for name in METRICS]).cpu().double()  # Apple's GPUs have no float64
        sums += torch.stack([values.nansum(1), values.isfinite().sum(1)])
    return sums


def means(sums: Tensor) -> dict[str, float]:
    """The mean of each of `METRICS` from `metric_sums` (added up over processes); nan where no picture had it."""
    return dict(zip(METRICS, (sums[0] / sums[1]).tolist(), strict=True))


def markdown_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """One row a method, aligned so that it reads as well on a terminal as rendered; a figure nobody had is a dash."""
    cells = [["method", *(_heading(name) for name in METRICS)]]
    cells += [[method, *(_cell(name, figures[name]) for name in METRICS)] for method, figures in rows.items()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(
        f"| {first:<{widths[0]}} | "
        + " | ".join(f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        + " |"
        for first, *others in cells
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


def _heading(metric: str) -> str:
    return f"hole {_HEADINGS[metric[5:]]}" if metric.startswith("hole_") else _HEADINGS[metric]


def _cell(metric: str, value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.{_DECIMALS[metric.removeprefix('hole_')]}f}"
