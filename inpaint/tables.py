"""Owns the names of what can be added to, and where each of them is; nothing is imported before it is asked for.

To add one is a file of its own and a line here. A setting then names it (CONTRIBUTING.md has an example of each).
"""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any


def load(table: Mapping[str, str], name: str) -> Any:
    """What `table` has under `name`, imported now."""
    return resolve_name(table[name])
