"""Owns how the processes of a machine do together what one of them has to do: it hands out work, the others do it.

Threads alone do not use many cores: a third of what it takes to decode an image is Python's, one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, TypeVar

from inpaint.processes import num_cores_each

T = TypeVar("T")


class Helpers:
    """Other processes, which come by themselves, and threads of this one: whoever is free does what is next.

    Attributes:
        address: where to come, for `help_with` on the same machine and by the same user; "" until `listen`.
    """

    def __init__(self) -> None:
        self.address = ""
        self._is_closed = False
        # None: a thread of this process.
        self._free: SimpleQueue[Connection | None] = SimpleQueue()
        for _ in range(num_cores_each()):
            self._free.put(None)

    def listen(self) -> str:
        """The address, from now on; "" where there is no room for a socket, which is not worth failing for."""
        with suppress(OSError):
            self._folder = TemporaryDirectory(prefix="inpaint-")  # this user's alone: what comes here is unpickled
            self._listener = Listener(f"{self._folder.name}/helpers", "AF_UNIX", backlog=128)
            self.address = str(self._listener.address)
            self._thread = Thread(target=self._accept, daemon=True)
            self._thread.start()
        return self.address

    def do(self, work: Callable[[], T]) -> T:
        """What `work` gives, which can be pickled, called here or by a helper; may be called from several threads.

        What a helper that died had begun is done again. What `work` raises is raised.
        """
        while True:
            helper = self._free.get()
            if helper is None:
                try:
                    return work()
                finally:
                    self._free.put(None)
            try:
                helper.send(work)
                value, error = helper.recv()
            except (OSError, EOFError):
                helper.close()
                continue
            self._free.put(helper)
            if error is not None:
                raise error
            return value

    def close(self) -> None:
        """Lets the helpers go, once nobody is in `do` any more."""
        if not self.address:
            return
        self._is_closed = True
        with suppress(OSError):
            Client(self.address).close()  # wakes the one who accepts
        self._thread.join()
        self._listener.close()
        with suppress(Empty):
            while True:
                if (helper := self._free.get_nowait()) is not None:
                    helper.close()
        self._folder.cleanup()

    def _accept(self) -> None:
        with suppress(OSError):  # too many open files: then no more helpers
            while True:
                helper = self._listener.accept()
                if self._is_closed:
                    return helper.close()
                self._free.put(helper)


def help_with(address: str) -> None:
    """Do what the process at `address` hands out, in as many threads as this one has cores, until that is done or
    dead."""

    def work(_: int) -> None:
        with suppress(OSError, EOFError), Client(address) as leader:
            while True:
                leader.send(_outcome(leader.recv()))

    with ThreadPoolExecutor(num_cores_each(), thread_name_prefix="help") as pool:
        list(pool.map(work, range(num_cores_each())))


def _outcome(work: Callable[[], T]) -> tuple[T | None, Any]:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the leader's
        return None, error
