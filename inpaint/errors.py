"""Owns what the user is told in one line, never as a traceback: errors that are the user's to mend, and warnings."""

import re
from collections.abc import Sequence


class InpaintError(Exception):
    """Says what was wrong, the value seen, what is allowed and what to do. Commands print it and exit with 1."""


class UsageError(InpaintError):
    """The command or its configuration is wrong: nothing was begun. Commands exit with 2."""


class InpaintWarning(UserWarning):
    """What was asked for is done, and is likely not what was hoped for. Commands print it."""


def without_options(text: str) -> str:
    """A line as a page tells it, where there are no options: without the parentheses that name one."""
    return re.sub(r" \([^()]*--[a-z][^()]*\)", "", text)


MOST_FAULTS = 20


def first_few(faults: Sequence[str], most: int = MOST_FAULTS) -> list[str]:
    """Those that a person reads, and how many more there are."""
    return [*faults[:most], *[f"and {len(faults) - most} more"] * (len(faults) > most)]


def shorten(text: str) -> str:
    """A name or a value as a message repeats it."""
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} characters)"
