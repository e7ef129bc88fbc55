"""Owns how a process says why the run failed: in one line, once for all processes that have the same to say.

The job script of a cluster learns it too: whoever is first writes exit code and reason into $INPAINT_FAILURE_FILE, for
a launcher turns every code into 1, and what the others say after it is only what followed.
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path


def tell(rank: int, world_size: int, text: str, code: int, under_the_bar: bool = False) -> None:
    """Say that this process ends with `code`, and why; the rank is named where it is not the main one.

    Args:
        under_the_bar: the line on the terminal may hold a progress bar.
    """
    if world_size > 1 and not _is_first_to_say(text):
        return
    who = f"rank {rank}: " if rank else ""
    print("\n" * under_the_bar + f"inpaint: {who}{text}", file=sys.stderr, flush=True)
    if path := os.environ.get("INPAINT_FAILURE_FILE"):
        # Another process was first, or the disk is full; then the log has it.
        with suppress(OSError), Path(path).open("x") as file:
            file.write(f"{code} {who}{' '.join(text.split())}\n")


def _is_first_to_say(text: str) -> bool:
    """Whether no other process of this job has said `text` yet."""
    from inpaint.distributed.store import connect  # torch comes with it

    key = f"said/{hashlib.sha256(text.encode()).hexdigest()}"
    try:
        return connect(timeout_s=5.0).add(key, 1) == 1
    except RuntimeError:  # the store's host is gone: better twice than never
        return True
