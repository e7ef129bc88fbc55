"""Owns which of the launcher's processes this is, by its environment, and what of the machine is theirs."""

from __future__ import annotations

import os

from inpaint.errors import UsageError


def rank_and_world_size() -> tuple[int, int]:
    """Which of the launcher's processes this is, and of how many; 0 of 1 without a launcher.

    Raises:
        UsageError: the launcher's variables make no sense, and torch would end in a traceback.
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
    if world_size > 1 and not {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise UsageError(
            f"WORLD_SIZE={world_size} in the environment needs RANK, MASTER_ADDR and MASTER_PORT beside it; unset it, "
            f"{_REMEDY}"
        )
    return rank, world_size


_REMEDY = "or start with `accelerate launch`"
