"""Owns which of the launcher's processes this is, by its environment, and what of the machine is theirs."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from inpaint.errors import UsageError


def rank_and_world_size(do_meet: bool = True) -> tuple[int, int]:
    """Which of the launcher's processes this is, and of how many; 0 of 1 without a launcher.

    UsageError if the launcher's variables make no sense, or lack the place to meet at, which `do_meet` asks for.
    """
    numbers = {}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
        if (text := os.environ.get(name)) is None:
            continue
        if not (text.isascii() and text.isdecimal()):
            raise UsageError(f"{name}={text[:80]!r} in the environment is not a whole number; unset it, {_REMEDY}")
        numbers[name] = int(text)
    rank, world_size = numbers.get("RANK", 0), numbers.get("WORLD_SIZE", 1)
    if rank >= world_size:
        raise UsageError(
            f"RANK={rank} in the environment must be less than WORLD_SIZE={world_size}; unset both, {_REMEDY}"
        )
    if do_meet and world_size > 1 and not {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise UsageError(
            f"WORLD_SIZE={world_size} in the environment needs RANK, MASTER_ADDR and MASTER_PORT beside it; unset it, "
            f"{_REMEDY}"
        )
    return rank, world_size


def start_prefix(begin: bool = False) -> str:
    """Where the processes of this start keep their keys in the launcher's store, which outlives its workers.

    The workers of a restart, and those that train again, would else find the addresses and words of the start before.
    With `begin` this process starts now.
    """
    global _num_starts
    _num_starts += begin
    return f"inpaint/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}.{_num_starts}"


def num_cores(pid: int = 0) -> int:
    """The cores this process, or another, may use: those it is bound to, or fewer where a container has a quota."""
    bound = len(os.sched_getaffinity(pid)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(bound, round(int(quota) / int(period))))
    except (OSError, ValueError):  # another system, or "max": no quota
        return bound


def num_threads_here() -> int:
    """What `training.num_threads: null` stands for: OMP_NUM_THREADS, else this process's share of the machine's cores.

    Launchers set OMP_NUM_THREADS to 1 where nobody asked for it: from them that is no answer.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isascii() and asked.isdecimal() and int(asked) > (1 if LAUNCHER_MARKS & os.environ.keys() else 0):
        return int(asked)
    return num_cores_each()


def num_cores_each() -> int:
    """This process's share of the cores, beside the launcher's others on this machine.

    Where each is bound to cores of its own, as clusters do, their parent is not, and says how many all have together.
    """
    num = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    mine = all_here = num_cores()
    if num > 1:
        with suppress(OSError):  # another's process, or it is gone
            all_here = max(mine, num_cores(os.getppid()))
    return max(1, min(mine, all_here // num))


def num_here() -> int:
    """How many of the launcher's processes are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def wait_briefly() -> None:
    """Let OpenMP's threads spin for microseconds while they wait for one another, and then sleep.

    Must come before torch, whose library reads it as it loads. Sleeping at once costs an idle machine a quarter of its
    speed; spinning for long keeps a core from who is waited for, where other programs want the cores too.
    """
    if "torch" in sys.modules or "OMP_WAIT_POLICY" in os.environ:
        return
    if sys.platform != "linux":
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        return
    # Of libgomp's policies only this one spins at all where it counts more threads than cores, as beside a thread that
    # draws the next batch. For how long is in its own word, and in that of LLVM's library, in ms; else for minutes.
    os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("KMP_BLOCKTIME", "1")


# What launchers put into the environment of their workers.
LAUNCHER_MARKS = {"TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION"}
_num_starts = 0
_REMEDY = "or start with `accelerate launch`"
