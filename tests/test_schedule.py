"""Time: phases that fill each epoch exactly, and a learning rate that counts images and not steps."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inpaint.config import OptimizerConfig, TrainingConfig
from inpaint.training.schedule import LearningRate, Phases, phase_at, phase_steps

PAPER = (0.33, 0.33, 0.34)


@st.composite
def shares(draw: st.DrawFn) -> tuple[float, float, float]:
    """Three that the config takes: they sum to 1 within its tolerance."""
    first = draw(st.floats(0, 1))
    second = draw(st.floats(0, 1 - first))
    third = min(1.0, max(0.0, 1 - first - second + draw(st.floats(-9e-7, 9e-7))))
    return TrainingConfig(phases=(first, second, third)).phases


@pytest.mark.parametrize(
    ("phases", "num_steps", "expected"),
    [
        (PAPER, 100, (33, 33, 34)),
        (PAPER, 1328, (438, 438, 452)),  # 170,000 images in batches of 128: 438.24, 438.24, 451.52
        ((0.2, 0.5, 0.3), 10, (2, 5, 3)),
        ((0.2, 0.5, 0.3), 7, (1, 4, 2)),  # 1.4, 3.5, 2.1
        (PAPER, 0, (0, 0, 0)),
        (PAPER, 1, (0, 0, 1)),
        (PAPER, 2, (1, 0, 1)),  # 0.66, 0.66, 0.68: the last, then the first of the equal ones
        (PAPER, 3, (1, 1, 1)),
        ((1.0, 0.0, 0.0), 5, (5, 0, 0)),
        ((0.5, 0.0, 0.5), 3, (2, 0, 1)),
        ((0.1, 0.2, 0.7), 10, (1, 2, 7)),  # 0.7 * 10 is 7.000000000000001 or 6.999999999999999
        ((0.29, 0.57, 0.14), 100, (29, 57, 14)),  # 0.29 * 100 is 28.999999999999996, 0.57 * 100 56.99999999999999
    ],
)  # fmt: skip
def test_largest_remainder(phases: tuple[float, float, float], num_steps: int, expected: tuple[int, int, int]) -> None:
    assert phase_steps(phases, num_steps) == expected


@given(shares(), st.integers(0, 10**9))
@example((0.333333, 0.333333, 0.3333331), 10**8)
@example((0.333334, 0.333333, 0.3333339), 10**8)
def test_phases_fill_an_epoch_exactly_and_keep_their_shares(phases: tuple[float, float, float], num_steps: int) -> None:
    counts = phase_steps(phases, num_steps)
    assert sum(counts) == num_steps
    for share, count in zip(phases, counts, strict=True):
        assert count >= 0
        assert abs(count - share * num_steps) < 1 + 2e-6 * num_steps
        assert share > 0 or count == 0


@given(shares(), st.integers(0, 60))
def test_the_phases_follow_one_another(phases: tuple[float, float, float], num_steps: int) -> None:
    counts = phase_steps(phases, num_steps)
    order = [phase_at(position, counts) for position in range(num_steps)]
    assert order == [1] * counts[0] + [2] * counts[1] + [3] * counts[2]


def test_phases_of_a_run_come_once_and_the_adversary_rises_in_the_third() -> None:
    settings = TrainingConfig(phases=(0.5, 0.1, 0.4), phases_per="run", global_batch_size=10)
    phases = Phases(settings, steps_per_epoch=25, total_images=1000)
    assert phases.steps == (50, 10, 40)
    assert [phases.at(step % 25, 10 * step) for step in range(100)] == [1] * 50 + [2] * 10 + [3] * 40
    assert [phases.adversarial_scale(seen, 0.2) for seen in (500, 600, 650, 800, 1000)] == [0, 0, 0.25, 1, 1]
    assert phases.adversarial_scale(10, 0) == 1
    each = Phases(TrainingConfig(phases=(0.5, 0.1, 0.4)), steps_per_epoch=10, total_images=1000)
    assert [each.at(position, 777) for position in range(10)] == [1] * 5 + [2] + [3] * 4
    assert each.adversarial_scale(50, 0.2) == 0.25


# --- learning rate


def rate(schedule: str, warmup_kimg: float = 0, total: int = 10_000) -> LearningRate:
    return LearningRate(OptimizerConfig(schedule=schedule, warmup_kimg=warmup_kimg), total)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("schedule", "warmup_kimg", "images_seen", "expected"),
    [
        ("constant", 0, 1, 1),
        ("constant", 0, 10_000, 1),
        ("constant", 2, 500, 0.25),
        ("constant", 2, 2_000, 1),
        ("constant", 2, 9_999, 1),
        ("linear", 0, 0, 1),
        ("linear", 0, 2_500, 0.75),
        ("linear", 0, 10_000, 0),
        ("linear", 0, 12_000, 0),
        ("linear", 4, 1_000, 0.25 * 0.9),
        ("late_linear", 0, 5_000, 1),
        ("late_linear", 0, 7_500, 0.5),
        ("late_linear", 0, 10_000, 0),
        ("cosine", 0, 0, 1),
        ("cosine", 0, 5_000, 0.5),
        ("cosine", 0, 2_500, (1 + math.sqrt(0.5)) / 2),
        ("cosine", 0, 10_000, 0),
        ("cosine", 10, 5_000, 0.25),
    ],
)
def test_the_rates_share_by_hand(schedule: str, warmup_kimg: float, images_seen: int, expected: float) -> None:
    assert rate(schedule, warmup_kimg).factor(images_seen) == pytest.approx(expected, abs=1e-12)


@given(
    st.sampled_from(["constant", "linear", "late_linear", "cosine"]),
    st.floats(0, 100),
    st.integers(1, 10**7),
    st.integers(0, 2 * 10**7),
    st.integers(0, 10**6),
)
def test_the_share_is_a_share_and_falls_after_the_warmup(
    schedule: str, warmup_kimg: float, total: int, images_seen: int, more: int
) -> None:
    learning_rate = rate(schedule, warmup_kimg, total)
    now, later = learning_rate.factor(images_seen), learning_rate.factor(images_seen + more)
    assert 0 <= now <= 1
    if images_seen >= warmup_kimg * 1000:
        assert later <= now + 1e-12


@given(
    st.sampled_from(["constant", "linear", "late_linear", "cosine"]),
    st.floats(0, 100),
    st.integers(1, 1_000),
    st.integers(1, 5_000),
)
def test_no_step_runs_at_rate_0(schedule: str, warmup_kimg: float, num_steps: int, batch_size: int) -> None:
    """Neither the first of a warmup nor the last of a fall."""
    learning_rate = rate(schedule, warmup_kimg, num_steps * batch_size)
    factors = [learning_rate.of_step((step + 1) * batch_size, batch_size) for step in range(num_steps)]
    assert min(factors) > 0 and max(factors) <= 1
    if schedule in ("linear", "cosine") and not warmup_kimg:
        assert sum(factors) == pytest.approx(num_steps / 2)
