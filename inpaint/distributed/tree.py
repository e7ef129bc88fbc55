"""Owns the largest of small numbers over all processes, found in the background by a tree of messages.

gloo's own reductions go round a ring, from one process to the next and twice: two thousand messages after one another
for a thousand processes, in every step. Up and down a tree they are ten.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

import torch
import torch.distributed as dist

# How many processes tell one what they have.
CHILDREN = 4


def parent_of(rank: int) -> int:
    """Of any but the first."""
    return (rank - 1) // CHILDREN


def children_of(rank: int, world_size: int) -> range:
    return range(min(CHILDREN * rank + 1, world_size), min(CHILDREN * (rank + 1) + 1, world_size))


class Tree:
    """Every process calls `begin_max` equally often; messages go over `group`, which is of gloo."""

    def __init__(self, group: dist.ProcessGroup, rank: int, world_size: int) -> None:
        self.group, self.parent = group, parent_of(rank) if rank else None
        self.children = children_of(rank, world_size)
        self._asked: SimpleQueue[tuple[int, Future[int]] | None] = SimpleQueue()
        # Not an executor's: Python would wait for that at its end, also where a message never comes.
        self._thread = threading.Thread(target=self._run, name="agreement", daemon=True)
        self._thread.start()

    def begin_max(self, value: int) -> Callable[[], int]:
        """What is returned waits for the largest `value` of all processes and tells it.

        RuntimeError if a process is gone, or silent for as long as the group waits.
        """
        future: Future[int] = Future()
        self._asked.put((value, future))
        return future.result

    def close(self) -> None:
        """Once all that was begun is over."""
        self._asked.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            value, future = asked
            try:
                future.set_result(self._max(value))
            except RuntimeError as error:
                future.set_exception(error)

    def _max(self, value: int) -> int:
        largest = torch.tensor([value])
        for child in self.children:
            largest = largest.maximum(self._received(child))
        if self.parent is not None:
            dist.send(largest, self.parent, group=self.group)
            largest = self._received(self.parent)
        for child in self.children:
            dist.send(largest, child, group=self.group)
        return int(largest)

    def _received(self, rank: int) -> torch.Tensor:
        received = torch.zeros(1, dtype=torch.int64)
        dist.recv(received, rank, group=self.group)
        return received
