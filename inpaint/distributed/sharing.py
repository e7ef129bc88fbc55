"""Owns what one process does for several: they wait for it however long it takes, where a reduction would give up."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from itertools import count

from inpaint.errors import InpaintError, UsageError

WAIT_S = 60.0
_number = count()


def once(group: str, num_processes: int, is_first: bool, act: Callable[[], str]) -> str:
    """What `act` gives in the first process of `group`; all must call it, and where it fails, fail alike.

    Should the first process die, its silence ends the others.
    """
    from inpaint.distributed.store import connect

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
