"""Owns what the processes agree on between two steps: to go on, to save, or to stop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from inpaint.distributed.runtime import Runtime
from inpaint.distributed.signals import StopRequest

# What is raised at a step is acted upon so many steps later, when the processes have long exchanged it unawaited.
LAG = 2
NOTHING, SAVE, STOP = 0, 1, 2


class StopSync:
    """Each process raises a flag a step; all act on the largest.

    A wish of any process to stop is all processes'. To save is the main process's wish: `every_minutes`, if that is a
    number, and where `wants_save`, asked each step, says so.
    """

    def __init__(
        self, runtime: Runtime, stop: StopRequest, every_minutes: float | None, wants_save: Callable[[], bool]
    ) -> None:
        self.runtime, self.stop, self.every_minutes, self.wants_save = runtime, stop, every_minutes, wants_save
        self._flags: deque[Callable[[], int]] = deque()
        self._last_save = time.monotonic()

    def decide(self) -> int:
        """What all processes do now: the largest of their flags of some steps ago."""
        flag = STOP if self.stop.asked else NOTHING
        if flag == NOTHING and self.runtime.is_main:
            is_due = self.every_minutes is not None and time.monotonic() - self._last_save > self.every_minutes * 60
            flag = SAVE if is_due or self.wants_save() else NOTHING
        if flag == SAVE:
            self.saved()
        self._flags.append(self.runtime.all_reduce_max_async(flag))
        return self._flags.popleft()() if len(self._flags) > LAG else NOTHING

    def stop_now(self) -> bool:
        """Whether any process was asked to stop; waits for all to answer."""
        return self.runtime.all_reduce_max_async(STOP if self.stop.asked else NOTHING)() == STOP

    def saved(self) -> None:
        """The minutes until the next save begin now."""
        self._last_save = time.monotonic()
