"""Acts in the middle of a step of a run in this process, such as an end that the run cannot foresee."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from inpaint.training.task import InpaintingTask, Terms


class Killed(BaseException):
    """The process ends here, as far as the run can tell."""


def at_step(number: int, act: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Do something in the middle of the run's step `number`, counted from where this process begins."""
    original, count = InpaintingTask.step, iter(range(1, 10_000))

    def step(self: InpaintingTask, *arguments: Any) -> Terms:
        if next(count) == number:
            act()
        return original(self, *arguments)

    patch.setattr(InpaintingTask, "step", step)
