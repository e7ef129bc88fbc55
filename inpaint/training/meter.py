"""Owns the numbers of the steps until they are logged: kept on the device, read once per log interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from inpaint.distributed.runtime import Runtime
from inpaint.training.task import Terms


@dataclass(frozen=True)
class StepInfo:
    """One step of the run: its number (from 1), epoch (from 1), position in the epoch (from 0) and phase."""

    step: int
    epoch: int
    position: int
    phase: int


class NonFiniteError(Exception):
    """A loss or gradient was not finite, first at `info`."""

    def __init__(self, info: StepInfo, keys: list[str]) -> None:
        super().__init__(f"{', '.join(keys)} not finite at step {info.step}")
        self.info, self.keys = info, keys


class Meter:
    """The terms of the steps since the last reading, over all processes."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._rows: list[tuple[StepInfo, Terms]] = []

    def add(self, info: StepInfo, terms: Terms) -> None:
        """Remember a step's terms; nothing waits for the device."""
        self._rows.append((info, terms))

    def reset(self) -> None:
        self._rows.clear()

    def compute(self) -> dict[str, float]:
        """The mean of each term over the steps that had it and over all processes, and forget the steps.

        Raises:
            NonFiniteError: on all processes alike.
        """
        columns = self._columns(self._rows)
        self._rows = []
        return {key: sum(column) / len(column) for key, column in columns.items()}

    def check(self) -> None:
        """Raise what `compute` would, and forget nothing."""
        self._columns(self._rows)

    def _columns(self, rows: list[tuple[StepInfo, Terms]]) -> dict[str, list[float]]:
        if not rows:
            return {}
        # Every process steps alike, so it has the same terms in the same order.
        values: Tensor = torch.stack([value.float() for _, terms in rows for value in terms.values()])
        means = iter((self.runtime.reduce_sum(values) / self.runtime.world_size).tolist())
        columns: dict[str, list[float]] = {}
        for info, terms in rows:
            present = {key: next(means) for key in terms}
            if wrong := [key for key, value in present.items() if not math.isfinite(value)]:
                raise NonFiniteError(info, wrong)
            for key, value in present.items():
                columns.setdefault(key, []).append(value)
        return columns
