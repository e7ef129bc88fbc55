"""Owns how the rows of images become figures: of all, by class and by the hole's area, with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from inpaint.evaluation.features import frechet_distance, inception_discriminative_scores
from inpaint.evaluation.measure import Measured
from inpaint.evaluation.metrics import DISTANCE, Metric
from inpaint.evaluation.subject import Subject
from inpaint.sources.keys import NO_CLASS

# Beside the metrics of the table, in this order.
OF_FEATURES = {
    "distance": DISTANCE,
    "p_ids": Metric("P-IDS", 3, "higher"),
    "u_ids": Metric("U-IDS", 3, "higher"),
}
RESAMPLES, SEED = 1000, 0
# Shares of the image, the upper end in the bin.
AREA_BINS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 1.0)
_AT_ONCE = 50
ALL = "all"

Figures = dict[str, float | None]


@dataclass(frozen=True)
class Summary:
    """What is known of the methods; every figure that there is none of is None, as JSON has it.

    Attributes:
        methods: by name: `figures`, `intervals` (95%) and the same of each group, with how many images it has.
        differences: of two methods' figures on the same images, with its interval.
    """

    methods: dict[str, dict[str, Any]]
    differences: list[dict[str, Any]]


def summarise(
    subject: Subject,
    metrics: Mapping[str, Metric],
    measured: Mapping[str, Measured],
    truth: Tensor,
    judged: list[str],
) -> Summary:
    """All figures of all methods.

    Args:
        metrics: whose states stand in the rows.
        measured: by method.
        truth: [N, D], the features of the true images.
        judged: the methods that are compared with every one after them; the others are baselines.
    """
    groups = {ALL: np.arange(len(subject))} | _by_class(subject) | _by_area(subject)
    summary = compare(metrics, {name: its.rows.numpy() for name, its in measured.items()}, groups, judged)
    for name, its in measured.items():
        summary.methods[name]["figures"] |= _of_features(truth, its.features)
    for difference in summary.differences:
        first, second = (summary.methods[name]["figures"] for name in difference["methods"])
        difference["figures"] |= {name: _minus(first[name], second[name]) for name in OF_FEATURES}
    return summary


def compare(
    metrics: Mapping[str, Metric],
    rows: Mapping[str, NDArray[np.float64]],
    groups: Mapping[str, NDArray[np.int64]],
    judged: list[str],
) -> Summary:
    """The figures that rows give when they are added up.

    Args:
        metrics: whose states stand in the rows.
        rows: by method, [N, the states' sizes together], of the same N images.
        groups: which images are in each; `ALL` among them.
        judged: as `summarise` takes them.
    """
    sums = _resample(rows, groups)
    methods: dict[str, dict[str, Any]] = {}
    for name, its in rows.items():
        of_groups: dict[str, dict[str, Any]] = {
            group: {
                "num_images": len(chosen),
                "figures": _figures(metrics, its[chosen].sum(0)),
                "intervals": _intervals(_states(metrics, sums[name][group])),
            }
            for group, chosen in groups.items()
        }
        methods[name] = {**of_groups.pop(ALL), "groups": of_groups}
    names = [*judged, *(name for name in rows if name not in judged)]
    pairs = [(one, other) for number, one in enumerate(judged) for other in names[number + 1 :]]
    differences = []
    for one, other in pairs:
        first, second = (_states(metrics, sums[name][ALL]) for name in (one, other))
        figures = {name: _minus(methods[one]["figures"][name], methods[other]["figures"][name]) for name in metrics}
        intervals = _intervals({name: first[name] - second[name] for name in first})
        differences.append({"methods": [one, other], "figures": figures, "intervals": intervals})
    return Summary(methods, differences)


def _by_class(subject: Subject) -> dict[str, NDArray[np.int64]]:
    labels = np.array([label or NO_CLASS for label in subject.labels])
    return {f"class {label}": np.flatnonzero(labels == label) for label in sorted(set(labels.tolist()))}


def _by_area(subject: Subject) -> dict[str, NDArray[np.int64]]:
    shares = subject.hole_shares()
    bins = {"hole none": np.flatnonzero(shares == 0)}
    for low, high in pairwise(AREA_BINS):
        bins[f"hole {low:.0%} to {high:.0%}"] = np.flatnonzero((shares > low) & (shares <= high))
    return {name: chosen for name, chosen in bins.items() if len(chosen)}


def _resample(
    rows: Mapping[str, NDArray[np.float64]], groups: Mapping[str, NDArray[np.int64]]
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """The sums [R, M] of each method and group over images drawn with replacement, the same for all."""
    num = len(next(iter(rows.values())))
    sums = {name: {group: np.empty((RESAMPLES, its.shape[1])) for group in groups} for name, its in rows.items()}
    for part, counts in _counts(num):
        for group, chosen in groups.items():
            drawn = counts[:, chosen]
            for name, its in rows.items():
                sums[name][group][part] = drawn @ its[chosen]
    return sums


def _counts(num: int) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Of some resamples at a time: which they are, and how often each image is in them."""
    random = np.random.default_rng(SEED)
    for start in range(0, RESAMPLES, _AT_ONCE):
        part = slice(start, min(start + _AT_ONCE, RESAMPLES))
        drawn = random.integers(0, num, (part.stop - part.start, num))
        places = drawn + num * np.arange(len(drawn))[:, None]
        yield part, np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)


def _states(metrics: Mapping[str, Metric], sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Each metric's figures [R] from the sums of all states [R, M]."""
    parts = from_numpy(sums).split([metric.state_size for metric in metrics.values()], dim=1)
    return {name: metric.compute(part).numpy() for (name, metric), part in zip(metrics.items(), parts, strict=True)}


def _figures(metrics: Mapping[str, Metric], sums: NDArray[np.float64]) -> Figures:
    return {name: _finite(values[0]) for name, values in _states(metrics, sums[None]).items()}


def _intervals(figures: Mapping[str, NDArray[np.float64]]) -> dict[str, list[float] | None]:
    """The middle 95% of resampled figures; None where not one resample has the figure."""
    found: dict[str, list[float] | None] = {}
    for name, values in figures.items():
        finite = values[np.isfinite(values)]
        found[name] = np.percentile(finite, (2.5, 97.5)).tolist() if len(finite) else None
    return found


def _of_features(truth: Tensor, filled: Tensor) -> Figures:
    if not truth.shape[1]:
        return dict.fromkeys(OF_FEATURES)
    scores = inception_discriminative_scores(truth, filled) or (math.nan, math.nan)
    values = frechet_distance(truth, filled), *scores
    return {name: _finite(value) for name, value in zip(OF_FEATURES, values, strict=True)}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
