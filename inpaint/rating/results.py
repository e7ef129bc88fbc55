"""Owns what answers come to: mean scores, how often the photograph is told from the fill, and what metrics make of it.

All 95% intervals of scores are by bootstrap resamples of the images, as those of `inpaint evaluate`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from inpaint.evaluation.metrics import Metric, all_metrics
from inpaint.evaluation.summary import ALL, Summary, compare
from inpaint.rating.answers import Answer, Fill, read_answers

SCORES = {"local": Metric("local score", 2, "higher"), "global": Metric("global score", 2, "higher")}

Interval = tuple[float, float]


@dataclass(frozen=True)
class Score:
    """A model's mean score.

    Attributes:
        mean: over all answers, 1 to 10.
        interval: 95%; None of too few images to say.
        num_answers: how many there are, of all raters.
        num_raters: of whom.
    """

    mean: float
    interval: Interval | None
    num_answers: int
    num_raters: int


@dataclass(frozen=True)
class Told:
    """How often the photograph was told from a model's fill: half is the best that a model can do.

    Attributes:
        share: of right answers.
        interval: 95%, as if all answers were independent.
    """

    share: float
    interval: Interval
    num_right: int
    num_answers: int


@dataclass(frozen=True)
class Results:
    """All that a file of ratings says.

    Attributes:
        scores: by model, then "local" and "global"; models without scores are left out.
        differences: as `Summary.differences`, of every two models with scores.
        agreement: Krippendorff's alpha of "local" and "global"; None where no fill has scores of two raters.
        correlations: by metric, then "local" and "global", with the interval; None where it cannot be told.
        told: by model; models without such answers are left out.
        raters: how many answers each gave, of both kinds.
    """

    scores: dict[str, dict[str, Score]]
    differences: list[dict[str, object]]
    agreement: dict[str, float | None]
    correlations: dict[str, dict[str, tuple[float, Interval | None] | None]]
    told: dict[str, Told]
    raters: dict[str, int]


class Correlation(Metric):
    """Pearson's, of two values; its state is their number and their sums of first and second order."""

    def compute(self, state: Tensor) -> Tensor:
        num, first, second, first_square, second_square, product = state.unbind(-1)
        covariance = product - first * second / num
        variances = (first_square - first.square() / num) * (second_square - second.square() / num)
        return covariance / variances.clamp(min=0).sqrt()


def scores(path: Path) -> dict[str, dict[str, Score]]:
    """The mean scores in a file of ratings, by model (as it was named to `inpaint rate`), then "local" and "global".

    Raises:
        InpaintError: there is no such file, it is damaged, or it holds no answers.
    """
    answers, _ = read_answers(path)
    return _scores(answers["score"])[0]


def results(path: Path) -> Results:
    """All that the file says; InpaintError as `scores`."""
    answers, fills = read_answers(path)
    means, summary = _scores(answers["score"])
    given = [*answers["score"], *answers["photograph"]]
    return Results(
        means,
        summary.differences if summary is not None else [],
        {name: _agreement(answers["score"], name) for name in SCORES},
        _correlations(answers["score"], fills),
        _told(answers["photograph"]),
        dict(sorted(Counter(answer.rater for answer in given).items())),
    )


def krippendorff_alpha(scores: Sequence[Sequence[float]]) -> float | None:
    """Krippendorff's alpha for interval data (K. Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011).

    Args:
        scores: of each unit, those of all who rated it; units of one rater say nothing of agreement.

    Returns:
        1 for full agreement, 0 for that of chance, less for less; None where nothing can be compared, or all is equal.
    """
    units = [np.asarray(unit, float) for unit in scores if len(unit) > 1]
    if not units:
        return None
    together = np.concatenate(units)

    def squares(values: NDArray[np.float64]) -> float:
        """The squared differences of all ordered pairs, added up."""
        return float(2 * len(values) * np.square(values - values.mean()).sum())

    observed = sum(squares(unit) / (len(unit) - 1) for unit in units)
    expected = squares(together) / (len(together) - 1)
    return 1 - observed / expected if expected > 0 else None


def wilson(num_right: int, num: int) -> Interval:
    """The 95% interval of a share (E. B. Wilson, "Probable Inference", 1927).

    Args:
        num_right: 0 to `num`.
        num: at least 1.
    """
    z = NormalDist().inv_cdf(0.975)
    share, weight = num_right / num, z * z / num
    half = z * math.sqrt(share * (1 - share) / num + weight / (4 * num))
    return (share + weight / 2 - half) / (1 + weight), (share + weight / 2 + half) / (1 + weight)


def _scores(answers: Sequence[Answer]) -> tuple[dict[str, dict[str, Score]], Summary | None]:
    if not answers:
        return {}, None
    models = sorted({answer.model for answer in answers})
    place = {image: number for number, image in enumerate(sorted({answer.image for answer in answers}))}
    rows = {model: np.zeros((len(place), 2 * len(SCORES))) for model in models}
    raters = defaultdict(set)
    for answer in answers:
        assert answer.local_score is not None and answer.global_score is not None
        rows[answer.model][place[answer.image]] += (answer.local_score, 1, answer.global_score, 1)
        raters[answer.model].add(answer.rater)
    summary = compare(SCORES, rows, {ALL: np.arange(len(place))}, models)
    found: dict[str, dict[str, Score]] = {}
    for model, its in summary.methods.items():
        num_answers, num_images = int(rows[model][:, 1].sum()), int((rows[model][:, 1] > 0).sum())
        found[model] = {
            name: Score(
                its["figures"][name],
                _pair(its["intervals"][name]) if num_images > 1 else None,
                num_answers,
                len(raters[model]),
            )
            for name in SCORES
        }
    return found, summary


def _agreement(answers: Sequence[Answer], name: str) -> float | None:
    of_fills = defaultdict(list)
    for answer in answers:
        of_fills[answer.model, answer.image].append(_value(answer, name))
    return krippendorff_alpha(list(of_fills.values()))


def _correlations(
    answers: Sequence[Answer], fills: Sequence[Fill]
) -> dict[str, dict[str, tuple[float, Interval | None] | None]]:
    """Spearman's, of each fill's mean score with how good a metric finds it; over all fills, resampled by image."""
    of_fills = defaultdict(list)
    for answer in answers:
        of_fills[answer.model, answer.image].append(answer)
    rated = [fill for fill in fills if (fill.model, fill.image) in of_fills]
    place = {image: number for number, image in enumerate(sorted({fill.image for fill in rated}))}
    found: dict[str, dict[str, tuple[float, Interval | None] | None]] = {}
    for metric_name, metric in all_metrics().items():
        having = [fill for fill in rated if metric_name in fill.metrics]
        if len(having) < 3:
            continue
        where = [place[fill.image] for fill in having]
        good = _ranks(_goodness(metric, np.array([fill.metrics[metric_name] for fill in having])))
        found[metric_name] = {}
        for name in SCORES:
            scored = _ranks(
                np.array([np.mean([_value(its, name) for its in of_fills[fill.model, fill.image]]) for fill in having])
            )
            rows = np.zeros((len(place), 6))
            terms = np.stack([np.ones_like(good), good, scored, good**2, scored**2, good * scored], axis=1)
            np.add.at(rows, where, terms)
            correlation = {name: Correlation("correlation", 2, "higher", state_size=6)}
            its = compare(correlation, {"": rows}, {ALL: np.arange(len(place))}, []).methods[""]
            value = its["figures"][name]
            found[metric_name][name] = None if value is None else (value, _pair(its["intervals"][name]))
    return found


def _told(answers: Sequence[Answer]) -> dict[str, Told]:
    numbers: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for answer in answers:
        numbers[answer.model][0] += bool(answer.correct)
        numbers[answer.model][1] += 1
    return {model: Told(right / num, wilson(right, num), right, num) for model, (right, num) in sorted(numbers.items())}


def _value(answer: Answer, name: str) -> int:
    value = answer.local_score if name == "local" else answer.global_score
    assert value is not None
    return value


def _goodness(metric: Metric, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Higher is better: turned round where lower is, and the nearness to 1, as a ratio, where that is right."""
    if metric.better == "one":
        return -np.abs(np.log(np.maximum(values, 1e-12)))
    return values if metric.better == "higher" else -values


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the lowest up, around 0; equal values share the mean of their ranks."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return ranks - ranks.mean()


def _pair(interval: Sequence[float] | None) -> Interval | None:
    return None if interval is None else (interval[0], interval[1])
