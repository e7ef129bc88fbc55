"""Owns how the results of ratings are printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inpaint.evaluation.metrics import all_metrics
from inpaint.evaluation.summary import RESAMPLES
from inpaint.evaluation.table import aligned
from inpaint.rating.results import SCORES, Interval, Results


def text(results: Results, facts: Mapping[str, str]) -> str:
    """All of it in Markdown.

    Args:
        facts: what was rated, by flag.
    """
    raters = ", ".join(f"{rater} ({num})" for rater, num in results.raters.items())
    parts = [f"Answers by {raters}; of {', '.join(f'{flag} {value}' for flag, value in facts.items())}."]
    if results.scores:
        parts += _of_scores(results)
    if results.told:
        parts += _of_told(results)
    return "\n\n".join(parts)


def _of_scores(results: Results) -> list[str]:
    means = [["model", *(metric.heading for metric in SCORES.values()), "answers", "raters"]]
    for model, its in results.scores.items():
        cells = [f"{score.mean:.2f} ({_interval(score.interval)})" for score in its.values()]
        means.append([model, *cells, str(its["local"].num_answers), str(its["local"].num_raters)])
    parts = [
        f"Scores from 1 to 10, means with 95% intervals by {RESAMPLES} bootstrap resamples of the images. Local is the "
        "filled region's quality, global the whole image's:",
        aligned(means),
    ]
    if results.differences:
        rows = [["difference", *(metric.heading for metric in SCORES.values())]]
        rows += [_difference(its) for its in results.differences]
        parts.append(aligned(rows))
    agreement = ", ".join(f"{name} {_number(value)}" for name, value in results.agreement.items())
    parts.append(
        f"Agreement between raters: Krippendorff's alpha for interval data: {agreement} (1: full, 0: that of "
        "chance, -: no fill that two have scored, or all scores alike)."
    )
    if known := {name: its for name, its in results.correlations.items() if any(its.values())}:
        rows = [["metric", *(metric.heading for metric in SCORES.values())]]
        for name, of_metric in known.items():
            cells = [f"{its[0]:+.2f} ({_interval(its[1])})" if its else "-" for its in of_metric.values()]
            rows.append([all_metrics()[name].heading, *cells])
        parts += [
            "Spearman's rank correlation of the scores with how good each metric finds the same fill (sharpness: how "
            "near it is to 1); above 0 they agree:",
            aligned(rows),
        ]
    return parts


def _of_told(results: Results) -> list[str]:
    rows = [["model", "photograph told from fill", "answers"]]
    rows += [
        [model, f"{its.share:.0%} ({its.interval[0]:.0%} to {its.interval[1]:.0%})", str(its.num_answers)]
        for model, its in results.told.items()
    ]
    return [
        "Which one is the photograph? The share of right answers, with Wilson's 95% interval; at 50% nobody can tell "
        "fills from photographs:",
        aligned(rows),
    ]


def _difference(its: Mapping[str, Any]) -> list[str]:
    cells = []
    for name in SCORES:
        value, interval = its["figures"][name], its["intervals"][name]
        cells.append("-" if value is None else f"{value:+.2f} ({_interval(interval)})")
    return [" - ".join(its["methods"]), *cells]


def _interval(interval: Interval | list[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
