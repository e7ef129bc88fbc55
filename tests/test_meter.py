"""What the steps report: nothing of it is lost on the way to the log, and nothing that is not finite gets past."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from inpaint.distributed.runtime import Runtime
from inpaint.training import meter as module
from inpaint.training.meter import Meter, NonFiniteError, StepInfo, Throughput


class OneProcess:
    """A runtime; of two processes the other waits `others` ns for data and takes as many bytes."""

    others = 0
    world_size, device = 1, torch.device("cpu")

    @staticmethod
    def reduce_sum(value: torch.Tensor) -> torch.Tensor:
        return value

    @classmethod
    def all_reduce_max_async(cls, value: int) -> Callable[[], int]:
        return lambda: max(value, cls.others)


@pytest.fixture
def meter() -> Meter:
    return Meter(cast(Runtime, OneProcess()))


def add(meter: Meter, step: int, **terms: float) -> None:
    meter.add(StepInfo(step, 1, step - 1, 1), {name: torch.tensor(value) for name, value in terms.items()})


def test_each_term_is_the_mean_of_the_steps_that_have_it_whatever_its_name(meter: Meter) -> None:
    add(meter, 1, reconstruction=1.0, spread=0.5)
    add(meter, 2, perceptual=4.0, spread=1.5)
    add(meter, 3, reconstruction=2.0, perceptual=8.0, spread=2.5)
    assert meter.compute() == {"reconstruction": 1.5, "spread": 1.5, "perceptual": 6.0}
    assert meter.compute() == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_term_of_any_name_that_is_not_finite_is_found_at_its_step(meter: Meter, value: float) -> None:
    add(meter, 1, reconstruction=1.0, perceptual=1.0)
    add(meter, 2, reconstruction=1.0, perceptual=value)
    add(meter, 3, reconstruction=value)
    for look in (meter.check, meter.compute):
        with pytest.raises(NonFiniteError, match=r"^perceptual not finite at step 2$") as caught:
            look()
        assert caught.value.info.step == 2
    meter.reset()
    assert meter.compute() == {}


def test_the_pace_is_that_of_the_steps_and_not_of_what_is_done_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(module, "take_peak_bytes", lambda device: 3 * 2**30)

    def step(wait_s: float, train_s: float) -> None:
        throughput.begin_step()
        now[0] += wait_s
        throughput.got_batch()
        now[0] += train_s

    throughput = Throughput(cast(Runtime, OneProcess()))
    assert throughput.compute(16) == {} and throughput.summary == {}
    step(0.5, 1.5)
    throughput.pause()
    now[0] += 1000  # a checkpoint, an evaluation
    step(0.1, 1.9)
    assert throughput.compute(16) == {"time/images_per_s": 8.0, "data/wait_s": 0.3, "memory/peak_gib": 3.0}
    now[0] += 1000  # the line is written
    step(0.5, 0.5)
    monkeypatch.setattr(OneProcess, "others", 10**9)
    assert throughput.compute(16) == {"time/images_per_s": 16.0, "data/wait_s": 1.0, "memory/peak_gib": 3.0}
    assert throughput.summary == {"images_per_s": 9.6, "peak_memory_gib": 3.0}
    step(7, 7)
    throughput.reset()  # back to a checkpoint
    assert throughput.compute(16) == {}
