"""Owns the numbers of the steps until they are logged: kept on the device, read once per log interval; and how fast."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from inpaint.distributed.runtime import Runtime
from inpaint.memory import take_peak_bytes
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
        """Each term's mean over the steps that had it and all processes, and forget them; NonFiniteError on all."""
        columns = self._columns()
        self._rows = []
        return {key: sum(column) / len(column) for key, column in columns.items()}

    def check(self) -> None:
        """Raise what `compute` would, and forget nothing."""
        self._columns()

    def _columns(self) -> dict[str, list[float]]:
        if not self._rows:
            return {}
        # Every process steps alike, so it has the same terms in the same order.
        values: Tensor = torch.stack([value.float() for _, terms in self._rows for value in terms.values()])
        means = iter((self.runtime.reduce_sum(values) / self.runtime.world_size).tolist())
        columns: dict[str, list[float]] = {}
        for info, terms in self._rows:
            present = {key: next(means) for key in terms}
            if wrong := [key for key, value in present.items() if not math.isfinite(value)]:
                raise NonFiniteError(info, wrong)
            for key, value in present.items():
                columns.setdefault(key, []).append(value)
        return columns


class Throughput:
    """The pace of the steps since the last log line, and the memory they took; nothing in a step waits for the device.

    Saving and evaluating are not counted in: `pause` before, and the next step goes on.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        # Of all steps of this start, for the report.
        self.summary: dict[str, float] = {}
        self._num_images, self._trained_s = 0, 0.0
        self.reset()

    def reset(self) -> None:
        self._steps, self._seconds, self._wait_s = 0, 0.0, 0.0
        self._since: float | None = None

    def begin_step(self) -> None:
        """Before the step's batch is asked for."""
        self._asked = time.perf_counter()
        self._since = self._asked if self._since is None else self._since

    def got_batch(self) -> None:
        self._wait_s += time.perf_counter() - self._asked
        self._steps += 1

    def pause(self) -> None:
        """Count the steps to the end, whose work may still be queued on the device."""
        if self._since is not None:
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            self._seconds += time.perf_counter() - self._since
            self._since = None

    def compute(self, global_batch_size: int) -> dict[str, float]:
        """The figures of the steps since the last call; called by all processes alike, after the meter's `compute`.

        `time/images_per_s` over all processes; `data/wait_s`, how long the loop waited for a batch, the mean of its
        steps, and `memory/peak_gib` (`take_peak_bytes`), both of the process that has most. {} without a step.
        """
        self.pause()
        if not (steps := self._steps):
            return {}
        own = round(self._wait_s / steps * 1e9), take_peak_bytes(self.runtime.device)
        wait_ns, peak_bytes = (pending() for pending in [self.runtime.all_reduce_max_async(value) for value in own])
        images_per_s, peak_gib = steps * global_batch_size / self._seconds, round(peak_bytes / 2**30, 3)
        self._num_images += steps * global_batch_size
        self._trained_s += self._seconds
        self.summary = {
            "images_per_s": round(self._num_images / self._trained_s, 1),
            "peak_memory_gib": max(peak_gib, self.summary.get("peak_memory_gib", 0.0)),
        }
        self.reset()
        return {"time/images_per_s": round(images_per_s, 2), "data/wait_s": wait_ns / 1e9, "memory/peak_gib": peak_gib}
