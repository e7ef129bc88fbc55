"""Owns the answer to "who is not there any more": every process says in the job's store that it lives and where it is.

A process that is gone or stuck would leave the others waiting in a reduction for as long as its timeout. Here each one
beats once a second from a thread; the main process watches all, the others watch the main one; who misses a beat for
too long, or does not get on for `timeout_s`, is named and the job ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from inpaint.distributed.store import connect, tell
from inpaint.errors import InpaintError, first_few

_BEAT_S, _SILENCE_S, _LATE_S = 1.0, 20.0, 20.0
# A thread that wakes this late was stopped with its whole process, as SLURM suspends a job for a more urgent one.
_STOPPED_S = 5.0


class Heartbeat:
    """This process's sign of life, and its eye on those of the others; the loop may stay `timeout_s` at one place."""

    def __init__(self, rank: int, world_size: int, timeout_s: float) -> None:
        self.rank, self.world_size, self.timeout_s = rank, world_size, timeout_s
        self.silence_s = min(_SILENCE_S, timeout_s)
        self._where, self._since, self._armed = "starting", time.monotonic(), False
        # Of each process that was looked at, the newest beat, and since when it is that.
        self._seen: dict[int, tuple[dict[str, Any], float]] = {}
        self._store = connect(timeout_s=30.0) if world_size > 1 else None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def at(self, where: str) -> None:
        """The training loop has got on to `where` and must get on from there within `timeout_s`."""
        self._where, self._since, self._armed = where, time.monotonic(), True

    def busy(self, where: str) -> None:
        """The same, where it may take as long as it takes."""
        self._where, self._since, self._armed = where, time.monotonic(), False

    def wait_for_all(self) -> None:
        """Until every process has come here, however long it takes: a collective gives up after `timeout_s`."""
        if self._store is not None:
            num_here = self._store.add("prepared", 1)
            while num_here < self.world_size:  # one that died is found by the thread
                time.sleep(_BEAT_S)
                num_here = self._store.add("prepared", 0)

    def close(self, in_order: bool) -> None:
        """Stop watching. Having left in order, this process's silence shall not be taken for its death."""
        self._stop.set()
        self._thread.join()
        if self._store is not None and in_order:
            with suppress(RuntimeError):  # the store went with its host, the launcher: there is nobody left to tell
                self._beat(left=True)

    def missing(self) -> str:
        """After a reduction broke: which processes stopped beating, in words, or nothing; waits a few beats to tell."""
        # Of a large job not every process asks for all: what many see, rank 0 sees too.
        ranks = [rank for rank in range(self.world_size) if rank != self.rank and (rank < 64 or self.rank == 0)]
        try:
            self._look_at(ranks)
            since = time.monotonic()
            time.sleep(2.5 * _BEAT_S)
            self._look_at(ranks)
        except RuntimeError:  # the store has gone with its host
            if self.rank == 0:
                return "its launcher does not answer any more"
            return f"{self._last_words(0)}, nor does its launcher"
        return "; ".join(self._last_words(rank) for rank in ranks if self._seen.get(rank, ({}, 0.0))[1] <= since)

    def _run(self) -> None:
        number = 0
        lost: float | None = None
        while not self._wait(_BEAT_S if number else 0.0):
            number += 1
            stuck_s = time.monotonic() - self._since if self._armed else 0.0
            if self._store is None:
                if stuck_s > self.timeout_s:
                    self._give_up(f"the run has been at {self._where!r} for {stuck_s:.0f} s (training.timeout_s)")
                continue
            try:
                self._beat(number=number, stuck_s=round(stuck_s))
                if self._store.check(["verdict"]) and not self._stop.is_set():
                    os._exit(1)  # the main process has said why
                self._watch()
                lost = None
            except RuntimeError:  # torch's store error, DistStoreError among them
                lost = lost or time.monotonic()
                # A launcher that dies takes its workers along by SIGTERM, upon which all save and leave: let them.
                if time.monotonic() - lost > self.silence_s:
                    self._give_up(
                        "the store that the processes share is gone, and with it its host, the launcher of rank 0"
                    )

    def _wait(self, seconds: float) -> bool:
        """Returns whether to stop; for as long as the process was itself stopped, it blames nobody."""
        before = time.monotonic()
        ended = self._stop.wait(seconds)
        late_s = time.monotonic() - before - seconds
        if late_s > _STOPPED_S:
            self._since += late_s
            self._seen = {rank: (beat, since + late_s) for rank, (beat, since) in self._seen.items()}
        return ended

    def _beat(self, **more: float) -> None:
        assert self._store is not None
        beat = {"at": self._where, "pid": os.getpid(), "host": socket.gethostname(), "stuck_s": 0, **more}
        self._store.set(f"beat/{self.rank}", json.dumps(beat))

    def _watch(self) -> None:
        """The main process over all, the others over the main one: end the job where one is silent or stuck."""
        watched = range(self.world_size if self.rank == 0 else 1)
        self._look_at(watched)
        beats = {rank: self._seen[rank] for rank in watched if rank in self._seen}
        for rank, (beat, since) in beats.items():
            silent_s = time.monotonic() - since
            if silent_s > self.silence_s and "left" not in beat:
                self._give_up(f"{self._last_words(rank)} (silent for {silent_s:.0f} s)", silent=beat)
        stuck = {rank: beat for rank, (beat, _) in beats.items() if beat["stuck_s"] > self.timeout_s}
        if stuck and self.rank == 0:
            places = "; ".join(f"rank {rank} at {beat['at']!r} for {beat['stuck_s']} s" for rank, beat in stuck.items())
            least = min(stuck, key=lambda rank: (-stuck[rank]["stuck_s"], rank))
            self._give_up(f"rank {least} holds the others up (training.timeout_s = {self.timeout_s:g}): {places}")

    def _look_at(self, ranks: Iterable[int]) -> None:
        assert self._store is not None
        there = [rank for rank in ranks if rank in self._seen or self._store.check([f"beat/{rank}"])]
        values = self._store.multi_get([f"beat/{rank}" for rank in there]) if there else []
        for rank, beat in zip(there, map(json.loads, values), strict=True):
            if rank not in self._seen or self._seen[rank][0] != beat:
                self._seen[rank] = (beat, time.monotonic())

    def _last_words(self, rank: int) -> str:
        if rank not in self._seen:
            return f"rank {rank} never answered"
        beat, _ = self._seen[rank]
        who = f"rank {rank} (process {beat['pid']} on {beat['host']})"
        return f"{who} does not answer any more, last seen at {beat['at']!r}"

    def _give_up(self, why: str, silent: dict[str, Any] | None = None) -> None:
        """End this process from its thread: its main thread may never come back from where it waits."""
        if self._stop.is_set():
            return
        if self._store is not None and self.rank == 0:
            try:
                self._store.set("verdict", why)
                time.sleep(1.5 * _BEAT_S)
            except RuntimeError as error:
                why += f" (and could not be told to the others: {error})"
        text = f"{why}; the job ends, resume it with the same command"
        tell(self.rank, self.world_size, text, code=1, under_the_bar=True)
        if silent is not None and silent["host"] == socket.gethostname() and _parent(silent["pid"]) == os.getppid():
            # A stopped process does not hear the launcher's SIGTERM either, and would keep the job for 30 s more.
            os.kill(silent["pid"], signal.SIGKILL)
        os._exit(1)


def _parent(pid: int) -> int | None:
    """Of a process of this machine; None if it is not there or the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


@contextmanager
def meeting(rank: int, world_size: int, timeout_s: float) -> Iterator[None]:
    """Within the block, all processes of the job come together; who lets the others wait is named.

    InpaintError if they did not meet, which the caller tries for `timeout_s`.
    """
    store = connect(timeout_s=30.0)
    store.set(f"here/{rank}", socket.gethostname())

    def late() -> str:
        try:
            late = [other for other in range(world_size) if not store.check([f"here/{other}"])]
        except RuntimeError:
            return "the launcher of rank 0, where they meet, does not answer any more"
        if not late:
            return "all have come, but do not reach one another; look at the network (NCCL_/GLOO_SOCKET_IFNAME)"
        shown = ", ".join(first_few([*map(str, late)], 10))
        return f"rank {shown} has not come" if len(late) == 1 else f"ranks {shown} have not come"

    def say_who_is_late() -> None:
        text = f"waiting for the {world_size} processes to meet, for {_LATE_S:g} s: {late()}"
        print(text, file=sys.stderr, flush=True)

    timer = threading.Timer(_LATE_S, say_who_is_late)
    timer.daemon = True
    if rank == 0:
        timer.start()
    try:
        yield
    except RuntimeError as error:
        raise InpaintError(
            f"the {world_size} processes did not meet within training.timeout_s = {timeout_s:g} s: "
            f"{late()} ({str(error).strip().splitlines()[0][:200]})"
        ) from error
    finally:
        timer.cancel()
