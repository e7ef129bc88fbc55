"""Owns what the processes of a run tell one another, and where they meet; knows nothing of engines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from inpaint.distributed.heartbeat import meeting
from inpaint.distributed.launcher import env_true, refuse_lost_gpus
from inpaint.distributed.tree import Tree
from inpaint.processes import rank_and_world_size, start_prefix

# Of so many processes a ring takes some milliseconds and no thread of Python's.
RING_AT_MOST = 32


class Collectives:
    """This process among those of the run; every process calls every method alike.

    `group` is of `meet`: over CPU memory, so that reading a flag never waits for a device.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.rank, self.world_size = rank_and_world_size()
        self.is_main, self.group = self.rank == 0, group
        self._tree: Tree | None = None

    def on_main(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Copies on the CPU in the main process, nothing in the others; all must call it: a gather may be due."""
        return {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors if self.is_main}

    def reduce_sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, on every process, taken where `value` lies."""
        if self.world_size > 1:
            dist.all_reduce(value, group=self.group if value.device.type == "cpu" else None)
        return value

    def all_reduce_max_async(self, value: int) -> Callable[[], int]:
        """Begin the maximum over all processes of a small number; what is returned waits for it and tells it."""
        if self.world_size == 1:
            return lambda: value
        if self.world_size > RING_AT_MOST:
            if self._tree is None:
                assert self.group is not None
                self._tree = Tree(self.group, self.rank, self.world_size)
            return self._tree.begin_max(value)
        result = torch.tensor(value)
        work = dist.all_reduce(result, dist.ReduceOp.MAX, group=self.group, async_op=True)

        def wait() -> int:
            work.wait()
            return int(result)

        return wait

    def others_than(self, wanted: str, text: str) -> dict[int, str]:
        """By rank the `text` of those processes that have another than `wanted`, which is the same in all.

        Only where there are any is it gathered, which takes the longer the more processes there are.
        """
        if not self.all_reduce_max_async(int(text != wanted))():
            return {}
        return {rank: theirs for rank, theirs in enumerate(self.all_gather(text)) if theirs != wanted}

    def all_gather(self, text: str) -> list[str]:
        """What every process has for `text`, by rank."""
        if self.world_size == 1:
            return [text]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, text, group=self.group)
        return gathered

    def broadcast(self, value: Any) -> Any:
        """The main process's value, on every process."""
        boxed = [value]
        if self.group is not None:
            dist.broadcast_object_list(boxed, src=0, group=self.group)
        return boxed[0]

    def broadcast_tensors(self, groups: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """The main process's tensors on the CPU, on every process; the others pass nothing in."""
        if self.world_size == 1:
            return groups
        shapes = {group: {k: (t.shape, t.dtype) for k, t in tensors.items()} for group, tensors in groups.items()}
        for group, listed in self.broadcast(shapes).items():
            tensors = groups.setdefault(group, {})
            for name, (shape, dtype) in listed.items():
                tensor = tensors.setdefault(name, torch.empty(shape, dtype=dtype))
                dist.broadcast(tensor, src=0, group=self.group)
        return groups

    def barrier(self) -> None:
        """Nobody goes on before all have come. gloo's own would connect each process with the logarithm of them all."""
        self.all_reduce_max_async(0)()


def meet(timeout_s: float) -> dist.ProcessGroup | None:
    """Join the other processes of this start: their group over CPU memory; None for a process alone."""
    rank, world_size = rank_and_world_size()
    if world_size == 1:
        return None
    backend, timeout = dist.get_default_backend_for_device(device_type(world_size)), timedelta(seconds=timeout_s)
    # gloo would connect each process with every other at once: of a thousand each would hold a thousand sockets, which
    # many systems forbid, and the store be asked for millions of addresses. So it connects those that have to talk.
    os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")
    with nullcontext() if dist.is_initialized() else meeting(rank, world_size, timeout_s):
        if not dist.is_initialized():
            store, *_ = next(dist.rendezvous("env://", timeout=timeout))
            # torch itself would give each start the same keys.
            store = dist.PrefixStore(f"{start_prefix()}/group", store)
            dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
        return dist.new_group(backend="gloo", timeout=timeout)


def device_type(world_size: int) -> str:
    """`cpu`, or the kind of GPU there is."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if env_true("ACCELERATE_USE_CPU"):
        return "cpu"
    if accelerator is None:
        refuse_lost_gpus(torch.__version__, torch.version.cuda or torch.version.hip)
        return "cpu"
    # Nothing reduces over Apple's GPUs.
    return "cpu" if accelerator.type == "mps" and world_size > 1 else accelerator.type
