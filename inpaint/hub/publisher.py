"""Owns pushing in the background while a run trains: a thread that lets one child process after another do it.

A child, because then nothing that happens on the way to the Hub can stop the training: no crash of native code, no
request that is never answered, no interpreter lock held, no request timeout set for the whole process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from inpaint.errors import UsageError
from inpaint.hub.errors import Failure, describe
from inpaint.hub.queue import PushQueue, Snapshot
from inpaint.hub.repository import require_repo_id

# The pause after a failure, doubled each time.
FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 300.0
# A try is ended after so long and what the snapshot's size adds; doubled each time that one was, for then the line may
# be slow rather than dead.
ATTEMPT_S, SLOWEST_BYTES_PER_S = 600.0, 2**17
_POLL_S = 0.05


class HubPublisher:
    """Pushes what it is given, one commit each, and what earlier processes left in the run's queue.

    The repository is made if it is not there; where it is there and public, nothing is pushed if it shall be `private`.
    With `push_checkpoint` the checkpoints that `submit` is given go along. News go to `say`, one line each.

    Raises:
        UsageError: no such name is possible on the Hub, or the packages for the card are missing.
    """

    def __init__(
        self,
        repo_id: str,
        private: bool,
        run_dir: Path,
        push_checkpoint: bool = False,
        *,
        show_progress: bool = False,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ) -> None:
        _require(repo_id)
        self.repo_id, self.private, self.push_checkpoint = repo_id, private, push_checkpoint
        self.queue = PushQueue(run_dir)
        self._patience = 1.0
        self._failure: Failure | None = None
        self._show_progress, self._say = show_progress, say
        self._changed, self._closing, self._stop = threading.Event(), threading.Event(), threading.Event()
        self.queue.sweep()
        self._mend()
        guarded = self._guarded("pushing has ended early")(self._work)
        self._thread = threading.Thread(target=guarded, name="hub-publisher", daemon=True)

    def start(self) -> None:
        """Begin with what earlier processes left; else the first `submit` does, which may supersede some of it."""
        if self._thread.ident is None:
            self._thread.start()

    def submit(self, label: str, checkpoint: Path | None = None) -> bool:
        """Queue the run as it is now. Costs the copying of its files, never waits for the network, never raises.

        Returns whether it is queued; why not has been said. The label is commit title and tag: `epoch-0007`, `final`.
        """
        self._mend()
        with self._guarded(f"{label} could not be queued and will not be pushed"):
            self.queue.add(label, self.repo_id, self.private, checkpoint if self.push_checkpoint else None)
            self._changed.set()
            self.start()
            return True
        return False

    def close(self, timeout_s: float) -> str:
        """Wait until all is pushed, until only the user can help, or for `timeout_s`; then say what is on the Hub."""
        self._closing.set()
        self._changed.set()
        self.start()
        self._thread.join(min(timeout_s, threading.TIMEOUT_MAX))
        self._stop.set()
        self._thread.join()
        self._mend()
        return self.queue.statement(self.repo_id, self._failure.reason if self._failure else None)

    def _mend(self) -> None:
        with self._guarded("the queue of what is to be pushed cannot be mended"):
            for line in self.queue.mend():
                self._say(f"Hub: {line}")

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """Whatever goes wrong within is said, and never ends the training that is being published."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - see above
            self._say(f"Hub: {what}: {describe(error).reason}")

    def _work(self) -> None:
        num_failures, is_hopeless = 0, False
        while not self._stop.is_set():
            waiting = self.queue.waiting()
            if not waiting or is_hopeless:
                if self._closing.is_set() and not self._changed.is_set():
                    return
                self._changed.wait()
                self._changed.clear()
                is_hopeless = False
                continue
            self._failure = failure = self._attempt(waiting[0])
            if failure is None:
                num_failures = 0
                continue
            if self._stop.is_set():
                return
            num_failures, is_hopeless = num_failures + 1, failure.is_lasting
            wait_s = max(failure.retry_after_s, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (num_failures - 1)))
            news = "stays in the queue" if is_hopeless else f"next try in {wait_s:.0f} s"
            self._say(f"Hub: {waiting[0].label} is not pushed yet: {failure.reason}; {news}")
            if not is_hopeless:
                self._stop.wait(wait_s)

    def _attempt(self, snapshot: Snapshot) -> Failure | None:
        """Let a child try to push the oldest snapshot; why it failed, or None."""
        timeout_s = self._patience * (ATTEMPT_S + snapshot.num_bytes / SLOWEST_BYTES_PER_S)
        # The child finds the very package that this process runs, installed or not.
        path = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        child = subprocess.Popen(
            [sys.executable, "-m", "inpaint.hub.push", str(self.queue.run_dir)],
            stdin=subprocess.PIPE,  # never written to: it closes with this process, and then the child ends
            stdout=subprocess.PIPE,
            stderr=None if self._show_progress else subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            start_new_session=True,  # Ctrl-C is for the training, which then closes the publisher
        )
        deadline = time.monotonic() + timeout_s
        while child.poll() is None and not self._stop.is_set() and time.monotonic() < deadline:
            self._stop.wait(_POLL_S)
        is_late = child.poll() is None
        child.kill()
        said = child.communicate()[0]
        if child.returncode == 0:
            return None
        if is_late and self._stop.is_set():
            return self._failure or Failure("it was stopped before it was done", is_lasting=False)
        if is_late:
            self._patience *= 2
            return Failure(f"no end after {timeout_s:.0f} s", is_lasting=False)
        try:
            return Failure(**json.loads(said))
        except ValueError:
            return Failure(f"the uploader ended with code {child.returncode}", is_lasting=False)


def _require(repo_id: str) -> None:
    require_repo_id(repo_id)
    if missing := [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]:
        raise UsageError(f"the model card needs {' and '.join(missing)}: pip install 'inpaint[hub]'")
