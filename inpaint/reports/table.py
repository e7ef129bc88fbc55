"""Owns the table of several runs: a line for each setting, over its seeds, with the scores published for it beside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from inpaint.evaluation.baselines import BASELINES
from inpaint.evaluation.metrics import DISTANCE, Metric, all_metrics
from inpaint.evaluation.table import aligned
from inpaint.rating.results import Score
from inpaint.reports.runs import Run
from inpaint.reports.same import groups_of
from inpaint.studies.published import SCORES, Row, Study, load_study, study_names
from inpaint.training.run_directory import EVALUATION

# Of the metrics, those that say something of the hole; the whole image's are nearly all known pixels.
SHOWN = ("hole_psnr", "hole_ssim", "hole_l1", "sharpness")
_FEWEST_RANKED = 4

Ratings = Mapping[Path, Mapping[str, Score]]


@dataclass(frozen=True)
class Line:
    """One setting: its runs, which differ in their seeds alone, and the published row that it is.

    With `is_measured` its figures are those of `inpaint evaluate`, else those that training ended with: the two may be
    of other images, and no table mixes them. `apart` says why it is not one with another line of its setting.
    """

    label: str
    runs: tuple[Run, ...]
    published: Row | None
    is_measured: bool = True
    apart: str = ""

    def figures(self, metric: str) -> list[float]:
        """Of each finished run that has it."""
        of_all = (
            run.measured.get("figures", {}) if self.is_measured else run.final["rows"].get("generator", {})
            for run in self.runs
            if run.final
        )
        return [value for figures in of_all if (value := figures.get(metric)) is not None]

    def interval(self, metric: str) -> tuple[float, float] | None:
        """The 95% interval over images, the mean of its ends over the runs."""
        found = [
            its for run in self.runs if run.final and (its := run.measured.get("intervals", {}).get(metric)) is not None
        ]
        return (fmean(low for low, _ in found), fmean(high for _, high in found)) if found else None


def published_study(runs: Sequence[Run]) -> Study | None:
    """The first that any of the runs is a row of."""
    studies = map(load_study, study_names())
    return next((study for study in studies if any(study.row_of(run.settings) for run in runs)), None)


def lines_of(runs: Sequence[Run], study: Study | None) -> list[Line]:
    """The published rows first, in their order, also those without a run; then the others as they were given."""
    is_measured = any(run.final and run.measured for run in runs)
    lines: list[Line] = []
    for group in groups_of(runs):
        its, names = group.runs, ", ".join(run.name for run in group.runs)
        row = study.row_of(its[0].settings) if study else None
        name = its[0].setting if len({run.setting for run in its}) == 1 and not group.apart else names
        label = name if row is None else f"{row.label} ({names})" if group.apart else row.label
        lines.append(Line(label, its, row, is_measured, group.apart))
    if study is None:
        return lines
    having = {line.published.preset for line in lines if line.published}
    empty = [Line(row.label, (), row) for row in study.rows if row.preset not in having]
    order = [row.preset for row in study.rows]
    ranked = [line for line in [*lines, *empty] if line.published]
    ranked.sort(key=lambda line: order.index(line.published.preset if line.published else ""))
    return [*ranked, *(line for line in lines if not line.published)]


def tables(lines: Sequence[Line], study: Study | None, ratings: Ratings) -> str:
    """Markdown: the table, its intervals, how its columns rank the settings, and what is missing of which run.

    Args:
        lines: see `lines_of`.
        study: whose scores stand beside them.
        ratings: what people gave: by a run's path, "local" and "global".
    """
    runs = [run for line in lines for run in line.runs]
    metrics = {name: metric for name, metric in all_metrics().items() if name in SHOWN}
    if any(line.figures("distance") for line in lines):
        metrics["distance"] = DISTANCE
    is_rated = any(run.path in ratings for run in runs)
    head = ["setting", "runs", "images seen", "weights of step"]
    head += [f"paper: {score}" for score in SCORES] if study else []
    head += [f"rated: {score}" for score in SCORES] if is_rated else []
    head += [*(metric.heading for metric in metrics.values()), "wall time"]
    cells = [head, *(_cells(line, study, ratings if is_rated else None, metrics) for line in lines)]
    for name, figures in _baselines(runs).items():
        blank = [""] * (len(head) - len(metrics) - 2)
        cells.append([name, *blank, *(_text(metric, [figures.get(key)]) for key, metric in metrics.items()), ""])
    parts = [aligned(cells)]
    several = any(len(line.runs) > 1 for line in lines)
    about = "Means over the held-out test images, in their holes" + (
        "; of several runs of a setting, which differ in their seeds, the mean ± the standard deviation."
        if several
        else "."
    )
    about += " Judged are the weights after the step named: the best or the last, as evaluation.best_by has it."
    if study:
        about += f" The paper's scores, 1 to 10, are from {study.source}."
    parts.append(about)
    with_intervals = [line for line in lines if any(line.interval(name) for name in metrics)]
    if with_intervals:
        rows = [["95% intervals over the images", *(metrics[name].heading for name in metrics if name != "distance")]]
        for line in with_intervals:
            rows.append(
                [line.label, *(_interval(metrics[name], line.interval(name)) for name in metrics if name != "distance")]
            )
        parts.append(aligned(rows))
        if several:
            parts.append("Of several runs, the mean of each end.")
    parts += _ranks(lines, metrics, ratings)
    parts += _missing(lines, bool(with_intervals))
    return "\n\n".join(parts)


def _cells(
    line: Line,
    study: Study | None,
    ratings: Ratings | None,
    metrics: Mapping[str, Metric],
) -> list[str]:
    finished = [run for run in line.runs if run.final]
    of_all = f"{len(line.runs)}" if len(finished) == len(line.runs) else f"{len(finished)} of {len(line.runs)}"
    seen = [run.final.get("images_seen") for run in finished]
    cells = [line.label, of_all, " and ".join(f"{number}" for number in dict.fromkeys(seen)) or "-", _weights(finished)]
    if study:
        cells += [f"{line.published.scores[score]:.2f}" if line.published else "-" for score in SCORES]
    if ratings is not None:
        average = _average(line, ratings)
        cells += [_rated(_ratings(line, ratings, name)) for name in SCORES[:2]]
        cells.append("-" if average is None else f"{average:.2f}")
    cells += [_text(metric, line.figures(name)) for name, metric in metrics.items()]
    seconds = [run.final["training_seconds"] for run in finished if "training_seconds" in run.final]
    return [*cells, in_words(fmean(seconds)) if seconds else "-"]


def _weights(runs: Sequence[Run]) -> str:
    """The steps after which the weights are that were judged, least and most; the best need not be the last."""
    if not runs:
        return "-"
    steps = [run.weights_step for run in runs if run.weights_step is not None]
    ends = " to ".join(f"{step}" for step in dict.fromkeys([min(steps), max(steps)])) if steps else "-"
    return f"{ends} of {max(run.final['steps'] for run in runs)}"


def _text(metric: Metric, values: Sequence[float | None]) -> str:
    found = [value for value in values if value is not None and math.isfinite(value)]
    if not found:
        return "-"
    spread = f" ± {metric.text(stdev(found))}" if len(found) > 1 else ""
    return f"{metric.text(fmean(found))}{spread}"


def _interval(metric: Metric, interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else " to ".join(map(metric.text, interval))


def _ratings(line: Line, ratings: Ratings, name: str) -> list[Score]:
    return [ratings[run.path][name] for run in line.runs if run.path in ratings]


def _average(line: Line, ratings: Ratings) -> float | None:
    """As the paper has it: between the local score and the global one."""
    both = [score.mean for name in SCORES[:2] for score in _ratings(line, ratings, name)]
    return fmean(both) if both else None


def _rated(scores: Sequence[Score]) -> str:
    if not scores:
        return "-"
    mean, ends = f"{fmean(score.mean for score in scores):.2f}", [score.interval for score in scores if score.interval]
    return f"{mean} ({fmean(low for low, _ in ends):.2f} to {fmean(high for _, high in ends):.2f})" if ends else mean


def _baselines(runs: Sequence[Run]) -> dict[str, Mapping[str, float | None]]:
    """The classical fills' figures on the same images, from the first run that has them as the others have theirs."""
    done = [run for run in runs if run.final]
    for run in done:
        methods = run.measured.get("facts", {}).get("methods", {})
        if found := {name: methods[name]["figures"] for name in BASELINES if name in methods}:
            return found
    if any(run.measured for run in done):
        return {}
    return {name: run.final["rows"][name] for run in done[:1] for name in BASELINES if name in run.final["rows"]}


def _ranks(lines: Sequence[Line], metrics: Mapping[str, Metric], ratings: Ratings) -> list[str]:
    """How alike the paper's mean score and each of ours rank the settings (Spearman)."""
    import torch
    from torchmetrics.functional.regression import spearman_corrcoef

    columns: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        if line.published is None or line.apart:
            continue
        score = line.published.scores["average"]
        for name, metric in metrics.items():
            if values := line.figures(name):
                columns.setdefault(metric.heading, []).append((score, fmean(values)))
        if (rated := _average(line, ratings)) is not None:
            columns.setdefault("our raters' average", []).append((score, rated))
    told = [
        f"{heading} {spearman_corrcoef(*torch.tensor(pairs, dtype=torch.float64).unbind(1)):+.2f}"
        for heading, pairs in columns.items()
        if len(pairs) >= _FEWEST_RANKED
    ]
    if not told:
        return []
    num = max(map(len, columns.values()))
    return [f"Rank correlation (Spearman) with the paper's average score, over {num} settings: {', '.join(told)}."]


def _missing(lines: Sequence[Line], any_measured: bool) -> list[str]:
    runs = [run for line in lines for run in line.runs]
    told = [f"- {run.name}: {run.lacks}" for run in runs if run.lacks]
    told += [f"- {run.name}: in a line of its own, {line.apart}" for line in lines for run in line.runs if line.apart]
    told += [
        f"- {run.name}: the step that its judged weights are of is unknown (no weights_step in its {EVALUATION}, as "
        "older versions wrote it)"
        for run in runs
        if run.final and run.weights_step is None
    ]
    if any_measured:
        told += [
            f"- {run.name}: no intervals; inpaint evaluate --model {run.path} --baselines [--data ...] makes them"
            for run in runs
            if run.final and not run.measured
        ]
    elif any(run.final for run in runs):
        told.append("- no run has intervals: inpaint evaluate --model RUN --baselines [--data ...] makes them")
    return ["\n".join(told)] if told else []


def in_words(seconds: float) -> str:
    """40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
