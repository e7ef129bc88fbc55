"""Owns the queue of the page: one fill at a time, how many wait, and how one is taken back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from torch.nn.modules.module import register_module_forward_pre_hook

from inpaint.errors import InpaintError

# Each waits with its photograph in memory.
MOST_WAITING = 16
_LOOKED_EVERY_S = 0.2

_Result = TypeVar("_Result")


class BusyError(InpaintError):
    """Too many wait already."""


class TakenBackError(InpaintError):
    """Whoever asked for it does not want it any more."""


class Line:
    """Who is served, and who waits. All but the work itself runs in the server's one thread."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, "fill")
        self._jobs: list[str] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def num_before(self, name: str) -> int | None:
        """How many are served before it; None: it is not in the queue."""
        return self._jobs.index(name) if name in self._jobs else None

    @contextmanager
    def place(self, name: str) -> Iterator[None]:
        """A place at the end of the queue, for as long as it is held.

        Raises:
            BusyError: there is none left, or one of this name is held.
        """
        if len(self._jobs) >= MOST_WAITING:
            raise BusyError(f"{len(self._jobs)} fills wait already, and no more can; try again in a minute")
        if name in self._jobs:
            raise BusyError("this fill is in the queue already")
        self._jobs.append(name)
        try:
            yield
        finally:
            self._jobs.remove(name)

    async def work(self, do: Callable[[], _Result], is_gone: Callable[[], Awaitable[bool]]) -> _Result:
        """Do it in the one thread for work, after all that was given before.

        Args:
            is_gone: whether nobody waits for it any more.

        Raises:
            TakenBackError: nobody does.
        """
        is_unwanted = threading.Event()

        def require_wanted(*called: object) -> None:
            if is_unwanted.is_set():
                raise TakenBackError("taken back")

        def work() -> _Result:
            require_wanted()
            # Asked before every layer of the network: it ends in the middle of a large photograph too.
            with register_module_forward_pre_hook(require_wanted):
                return do()

        future = asyncio.get_running_loop().run_in_executor(self._worker, work)
        try:
            while not (await asyncio.wait({future}, timeout=_LOOKED_EVERY_S))[0]:
                if await is_gone():
                    is_unwanted.set()  # and the place is kept until the thread is free
            return await future
        finally:
            is_unwanted.set()  # the server may be stopping
