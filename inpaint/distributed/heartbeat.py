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
from contextlib import suppress
from pathlib import Path
from typing import Any

from inpaint.distributed.failure import tell
from inpaint.distributed.store import connect
from inpaint.errors import InpaintError

_BEAT_S, _SILENCE_S, _LATE_S = 1.0, 20.0, 20.0


class Heartbeat:
    """This process's sign of life, and its eye on those of the others.

    Args:
        rank, world_size: of this process.
        timeout_s: how long the training loop may stay at one place.
    """

    def __init__(self, rank: int, world_size: int, timeout_s: float) -> None:
        self.rank, self.world_size, self.timeout_s = rank, world_size, timeout_s
        self.silence_s = min(_SILENCE_S, timeout_s)
        self._where, self._since, self._armed = "starting", time.monotonic(), False
        self._seen: dict[int, tuple[str, float]] = {}
        self._there: set[int] = set()
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
                self._store.set(f"beat/{self.rank}", self._beat(left=True))

    def missing(self) -> str:
        """After a reduction broke: which processes stopped beating, in words, or nothing; waits a few beats to tell."""
        assert self._store is not None
        try:
            before = self._beats()
            time.sleep(2.5 * _BEAT_S)
            after = self._beats()
        except RuntimeError:  # the store has gone with its host
            first = "its" if self.rank == 0 else f"{_sentence(0, self._seen.get(0, (None, 0.0))[0])}, nor does its"
            return f"{first} launcher{' does not answer any more' if self.rank == 0 else ''}"
        silent = [rank for rank in range(self.world_size) if rank != self.rank and before.get(rank) == after.get(rank)]
        return "; ".join(_sentence(rank, after.get(rank)) for rank in silent)

    def _run(self) -> None:
        number = 0
        lost: float | None = None
        while not self._stop.wait(_BEAT_S if number else 0):
            number += 1
            stuck_s = time.monotonic() - self._since if self._armed else 0.0
            if self._store is None:
                if stuck_s > self.timeout_s:
                    self._give_up(f"the run has been at {self._where!r} for {stuck_s:.0f} s (training.timeout_s)")
                continue
            try:
                self._store.set(f"beat/{self.rank}", self._beat(number=number, stuck_s=round(stuck_s)))
                self._look()
                lost = None
            except RuntimeError:  # torch's store error, DistStoreError among them
                lost = lost or time.monotonic()
                # A launcher that dies takes its workers along by SIGTERM, upon which all save and leave: let them.
                if time.monotonic() - lost > self.silence_s:
                    self._give_up(
                        "the store that the processes share is gone, and with it its host, the launcher of rank 0"
                    )

    def _beat(self, **more: float) -> str:
        return json.dumps({"at": self._where, "pid": os.getpid(), "host": socket.gethostname(), "stuck_s": 0, **more})

    def _look(self) -> None:
        assert self._store is not None
        if self._store.check(["verdict"]):
            self._give_up(self._store.get("verdict").decode(), said=True)
        beats = self._beats()
        watched = range(self.world_size) if self.rank == 0 else [0]
        now = time.monotonic()
        for rank in watched:
            beat = beats.get(rank)
            if beat is None:
                continue
            if self._seen.get(rank, ("", 0.0))[0] != beat:
                self._seen[rank] = (beat, now)
            silent_s = now - self._seen[rank][1]
            if json.loads(beat).get("left"):
                continue
            if silent_s > self.silence_s:
                self._give_up(f"{_sentence(rank, beat)} (silent for {silent_s:.0f} s)", silent=json.loads(beat))
        stuck = {rank: json.loads(beat) for rank, beat in beats.items() if json.loads(beat)["stuck_s"] > self.timeout_s}
        if stuck and self.rank == 0:
            places = "; ".join(f"rank {rank} at {beat['at']!r} for {beat['stuck_s']} s" for rank, beat in stuck.items())
            least = min(stuck, key=lambda rank: (-stuck[rank]["stuck_s"], rank))
            self._give_up(f"rank {least} holds the others up (training.timeout_s = {self.timeout_s:g}): {places}")

    def _beats(self) -> dict[int, str]:
        assert self._store is not None
        ranks = range(self.world_size) if self.rank == 0 else range(min(self.world_size, 64))
        self._there |= {rank for rank in ranks if rank not in self._there and self._store.check([f"beat/{rank}"])}
        there = sorted(self._there)
        values = self._store.multi_get([f"beat/{rank}" for rank in there]) if there else []
        return {rank: value.decode() for rank, value in zip(there, values, strict=True)}

    def _give_up(self, why: str, said: bool = False, silent: dict[str, Any] | None = None) -> None:
        """End this process from its thread: its main thread may never come back from where it waits."""
        if self._stop.is_set():
            return
        if self._store is not None and self.rank == 0 and not said:
            try:
                self._store.set("verdict", why)
                time.sleep(1.5 * _BEAT_S)
            except RuntimeError as error:
                why += f" (and could not be told to the others: {error})"
        if not said:
            text = f"{why}; the job ends, resume it with the same command"
            tell(self.rank, self.world_size, text, code=1, under_the_bar=True)
        if silent is not None and silent["host"] == socket.gethostname() and _parent(silent["pid"]) == os.getppid():
            # A stopped process does not hear the launcher's SIGTERM either, and would keep the job for 30 s more.
            os.kill(silent["pid"], signal.SIGKILL)
        os._exit(1)


def _sentence(rank: int, beat: str | None) -> str:
    if beat is None:
        return f"rank {rank} never answered"
    values = json.loads(beat)
    who = f"rank {rank} (process {values['pid']} on {values['host']})"
    return f"{who} does not answer any more, last seen at {values['at']!r}"


def _parent(pid: int) -> int | None:
    """Of a process of this machine; None if it is not there or the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


class Meeting:
    """Within the block, all processes of the job come together; who lets the others wait is named.

    Args:
        rank, world_size: of this process.
        timeout_s: how long it may take.

    Raises:
        InpaintError: they did not meet.
    """

    def __init__(self, rank: int, world_size: int, timeout_s: float) -> None:
        self.rank, self.world_size, self.timeout_s = rank, world_size, timeout_s
        self._met = threading.Event()

    def __enter__(self) -> None:
        self._store = connect(timeout_s=30.0)
        self._store.set(f"here/{self.rank}", socket.gethostname())
        if self.rank == 0:
            threading.Thread(target=self._say_who_is_late, daemon=True).start()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._met.set()
        if isinstance(error, RuntimeError):
            raise InpaintError(
                f"the {self.world_size} processes did not meet within training.timeout_s = {self.timeout_s:g} s: "
                f"{self._late()} ({str(error).strip().splitlines()[0][:200]})"
            ) from error

    def _say_who_is_late(self) -> None:
        if not self._met.wait(_LATE_S):
            text = f"waiting for the {self.world_size} processes to meet, for {_LATE_S:g} s: {self._late()}"
            print(text, file=sys.stderr, flush=True)

    def _late(self) -> str:
        try:
            late = [rank for rank in range(self.world_size) if not self._store.check([f"here/{rank}"])]
        except RuntimeError:
            return "the launcher of rank 0, where they meet, does not answer any more"
        if not late:
            return "all have come, but do not reach one another; look at the network (NCCL_/GLOO_SOCKET_IFNAME)"
        shown = ", ".join(map(str, late[:10])) + (f" and {len(late) - 10} more" if len(late) > 10 else "")
        return f"rank {shown} has not come" if len(late) == 1 else f"ranks {shown} have not come"
