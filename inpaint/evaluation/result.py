"""Owns what an evaluation leaves: tables, `evaluation.json`, `evaluation.md` and the grids."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from io import BytesIO
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpaint.errors import InpaintError
from inpaint.evaluation.grid import grid, sample_grid
from inpaint.evaluation.measure import Measured, Measuring, Method
from inpaint.evaluation.metrics import Metric, to_u8
from inpaint.evaluation.summary import OF_FEATURES, RESAMPLES, Summary
from inpaint.evaluation.table import aligned
from inpaint.files import write_atomically
from inpaint.models.feature_network import NUM_FEATURES, REMEDY

JSON, MARKDOWN, COMPARISON = "evaluation.json", "evaluation.md", "comparison.png"
# Of each method, so many of the best, of the median and of the worst images; so many rows of the comparison.
NUM_SHOWN, NUM_COMPARED = 5, 12
RANKED_BY = "hole_psnr"
OUTPUT = "output_"
INTERVALS = ("hole_psnr", "hole_l1", "hole_ssim", "sharpness")
ABSENT = "not available"


def tables(facts: Mapping[str, Any], summary: Summary, metrics: Mapping[str, Metric]) -> str:
    """What is printed: the figures of all methods, what they are of, their intervals and differences."""
    data, holes = facts["data"], facts["holes"]
    shown = {name: metric for name, metric in metrics.items() if not name.startswith(OUTPUT)} | OF_FEATURES
    raw = {name: metric for name, metric in metrics.items() if name.startswith(OUTPUT)}
    of_all = {name: its["figures"] for name, its in summary.methods.items()}
    alone = [
        metric.heading
        for name, metric in OF_FEATURES.items()
        if any(figures[name] is not None for figures in of_all.values())
    ]
    without = f"; without: {', '.join(alone)}, which only a whole set has" if alone else ""
    lines = [
        f"{data['num_images']} images of the {data['split']} split of {data['source']} at {data['image_size']} px; "
        f"holes: {holes['given']} (SHA-256 {holes['sha256'][:12]}).",
        "",
        _table(of_all, shown),
        "",
        "Of the 8-bit composite; means over images. Sharpness is the gradient energy in all holes, the fill's over the "
        "truth's: 1 is right, far below is blur. Distance is a Fréchet distance of EfficientNet-lite0 features around "
        "the hole: lower is better; compare it at equal numbers and sizes of images only. It, P-IDS and U-IDS "
        "flatter what was trained with the loss frozen_features, whose network they share.",
        *(f"{name}: {remedy}." for name, remedy in facts["not_available"].items()),
        "",
        "The raw output, the whole image:",
        "",
        _table(of_all, raw),
        "",
        f"95% intervals, by {RESAMPLES} bootstrap resamples of the images{without}:",
        "",
        aligned(
            [["method", *(metrics[name].heading for name in INTERVALS)]]
            + [
                [method, *(_interval(metrics[name], its["intervals"][name]) for name in INTERVALS)]
                for method, its in summary.methods.items()
            ]
        ),
    ]
    if summary.differences:
        rows = [["difference, on the same images", *(metrics[name].heading for name in INTERVALS)]]
        for its in summary.differences:
            cells = [
                f"{_signed(metrics[name], its['figures'][name])} ({_interval(metrics[name], its['intervals'][name])})"
                for name in INTERVALS
            ]
            rows.append([" - ".join(its["methods"]), *cells])
        lines += ["", aligned(rows)]
    return "\n".join(lines)


def write_result(
    folder: Path,
    text: str,
    facts: Mapping[str, Any],
    summary: Summary,
    metrics: Mapping[str, Metric],
    judged: list[str],
) -> None:
    """`evaluation.md` and then `evaluation.json`, each whole or not at all."""
    described = {name: metric.description() for name, metric in {**metrics, **OF_FEATURES}.items()}
    everything = {**facts, "metrics": described, "methods": summary.methods, "differences": summary.differences}
    parts = ["# Evaluation", text]
    shown = {name: metric for name, metric in metrics.items() if not name.startswith(OUTPUT)}
    for method in judged:
        rows = {
            f"{group} ({its['num_images']})": its["figures"] for group, its in summary.methods[method]["groups"].items()
        }
        parts += [
            f"## {method}",
            "By class and by the hole's share of the image (images):",
            _table(rows, shown, "images"),
        ]
        parts.append(
            f"Best, median and worst by {metrics[RANKED_BY].heading} from left to right, {NUM_SHOWN} each:\n\n"
            f"![{method}]({grid_name(method)})"
        )
    parts += ["## All methods", f"The same images, filled by each:\n\n![comparison]({COMPARISON})"]
    write_atomically(folder / MARKDOWN, ("\n\n".join(parts) + "\n").encode())
    write_atomically(folder / JSON, (json.dumps(everything, indent=1, allow_nan=False) + "\n").encode())


def write_grids(
    folder: Path,
    measuring: Measuring,
    methods: Mapping[str, Method],
    measured: Mapping[str, Measured],
    judged: list[str],
) -> None:
    """Of each judged method its best, median and worst images; of all methods the same few images side by side."""
    before = takewhile(lambda name: name != RANKED_BY, measuring.metrics)
    column = sum(measuring.metrics[name].state_size for name in before)
    for name in judged:
        ranked = np.argsort(-measured[name].rows[:, column].numpy(), kind="stable")
        num = min(NUM_SHOWN, len(ranked) // 3) or 1
        middle = (len(ranked) - num) // 2
        chosen = np.concatenate([ranked[:num], ranked[middle : middle + num], ranked[-num:]])
        filled = measuring.fill(methods[name], chosen)
        image = filled.image.cpu()
        masked = image * (filled.hole.cpu() < 1)
        shown = (image, masked, to_u8(filled.output.cpu()), filled.composite.cpu())
        _save(sample_grid(*(tensor.byte().permute(0, 2, 3, 1).numpy() for tensor in shown)), folder / grid_name(name))
    num = len(measuring.subject)
    chosen = np.linspace(0, num - 1, min(NUM_COMPARED, num)).round().astype(np.int64)
    columns: dict[str, NDArray[np.uint8]] = {}
    for name, method in methods.items():
        filled = measuring.fill(method, chosen)
        if not columns:
            columns["original"] = filled.image.cpu().permute(0, 2, 3, 1).numpy()
            hole = filled.hole.cpu().permute(0, 2, 3, 1).numpy() > 0
            columns["masked"] = np.where(hole, 0, columns["original"]).astype(np.uint8)
        label = Path(name).name
        columns[name if label in columns else label] = filled.composite.cpu().permute(0, 2, 3, 1).numpy()
    _save(grid(columns, num_blocks=1), folder / COMPARISON)


def not_available(has_network: bool, num_images: int) -> dict[str, str]:
    """What cannot be had here, and how it can."""
    lacks: dict[str, str] = {}
    if not has_network:
        lacks = {"distance, P-IDS, U-IDS": f"{ABSENT} without a feature network; {REMEDY}"}
    elif find_spec("sklearn") is None:
        lacks = {"P-IDS, U-IDS": f"{ABSENT} without scikit-learn; {REMEDY}"}
    elif num_images < NUM_FEATURES:
        lacks = {"P-IDS, U-IDS": f"{ABSENT} of fewer than {NUM_FEATURES} images, which can always be told apart"}
    return lacks | {
        "FID on Inception, LPIPS": f"{ABSENT}: their networks would have to be downloaded; distance stands for them",
        "PatchMatch": f"{ABSENT}: no library that inpaint needs has it; give its results as --fills",
    }


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    names = ("inpaint", "torch", "torchmetrics", "numpy", "opencv-python-headless", "pillow", "scikit-learn")
    return {name: version(name) for name in names if name != "scikit-learn" or find_spec("sklearn")}


def make_folder(folder: Path) -> None:
    """Before anything is measured, for a place that cannot be written is known now.

    Raises:
        InpaintError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ".probe", b"")
        (folder / ".probe").unlink()
    except OSError as error:
        raise InpaintError(f"--out {folder} cannot be written ({error.strerror}); give another folder") from error


def grid_name(method: str) -> str:
    return f"grid-{re.sub(r'[^A-Za-z0-9]+', '-', method).strip('-')}.png"


def _table(rows: Mapping[str, Mapping[str, float | None]], metrics: Mapping[str, Metric], first: str = "method") -> str:
    cells = [[first, *(metric.heading for metric in metrics.values())]]
    for method, figures in rows.items():
        cells.append([method, *(_cell(name, metric, figures) for name, metric in metrics.items())])
    return aligned(cells)


def _cell(name: str, metric: Metric, figures: Mapping[str, float | None]) -> str:
    value = figures[name]
    return metric.text(value) if value is not None else ABSENT if name in OF_FEATURES else "-"


def _interval(metric: Metric, interval: list[float] | None) -> str:
    return "-" if interval is None else " to ".join(map(metric.text, interval))


def _signed(metric: Metric, value: float | None) -> str:
    return "-" if value is None else f"{value:+.{metric.decimals}f}"


def _save(sheet: Image.Image, path: Path) -> None:
    png = BytesIO()
    sheet.save(png, "PNG")
    write_atomically(path, png.getvalue())
