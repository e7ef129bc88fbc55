"""Owns what goes through the launcher's store, where processes met: what one does for several, and why a run failed.

That is said in one line, once for all processes that have the same to say. The job script of a cluster learns it too:
whoever is first writes exit code and reason into $INPAINT_FAILURE_FILE, for a launcher turns every code into 1, and
what the others say after it is only what followed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from inpaint.errors import InpaintError, UsageError
from inpaint.processes import num_here, start_prefix

if TYPE_CHECKING:
    import torch.distributed as dist

    from inpaint.distributed.signals import StopRequest

WAIT_S = 60.0
LOOK_S = 1.0
_number = count()


def connect(timeout_s: float) -> dist.Store:
    """A connection of our own to the store, which outlives any of the processes."""
    import torch.distributed as dist

    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout_s),
    )
    return dist.PrefixStore(start_prefix(), store)


def once(group: str, num_processes: int, is_first: bool, act: Callable[[], str]) -> str:
    """What `act` gives in the first process of `group`; all must call it, and where it fails, fail alike.

    They wait for it however long it takes, where a reduction would give up. Should the first process die, its silence
    ends the others.
    """
    number = next(_number)
    if num_processes == 1:
        return act()
    store, key = connect(timeout_s=WAIT_S), f"once/{group}/{number}"
    if is_first:
        try:
            value = act()
        except InpaintError as error:
            store.set(key, json.dumps([type(error) is UsageError, str(error)]))
            raise
        store.set(key, json.dumps(value))
        return value
    while not store.check([key]):
        with suppress(RuntimeError):  # not there yet
            store.wait([key], timedelta(seconds=WAIT_S))
    answer = json.loads(store.get(key))
    if isinstance(answer, str):
        return answer
    raise (UsageError if answer[0] else InpaintError)(answer[1])


def once_each(rank: int, world_size: int) -> tuple[Callable[[Callable[[], str]], str], ...]:
    """`once` for all processes of the job, and for those of each machine."""
    place = int(os.environ.get("LOCAL_RANK", "0"))
    return (
        partial(once, "job", world_size, rank == 0),
        partial(once, f"machine of rank {rank - place}", num_here(), place == 0),
    )


@contextmanager
def stop_of_any(stop: StopRequest, world_size: int) -> Iterator[Callable[[], bool]]:
    """Within the block, what is given tells whether any process of the job was asked to stop; some learn of it later.

    For where processes do different things, so that none can wait for all: who is asked tells the store, and who wants
    to know looks there, once a second.
    """
    if world_size == 1:
        yield lambda: stop.asked is not None
        return

    def say() -> None:
        with suppress(RuntimeError):  # the store is gone with its host, of which the heartbeat tells
            connect(timeout_s=5.0).set("stop", "")

    looked_at: dist.Store | None = None
    looked = time.monotonic()

    def is_asked() -> bool:
        nonlocal looked_at, looked
        if stop.asked is None and time.monotonic() - looked >= LOOK_S:
            with suppress(RuntimeError):
                looked_at = looked_at or connect(timeout_s=5.0)
                if looked_at.check(["stop"]):
                    return True
            looked = time.monotonic()
        return stop.asked is not None

    stop.when_asked = say
    if stop.asked is not None:
        say()
    try:
        yield is_asked
    finally:
        stop.when_asked = lambda: None


def tell(rank: int, world_size: int, text: str, code: int, under_the_bar: bool = False) -> None:
    """Say that this process ends with `code`, and why; the rank is named where it is not the main one.

    Nothing is said where another process has said the same. `under_the_bar`: the terminal's line may hold one.
    """
    key = f"said/{hashlib.sha256(text.encode()).hexdigest()}"
    with suppress(RuntimeError):  # the store's host is gone: better twice than never
        if world_size > 1 and connect(timeout_s=5.0).add(key, 1) > 1:
            return
    who = f"rank {rank}: " if rank else ""
    print("\n" * under_the_bar + f"inpaint: {who}{text}", file=sys.stderr, flush=True)
    if path := os.environ.get("INPAINT_FAILURE_FILE"):
        # Another process was first, or the disk is full; then the log has it.
        with suppress(OSError), Path(path).open("x") as file:
            file.write(f"{code} {who}{' '.join(text.split())}\n")
