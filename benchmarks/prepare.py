"""Images a second that `inpaint prepare` turns into a dataset, and how its memory grows.

`python -m benchmarks.prepare 100000 300000` makes up so many images of 16 px, prepares them with two workers, and says
by a straight line through both what 1.8 million would take.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from benchmarks.measuring import Figure, rate, ratio, table, take_turns, watched
from benchmarks.step import image_files
from benchmarks.subject import reset_threads
from inpaint.images.pixels import open_image, square

NUM, ROUNDS = 2000, 3
ALL, SMALL_PX = 1_800_000, 16
GROWING = (1_000, 10_000, 100_000)


# Files of detectors, which nothing here may hand on: the flags of a people filter each, where the environment has them.
FILTERS = {
    "darknet": os.environ.get("BENCHMARK_DARKNET", ""),  # --darknet-cfg FILE --darknet-weights FILE
    "onnx": os.environ.get("BENCHMARK_ONNX", ""),  # --onnx FILE
    "transformers": os.environ.get("BENCHMARK_TRANSFORMERS", ""),  # --detector FOLDER
}


def run() -> list[Figure]:
    reset_threads()
    with tempfile.TemporaryDirectory() as name:
        return [*_speed(Path(name)), *_memory(Path(name))]


def _speed(folder: Path) -> list[Figure]:
    source = folder / "photos" / "field"
    source.mkdir(parents=True)
    files = image_files(source, NUM)
    said: list[str] = []

    def whole(workers: int, *flags: str) -> None:
        said.append(_prepare(source.parent, folder / f"dataset-{len(said)}", "--workers", str(workers), *flags)[0])

    def decode() -> None:
        for file in files:
            square(open_image(file), 64)

    rivals = {"two": lambda: whole(2), "prepare": lambda: whole(1), "decode": decode}
    seconds = take_turns(rivals, rounds=ROUNDS, clock=time.perf_counter)
    note = f"by the clock, {NUM} JPEGs of 256 px, start included, no people filter"
    filtered = {
        name: take_turns({name: partial(whole, 1, "--people-filter", name, *flags.split())}, 1, time.perf_counter)[name]
        for name, flags in FILTERS.items()
        if flags
    }
    return [
        rate("prepare, one worker", seconds["prepare"], NUM, "img/s", note),
        rate("prepare, two workers", seconds["two"], NUM, "img/s"),
        ratio("two workers against one", seconds["two"], seconds["prepare"], "each starts for itself"),
        *(rate(f"prepare, one worker, people filter {name}", its, NUM, "img/s") for name, its in filtered.items()),
        rate("only decoding and scaling them", seconds["decode"], NUM, "img/s"),
        ratio("prepare against only decoding", seconds["prepare"], seconds["decode"], "1 would be free"),
    ]


def _memory(folder: Path) -> list[Figure]:
    figures = []
    for num in GROWING:
        tar = folder / "photos.tar"
        _write_tar(tar, num)
        start = time.perf_counter()
        _, mib = _prepare(tar, folder / f"from-tar-{num}", "--workers", "1")
        seconds = time.perf_counter() - start
        figures.append(Figure(f"prepare, {num:,} images from a tar", num / seconds, "img/s", None, "by the clock"))
        figures.append(Figure(f"most memory, {num:,} images from a tar", mib, "MiB", None, "one worker, 64 px"))
    return figures


def _prepare(source: Path, out: Path, *flags: str) -> tuple[str, float]:
    """What the command said, and the most memory it held, in MiB."""
    command = [sys.executable, "-m", "inpaint", "prepare", "--source", str(source), "--out", str(out), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return watched(command, environment)


def straight(folder: Path, nums: Sequence[int]) -> list[Figure]:
    """Seconds and memory at each of `nums`, the line through the last two at `ALL`, and the shards."""
    figures: list[Figure] = []
    measured: list[tuple[int, float, float]] = []
    tar, flags = folder / "photos.tar", ("--size", f"{SMALL_PX}", "--workers", "2")
    for num in nums:
        _write_tar(tar, num, SMALL_PX)
        start = time.perf_counter()
        _, mib = _prepare(tar, folder / f"{num}", *flags)
        measured.append((num, time.perf_counter() - start, mib))
    for column, unit in ((1, "s"), (2, "MiB")):
        what = "seconds by the clock" if column == 1 else "most memory of the main process"
        figures += [Figure(f"{what}, {row[0]:,} images", row[column], unit) for row in measured]
        if len(measured) > 1:
            (few, less), (many, more) = ((row[0], row[column]) for row in measured[-2:])
            whole = more + (more - less) / (many - few) * (ALL - many)
            figures.append(Figure(f"{what}, {ALL:,} images by a straight line", whole, unit))
    shards = sorted((folder / f"{nums[-1]}").rglob("*.parquet"))
    sizes = [shard.stat().st_size / 2**20 for shard in shards]
    figures.append(Figure(f"shards of {nums[-1]:,} images", len(shards), "", None, f"the largest {max(sizes):.1f} MiB"))
    figures.append(Figure("repeated when it is finished", _resumed_s(tar, folder / f"{nums[-1]}", *flags), "s"))
    return figures


def _resumed_s(tar: Path, out: Path, *flags: str) -> float:
    start = time.perf_counter()
    _prepare(tar, out, *flags)
    return time.perf_counter() - start


def _write_tar(path: Path, num: int, size: int = 64) -> None:
    """Smooth JPEGs of `size` px, no two alike."""
    random = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for index in range(num):
            coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            data = cv2.imencode(".jpg", cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC))[1].tobytes()
            entry = tarfile.TarInfo(f"field/{index:07d}.jpg")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print(table(straight(Path(temporary), [int(word) for word in sys.argv[1:]])))
