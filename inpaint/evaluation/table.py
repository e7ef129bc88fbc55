"""Owns the table: a fill's figures over images and holes, beside the classical baselines' on the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inpaint.evaluation.baselines import Fill
from inpaint.evaluation.metrics import Filled, all_metrics, composite_u8


@torch.no_grad()
def metric_sums(fill: Fill, images_u8: NDArray[np.uint8], masks: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """What some images add to the states of all metrics: add it up over batches and processes, then take `means`.

    Args:
        fill: (masked_image [B, 3, H, W] in [0, 1], mask [B, 1, H, W]) -> output [B, 3, H, W]; a network in eval mode.
        images_u8: [B, H, W, 3], filled at once.
        masks: float [B, 1, H, W], 1 in the hole.
        device: where `fill` wants its tensors.

    Returns:
        float64 [the states' sizes together] on the CPU, in the order of the table.
    """
    image = torch.from_numpy(images_u8).to(device).permute(0, 3, 1, 2)
    mask = masks.to(device)
    output = fill(image.float() / 255 * (1 - mask), mask)
    filled = Filled(composite_u8(output, image, mask), image, mask, output)
    return torch.cat([metric.update(filled) for metric in all_metrics().values()])


def no_sums() -> Tensor:
    """What no image at all adds."""
    return torch.zeros(sum(metric.state_size for metric in all_metrics().values()), dtype=torch.float64)


def means(sums: Tensor) -> dict[str, float]:
    """Every metric's figure from `metric_sums`, added up; nan where no image had it."""
    metrics = all_metrics()
    states = sums.split([metric.state_size for metric in metrics.values()])
    return {name: metric.compute(state) for (name, metric), state in zip(metrics.items(), states, strict=True)}


def markdown_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """One row a method, aligned so that it reads as well on a terminal as rendered; a figure nobody had is a dash."""
    metrics = all_metrics()
    cells = [["method", *(metric.heading for metric in metrics.values())]]
    cells += [[method, *(metrics[name].text(figures[name]) for name in metrics)] for method, figures in rows.items()]
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
