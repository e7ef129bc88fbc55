"""Owns what the logged figures say of a run's health: verdicts in words, each with its evidence and a remedy.

Neither loss of a GAN falls as its images get better (the paper found so too), so no verdict rests on how high one is.
They rest on figures with a scale of their own: the fills against the mean colour's PSNR and the truth's sharpness, how
much outputs differ, how sure the discriminator is, and the run against itself. What the bounds are worth is measured by
`python -m benchmarks health`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any

from inpaint.tables import ADVERSARIAL_LOSSES, LOSSES
from inpaint.training.metrics_file import in_order

CONVERGING, SATURATED, COLLAPSED = "converging", "discriminator saturated", "collapsed"
DIVERGING, BLURRED, EARLY = "diverging", "blurred", "too early to say"
ILL = {SATURATED, COLLAPSED, DIVERGING, BLURRED}

# Fewer steps or evaluations say nothing.
MIN_STEPS, MIN_EVALUATIONS = 100, 3
# The newest rows that are looked at: a sixth of those with the figure, but at least and at most so many.
RECENT = (4, 50)
# Outputs of one batch differ by about 0.2 if the images are photographs; at less than this they are one image.
ONE_IMAGE_STD = 0.02
# Of the truth's, how much the holes' mean colours may differ at least.
ONE_IMAGE_VARIETY, LIKE_THE_TRUTH_VARIETY = 0.4, 0.7
# Below the mean colour's PSNR by more than mid-grey is in most images.
WORSE_THAN_GREY_DB = 6.0
# An adversarial loss costs some PSNR and now and then a few dB for an epoch; not so much, and not twice.
FALL_DB, RISE_OF_ERROR = 4.0, 3.0
# The errors that mid-grey cannot exceed, and by how much a run must get better that once did.
WORST_OF_GREY, RECOVERY_DB = {"reconstruction": 0.25, "hole_l1": 0.5, "known_l1": 0.5}, 0.5
# The discriminator's losses together at which it learns no more, or by how much its two beliefs differ: sound runs stay
# below 0.25, with spectral normalisation below 0.05.
SATURATED_LOSS, SATURATED_GAP = 0.1, 0.5
# Of the truth's gradient energy; a reconstruction loss alone stays below.
BLURRED_SHARPNESS = 1 / 3
# Both beliefs so near each other, and each loss to a guess's: it tells nothing apart.
BLIND_GAP, BLIND_LOSS = 0.03, 0.03
GUESSES = (math.log(2), 1.0)  # of the losses on a sigmoid, and of the hinge

HUGE = 1e300

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Verdict:
    """One thing that is so, how it shows, and what to do about it ("" if nothing)."""

    name: str
    evidence: str
    remedy: str = ""

    @property
    def is_ill(self) -> bool:
        return self.name in ILL

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}" + (f"; {self.remedy}" if self.remedy else "")


def judge(lines: Iterable[Any]) -> list[Verdict]:
    """What the lines of a run's metrics.jsonl show: everything that is wrong, the worst first, or that nothing is.

    Whatever the lines lack or hold that is no finite number is taken as not logged; of lines with the same step the
    last counts. It is never empty and never raises.
    """
    run = _Run(lines)
    if run.step < MIN_STEPS:
        return [Verdict(EARLY, f"{run.step} of the {MIN_STEPS} steps that it takes to tell are done")]
    found = [verdict for look in (_diverging, _collapsed, _saturated, _blurred) if (verdict := look(run))]
    return found or [_sound(run)]


class _Run:
    """The lines in the order of their steps, each step once."""

    def __init__(self, lines: Iterable[Any]) -> None:
        self.training, self.evaluations = in_order(lines)
        self.step = max((line["step"] for line in [*self.training, *self.evaluations]), default=0)

    def judged(self, name: str) -> list[float]:
        """A figure of all evaluations that have it."""
        return _values(self.evaluations, f"evaluation/{name}")

    def of_phase(self, *phases: int) -> Rows:
        return [row for row in self.training if row.get("phase") in phases]

    @property
    def images_per_step(self) -> float:
        pairs = [(row["step"], value) for row in self.training if (value := _finite(row.get("images_seen")))]
        return pairs[-1][1] / pairs[-1][0] if pairs and pairs[-1][0] else math.nan

    @property
    def share(self) -> float:
        """How much of the run is done; 1 if that is not known."""
        total = _finite(self.training[-1].get("total_steps")) if self.training else None
        return self.step / total if total else 1.0

    def since(self, rows: Rows) -> str:
        """How long ago the first of `rows` began, in words."""
        before = [row["step"] for row in self.training if row["step"] < rows[0]["step"]]
        images = (self.step - max(before, default=0)) * self.images_per_step
        return "" if math.isnan(images) else f" over the last {images:,.0f} images"


def _finite(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < HUGE else None  # not nan


def _values(rows: Rows, name: str) -> list[float]:
    return [value for row in rows if (value := _finite(row.get(name))) is not None]


def _having(rows: Rows, *names: str) -> Rows:
    return [row for row in rows if all(_finite(row.get(name)) is not None for name in names)]


def _recent(rows: Rows) -> Rows:
    """The newest of `rows`; none if there are too few to say anything."""
    least, most = RECENT
    return rows[-min(max(least, len(rows) // 6), most) :] if len(rows) >= least else []


def _diverging(run: _Run) -> Verdict | None:
    remedy = "lower optimizer.generator_learning_rate and .discriminator_learning_rate, or set .gradient_clip"
    for look in (_fell, _spoilt, _rose, _rolled_back):
        if told := look(run):
            return Verdict(DIVERGING, told, remedy)
    return None


def _fell(run: _Run) -> str:
    psnr, plain = run.judged("hole_psnr"), run.judged("mean_fill_hole_psnr")
    if len(psnr) < MIN_EVALUATIONS:
        return ""
    if plain and psnr[-1] < min(plain[-1] - WORSE_THAN_GREY_DB, max(psnr[:-1]) + RECOVERY_DB):
        return f"in the hole the fills have {psnr[-1]:.1f} dB and get no better; one plain colour has {plain[-1]:.1f}"
    if max(psnr[-2:]) < max(psnr) - FALL_DB:
        return f"hole PSNR fell from {max(psnr):.1f} to {psnr[-1]:.1f} dB"
    return ""


def _spoilt(run: _Run) -> str:
    """One step may have done it, long ago, and nothing has been learnt since."""
    plain = run.judged("mean_fill_hole_psnr")
    for loss, worst in WORST_OF_GREY.items():
        name = f"loss/generator/{loss}"
        if first := next((row for row in _having(run.training, name) if row[name] > worst), None):
            psnr = _values([row for row in run.evaluations if row["step"] >= first["step"]], "evaluation/hole_psnr")
            if len(psnr) < MIN_EVALUATIONS or max(psnr) > max(psnr[0] + RECOVERY_DB, *plain[-1:]):
                continue
            told = f"loss {loss} was {first[name]:.2g} at step {first['step']}, worse than mid-grey"
            return f"{told}, and hole PSNR has been no better than {max(psnr):.1f} dB since"
    return ""


def _rose(run: _Run) -> str:
    for loss, phase in product(LOSSES, (1, 3)):
        name = f"loss/generator/{loss}"
        rows = _having(run.of_phase(phase), name)
        recent = _recent(rows)
        before, now = _values(rows[: len(rows) - len(recent)], name), _values(recent, name)
        if before and now and min(now) > RISE_OF_ERROR * min(before):
            rose = f"loss {loss} of phase {phase} rose from {min(before):.3g} to at least {min(now):.3g}"
            return rose + run.since(recent)
    return ""


def _rolled_back(run: _Run) -> str:
    recent = _recent(run.training)
    now = max(_values(recent, "rollbacks"), default=0)
    num = int(now - max(_values(run.training[: len(run.training) - len(recent)], "rollbacks"), default=0))
    return f"{num} batches made a loss that is not finite{run.since(recent)}" if num > 1 else ""


def _collapsed(run: _Run) -> Verdict | None:
    remedy = (
        "lower optimizer.generator_learning_rate, or weigh reconstruction more against loss.adversarial_weight (loss.*)"
    )
    name, variety = "output/batch_std", run.judged("variety")
    recent = _recent(_having(run.of_phase(1, 3), name))
    if recent and (std := median(_values(recent, name))) < ONE_IMAGE_STD:
        alike = (
            f"the outputs of a batch hardly differ{run.since(recent)} (output/batch_std {std:.2g}, of photographs 0.2)"
        )
        if variety and variety[-1] > LIKE_THE_TRUTH_VARIETY:
            remedy = "the true images differ as little: look at data.path"
        return Verdict(COLLAPSED, f"{alike}: one image for all", remedy)
    if len(variety) >= MIN_EVALUATIONS and max(variety[-2:]) < ONE_IMAGE_VARIETY:
        alike = f"the fills' colours vary {variety[-1]:.2f} times as much from image to image as the truth's"
        return Verdict(COLLAPSED, f"{alike}: nearly one fill for all", remedy)
    return None


def _saturated(run: _Run) -> Verdict | None:
    recent = _recent(_having(run.of_phase(3), "score/real", "score/fake"))
    if not recent or not _is_adversarial(recent):  # else it may know all: the generator is not trained by it
        return None
    real, fake = (median(_values(recent, f"score/{kind}")) for kind in ("real", "fake"))
    losses = [
        sum(terms)
        for row in recent
        if (terms := _values([row], "loss/discriminator/real") + _values([row], "loss/discriminator/fake"))
    ]
    loss = median(losses) if losses else math.nan
    if real - fake < SATURATED_GAP and not loss < SATURATED_LOSS:
        return None
    told = f"the discriminator easily tells fills from real images{run.since(recent)}"
    figures = [f"score/real {real:.3f}, score/fake {fake:.3f}"] + ([f"its losses {loss:.2g}"] if losses else [])
    if norms := _values(recent, "gradient_norm/generator"):
        figures.append(f"the generator's gradient {median(norms):.2g}")
    remedy = "lower optimizer.discriminator_learning_rate, or give phase 2 a smaller share in training.phases"
    return Verdict(SATURATED, f"{told} ({', '.join(figures)})", remedy)


def _blurred(run: _Run) -> Verdict | None:
    sharpness, psnr, plain = run.judged("sharpness"), run.judged("hole_psnr"), run.judged("mean_fill_hole_psnr")
    adversarial = run.of_phase(3)
    if len(sharpness) < MIN_EVALUATIONS or max(sharpness[-2:]) >= BLURRED_SHARPNESS:
        return None
    if psnr and plain and psnr[-1] < plain[-1]:
        return None
    # Texture comes last: before half-time, while it still comes, or before phase 3 it need not be there.
    if run.share < 1 and (run.share < 0.5 or not adversarial or min(sharpness[-3:-1]) * 1.2 < sharpness[-1]):
        return None
    told = f"the fills have {sharpness[-1]:.2f} times the truth's gradient energy (sharpness; 1 is right)"
    if not _is_adversarial(adversarial):
        why = " and no adversarial loss trains the generator"
        remedy = "raise loss.adversarial_weight, and give phase 3 a share in training.phases"
    elif _is_blind(adversarial):
        why = " and the discriminator tells nothing apart (its losses are those of a guess)"
        remedy = "lower optimizer.discriminator_learning_rate, at which it does not learn"
    else:
        why, remedy = "", "weigh reconstruction less against loss.adversarial_weight, or give phase 3 a larger share"
    return Verdict(BLURRED, told + why, remedy)


def _is_adversarial(rows: Rows) -> bool:
    """Whether an adversarial loss trained the generator."""
    return any(f"loss/generator/{name}" in row for name in ADVERSARIAL_LOSSES for row in rows)


def _is_blind(rows: Rows) -> bool:
    """Whether the discriminator's losses stay at what logits of 0 cost, and its beliefs do not differ."""
    recent = _recent(_having(rows, "score/real", "score/fake"))
    terms = [values for kind in ("real", "fake") if (values := _values(recent, f"loss/discriminator/{kind}"))]
    if not terms or median(_values(recent, "score/real")) - median(_values(recent, "score/fake")) > BLIND_GAP:
        return False
    return any(all(abs(median(values) - guess) < BLIND_LOSS for values in terms) for guess in GUESSES)


def _sound(run: _Run) -> Verdict:
    psnr, plain, sharpness = run.judged("hole_psnr"), run.judged("mean_fill_hole_psnr"), run.judged("sharpness")
    if len(psnr) < MIN_EVALUATIONS:
        return Verdict(EARLY, f"of the {MIN_EVALUATIONS} evaluations that it takes to tell, {len(psnr)} are done")
    told = f"hole PSNR {psnr[-1]:.1f} dB"
    if plain:
        side = "above" if psnr[-1] >= plain[-1] else "below"
        told += f", {abs(psnr[-1] - plain[-1]):.1f} {side} one plain colour's"
    if sharpness:
        told += f", sharpness {sharpness[-1]:.2f}" + ", still blurred" * (sharpness[-1] < BLURRED_SHARPNESS)
    if (plain and psnr[-1] < plain[-1]) or (not plain and psnr[-1] <= psnr[0]):
        return Verdict(EARLY, f"{told}: nothing is wrong yet, and nothing good")
    return Verdict(CONVERGING, told)
