"""`python -m benchmarks [names]`: run suites, print their tables and add them to RESULTS.md."""

from __future__ import annotations

import argparse
from importlib import import_module

from benchmarks.measuring import append_results, heading, load, table

SUITES = (
    "start",
    "step",
    "limit",
    "input",
    "overhead",
    "busy",
    "reduce",
    "scaling",
    "growth",
    "inference",
    "filling",
    "prepare",
    "streaming",
    "checkpoint",
    "health",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(SUITES)} (all of them)")
    parser.add_argument("--dry", action="store_true", help="do not write RESULTS.md")
    parser.add_argument("--seeds", nargs="+", type=int, help="health: the seeds of its runs")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(SUITES)):
        parser.error(f"no such suite: {', '.join(unknown)}; there are {', '.join(SUITES)}")
    for name in arguments.names or SUITES:
        before = load()
        suite = import_module(f"benchmarks.{name}")
        figures = suite.run(arguments.seeds) if name == "health" and arguments.seeds else suite.run()
        text = f"{heading(name, before)}\n\n{str(suite.__doc__).strip()}\n\n{table(figures)}"
        print(f"{text}\n", flush=True)
        if not arguments.dry:
            append_results(text)


if __name__ == "__main__":
    main()
