"""Images a second that come out of shards read while training, and the memory that takes, by size and window."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measuring import Figure, watched
from benchmarks.step import image_files
from benchmarks.subject import reset_threads

BATCH, SECONDS = 64, 8.0
# Side in pixels: how many images there are, and the windows; a window of 512 once took 4.0 GB at 256 px.
CASES = {64: (4000, (512, 4096)), 256: (2000, (512, 2048))}


def run() -> list[Figure]:
    from inpaint.prepare.run import Options, prepare

    reset_threads()
    figures = []
    with tempfile.TemporaryDirectory() as name:
        for size, (num, windows) in CASES.items():
            source = Path(name) / f"photos{size}" / "field"
            source.mkdir(parents=True)
            image_files(source, num)
            out = Path(name) / f"dataset{size}"
            prepare(Options(str(source.parent), out, size=size, workers=1, show_progress=False))
            for window in (0, *windows):
                command = [sys.executable, "-m", "benchmarks.streaming", str(out), str(size), str(window)]
                text, mib = watched(command, {**os.environ, "OMP_NUM_THREADS": "1"})
                what = f"{size} px, window {window:,}" if window else f"{size} px, nothing read yet"
                if window:
                    figures.append(
                        Figure(f"{what}", float(text.split()[-1]), "img/s", None, f"batch {BATCH}, by the clock")
                    )
                figures.append(Figure(f"{what}: most memory", mib, "MiB", None, "one process"))
    return figures


def measure(folder: str, size: int, window: int) -> float:
    """Images a second; 0 with a window of 0, which reads none."""
    from inpaint.config import DataConfig
    from inpaint.data.batches import BatchLoader
    from inpaint.data.stream import Stream, find_shards
    from inpaint.holes.spec import HoleSpec

    stream = Stream(find_shards(folder), HoleSpec.scaled(size), BATCH, window or 1 << 20, 0.0)
    batches = BatchLoader(stream, DataConfig(image_size=size, path=folder, streaming=True), 0, BATCH).batches(1, 0)
    if not window:
        return 0.0
    next(batches)
    start, num = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        next(batches)
        num += BATCH
    elapsed = time.perf_counter() - start
    batches.close()
    return num / elapsed


if __name__ == "__main__":
    print(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
