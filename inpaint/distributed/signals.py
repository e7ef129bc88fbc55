"""Owns what the outside asks of a run: to stop (signals), and that no worker outlives its launcher."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from inpaint.processes import LAUNCHER_MARKS

# A terminal that is closed sends SIGHUP. Windows has two of them.
_NAMES = ("SIGTERM", "SIGUSR1", "SIGHUP", "SIGINT")
STOPPING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
_PR_SET_PDEATHSIG = 1


class StopRequest:
    """Whether this process was asked to stop; the loop looks at it between steps. Ctrl-C twice stops at once.

    Signals reach the main thread alone: a run in another one, in a notebook or a server, cannot be asked to stop. What
    a signal does is said on stderr where it `is_shown`.
    """

    ends_process: ClassVar[bool] = False
    """A second Ctrl-C ends the process even where the main thread is in a long computation; for commands only."""

    def __init__(self, is_shown: bool = True) -> None:
        self.asked: str | None = None
        # Called in a thread, once a signal is heard.
        self.when_asked: Callable[[], None] = lambda: None
        self._is_shown = is_shown
        self._before: dict[int, Any] = {}
        if threading.current_thread() is not threading.main_thread():
            return
        self._heard, self._wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        self._wakeup_before = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        # `nohup` has a SIGHUP ignored, and means it.
        heard = [n for n in STOPPING if signal.Signals(n).name != "SIGHUP" or signal.getsignal(n) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._handle) for number in heard}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.asked == "SIGINT":
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name

    def _listen(self) -> None:
        """In a thread, which hears of a signal at once; the main one may be in a step or a reduction for long."""
        heard: list[int] = []
        while byte := os.read(self._heard, 1):
            if byte[0] not in STOPPING:
                continue
            is_second = byte[0] == signal.SIGINT and signal.SIGINT in heard
            heard.append(byte[0])
            if is_second:
                self._say("stopped at once; the run can be resumed from its last checkpoint")
                if self.ends_process:
                    os._exit(130)
            elif byte[0] == signal.SIGINT:
                self._say("saving... (Ctrl-C again leaves at once, without saving)")
            elif len(heard) == 1:
                self._say(f"{signal.Signals(byte[0]).name}: saving...")
            self.when_asked()
        os.close(self._heard)

    def _say(self, text: str) -> None:
        if self._is_shown:
            print(f"\n{text}", file=sys.stderr, flush=True)

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self._before:
            signal.set_wakeup_fd(self._wakeup_before)
            os.close(self._wakeup)
            self._before = {}


def die_with_launcher() -> None:
    """Under a launcher: be told to stop when it dies, even by kill -9, which otherwise leaves its workers running.

    To be called first of all, for a launcher that dies before is found by who has become the parent in its place.
    """
    if sys.platform != "linux" or not LAUNCHER_MARKS & os.environ.keys():
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if _is_orphan(os.getppid()):
        os.kill(os.getpid(), signal.SIGTERM)


def tied_to_us() -> Callable[[], None] | None:
    """For `subprocess`, `preexec_fn`: a child that is told to stop when this process ends, even by kill -9; on Linux.

    It is the thread that starts the child whose end is told: let it be the main one.
    """
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def tie() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def _is_orphan(parent: int) -> bool:
    """Whether `parent` has only adopted us: a launcher is a Python, or started a wrapper that has the marks too."""
    try:
        process = Path(f"/proc/{parent}")
        adopts = parent == 1 or (process / "comm").read_text().strip() == "systemd"
        if (process / "exe").readlink().name.startswith("python"):
            return False
        given = {entry.partition("=")[0] for entry in (process / "environ").read_text(errors="replace").split("\0")}
    except OSError:  # gone, or another user's
        given, adopts = set(), parent == 1
    # The second mark is set by hand now and then, where the parent is a shell or a scheduler.
    return not LAUNCHER_MARKS & given and ("TORCHELASTIC_RUN_ID" in os.environ or adopts)
