"""Reads a command line as train.py does, and the faults that it has."""

from __future__ import annotations

import pytest

from inpaint.arguments import parse_arguments
from inpaint.config import Config
from inpaint.errors import UsageError


def config(*argv: str) -> Config:
    return parse_arguments([*argv])[0]


def faults(*argv: str) -> list[str]:
    """The lines of the error that a command line gives."""
    with pytest.raises(UsageError) as caught:
        parse_arguments([*argv])
    return [line.strip() for line in str(caught.value).splitlines()]
