"""What the steps report: nothing of it is lost on the way to the log, and nothing that is not finite gets past."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from inpaint.distributed.runtime import Runtime
from inpaint.training.meter import Meter, NonFiniteError, StepInfo


class OneProcess:
    world_size, device = 1, torch.device("cpu")

    @staticmethod
    def reduce_sum(value: torch.Tensor) -> torch.Tensor:
        return value


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
