"""Owns the one kind of error that is the user's to mend: printed as one line, never as a traceback."""


class InpaintError(Exception):
    """Says what was wrong, the value seen, what is allowed and what to do. Commands print it and exit with 1."""


class UsageError(InpaintError):
    """The command or its configuration is wrong: nothing was begun. Commands exit with 2."""
