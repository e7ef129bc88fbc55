"""Owns the way to the store where the launcher's processes met."""

from __future__ import annotations

import os
from datetime import timedelta

import torch.distributed as dist

from inpaint.processes import start_prefix


def connect(timeout_s: float) -> dist.Store:
    """A connection of our own to the store where the launcher's processes met; it outlives any of them."""
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout_s),
    )
    return dist.PrefixStore(start_prefix(), store)
