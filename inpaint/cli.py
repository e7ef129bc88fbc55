"""Owns the command `inpaint`: which subcommands there are, and how each ends (exit code, one line of error).

A subcommand is a module of `inpaint.commands`, named in `COMMANDS`, with
- a docstring, whose first line is its line in `inpaint --help` and whose rest, an example among it, is its own help;
- `add_arguments(parser)`;
- where it has `TAKES_SETTINGS`, what follows `--` is `args.settings`, as it stands;
- `run(args) -> int`, the exit code. It raises `InpaintError` for what the user has to mend (exit code 1) and
  `UsageError` for a command that makes no sense (2), each with one line.
They are all imported to print `inpaint --help`, so torch and its like are imported inside `run`.
"""

from __future__ import annotations

import argparse
import atexit
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from inpaint import __version__
from inpaint.errors import InpaintError, UsageError, shorten
from inpaint.processes import wait_briefly

COMMANDS = ("prepare", "study", "status", "report", "fill", "demo", "evaluate", "rate", "push", "export")

EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_UNREAD = 1, 2, 130, 141  # the last two as the signals would end it


def main(argv: Sequence[str] | None = None) -> int:
    """Run `inpaint` with `argv` (by default the process's) and return the exit code."""
    atexit.register(_drop_unread)
    parser, words = _parser(), [*(sys.argv[1:] if argv is None else argv)]
    if words[:1] == ["train"]:
        parser.error("training is started with `accelerate launch train.py ...`, or from Python with inpaint.train()")
    settings: list[str] = []
    if words and words[0] in COMMANDS and hasattr(import_module(f"inpaint.commands.{words[0]}"), "TAKES_SETTINGS"):
        end = words.index("--") if "--" in words else len(words)
        words, settings = words[:end], words[end + 1 :]
    args = parser.parse_args(words, argparse.Namespace(settings=settings))
    wait_briefly()
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the user gets one line, and the traceback on request
        if isinstance(error, BrokenPipeError) and _drop_unread("\n"):
            return EXIT_UNREAD
        if args.debug:
            traceback.print_exc()
        print(f"inpaint {args.command}: {_one_line(error)}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILURE


def _drop_unread(last: str = "") -> bool:
    """At the end of `inpaint ... | head`: what nobody reads any more, and `last`, is dropped without a word; whether it
    was so."""
    try:
        sys.stdout.write(last)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _one_line(error: Exception) -> str:
    if isinstance(error, InpaintError):
        return f"error: {error}"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"error: {error.strerror}: {shorten(str(error.filename))}"
    detail = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}: {detail} (a bug, most likely: --debug shows where)"


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = argparse.ArgumentParser(
        prog="inpaint",
        description="Fill holes in landscape photographs, and more. To train: accelerate launch train.py.",
        epilog="example: inpaint fill photo.jpg --mask mask.png -o filled.png --model runs/quickstart/generator\n"
        "each command's own help: inpaint COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"inpaint {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f"inpaint.commands.{name}")
        summary, _, details = (module.__doc__ or "").partition("\n")
        subparser = subparsers.add_parser(
            name,
            parents=[common],
            help=summary,
            description=summary,
            epilog=details,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser
