"""Owns how much memory is free for this process and what it took: on the machine, in its container or job, on a GPU."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_ROOT = Path("/")
# Of malloc.h: how much may lie free at the heap's end, and from which size on an allocation is a mapping of its own.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def free_bytes(device: torch.device, root: Path = _ROOT) -> int | None:
    """Bytes that can still be allocated on a GPU, or for any other device in the machine's own memory; None: unknown.

    /proc and /sys lie in `root`.
    """
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        # What the allocator holds and does not use is free for us too.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min([*_machine(root), *_control_groups(root)], default=None)


def take_peak_bytes(device: torch.device) -> int:
    """On a GPU the most memory that torch's tensors took since the last call; else the most this process ever had."""
    if device.type == "cuda":
        import torch

        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    # Not getrusage, which on Linux counts what the process that started this one had.
    if found := re.search(r"VmHWM:\s+(\d+) kB", _text(_ROOT / "proc/self/status")):
        return int(found[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: in bytes


def keep_freed_memory() -> None:
    """What this process frees is kept for what it allocates next, instead of going back to the system; glibc only.

    The activations of a step are large enough that glibc returns their memory after each one. Taking it again, page by
    page, was a sixth of a small network's step on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None or not mallopt(_TRIM_THRESHOLD, -1):
        return
    if not mallopt(_MMAP_THRESHOLD, 2**30):
        mallopt(_MMAP_THRESHOLD, 2**25)  # the most that older versions take


def _machine(root: Path) -> Iterator[int]:
    if found := re.search(r"MemAvailable:\s+(\d+) kB", _text(root / "proc/meminfo")):
        yield int(found[1]) * 1024
    elif root == _ROOT and "SC_PHYS_PAGES" in os.sysconf_names:  # macOS: no more than there is
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _control_groups(root: Path) -> Iterator[int]:
    """What the limits of this process's control groups leave, its own and those above; of either version."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top, limit, used, cache = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            limit, used, cache = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        inner = top / path.lstrip("/")
        for folder in (inner, *inner.parents):
            limit_text, used_text = _text(folder / limit).strip(), _text(folder / used).strip()
            if limit_text.isdecimal() and used_text.isdecimal():  # else it is "max", or not shown in here
                # Cached files count as used, and are given up when memory is wanted.
                found = re.search(rf"^{cache} (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
                yield max(0, int(limit_text) - int(used_text) + (int(found[1]) if found else 0))
            if folder == top:
                break


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
