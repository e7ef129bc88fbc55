"""Photos a second that `inpaint prepare` turns into a dataset, without and beside plain decoding of the same files."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from pathlib import Path

from benchmarks.measuring import Figure, rate, ratio, take_turns
from benchmarks.step import picture_files
from benchmarks.subject import reset_threads
from inpaint.data.people import PeopleFilter
from inpaint.data.pixels import open_picture, square
from inpaint.data.prepare import Options, prepare

NUM = 400


def run() -> list[Figure]:
    reset_threads()
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "photos" / "field"
        source.mkdir(parents=True)
        files = picture_files(source, NUM)
        turns = iter(range(100))

        def whole() -> None:
            out = Path(name) / f"dataset-{next(turns)}"
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                prepare(
                    Options(str(source.parent), out, people=PeopleFilter(kind="none"), workers=1, show_progress=False)
                )

        def decode() -> None:
            for file in files:
                square(open_picture(file), 64)

        seconds = take_turns({"prepare": whole, "decode": decode}, rounds=2, clock=time.perf_counter)
    note = "by the clock, 256 px JPEGs, no people filter"
    return [
        rate("prepare, one worker", seconds["prepare"], NUM, "img/s", note),
        rate("only decoding and scaling them", seconds["decode"], NUM, "img/s"),
        ratio("prepare against only decoding", seconds["prepare"], seconds["decode"], "1 would be free"),
    ]
