"""Runs in this process: acts in the middle of a step, such as an end that the run cannot foresee, and its finish."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import LAST, differences, finish_writing, steps, weights

from inpaint.training.launch import main
from inpaint.training.run_directory import finished_step
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


def killed(number: int, *arguments: str, at_last: Callable[[], object] = lambda: None) -> None:
    """Train until the middle of step `number`, where `at_last` is called and the process ends.

    What it has begun to write is there by then: else its thread would write on beside the next life of the run.
    """

    def kill() -> None:
        finish_writing()
        at_last()
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        at_step(number, kill, patch)
        main([*arguments])


def finish(config: Path, run: Path) -> None:
    """The command that began the run, until its last step."""
    assert main(["--config", str(config), "--run-dir", str(run)]) == 0
    assert finished_step(run) == LAST == steps(run)[-1]


def assert_same_weights(run: Path, straight: Path) -> None:
    assert set(differences(weights(run, LAST), weights(straight, LAST)).values()) == {0.0}
    for name in ("model.safetensors", "config.json"):
        assert (run / "generator" / name).read_bytes() == (straight / "generator" / name).read_bytes()
