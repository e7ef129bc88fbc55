"""Owns what the outside asks of a run: to stop (signals), and that no worker outlives its launcher."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_PR_SET_PDEATHSIG = 1


class StopRequest:
    """Whether this process was asked to stop; the loop looks at it between steps. Ctrl-C twice stops at once.

    Signals reach the main thread alone: a run in another one, in a notebook or a server, cannot be asked to stop.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in STOPPING}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.asked == "SIGINT":
            print("\nstopped at once; the run can be resumed from its last checkpoint", file=sys.stderr, flush=True)
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def die_with_launcher() -> None:
    """Under a launcher: be told to stop when it dies, even by kill -9, which otherwise leaves its workers running."""
    if sys.platform != "linux" or not {"TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION"} & os.environ.keys():
        return
    parent = os.getppid()
    if (
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) == 0
        and os.getppid() != parent
    ):
        os.kill(os.getpid(), signal.SIGTERM)  # it died in between
