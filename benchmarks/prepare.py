"""Images a second that `inpaint prepare` turns into a dataset, and how its memory grows."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import tempfile
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from benchmarks.measuring import Figure, rate, ratio, take_turns, watched
from benchmarks.step import image_files
from benchmarks.subject import reset_threads
from inpaint.images.pixels import open_image, square

NUM, ROUNDS = 2000, 3
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


def _write_tar(path: Path, num: int) -> None:
    """Smooth JPEGs of 64 px, no two alike."""
    random = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for index in range(num):
            coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            data = cv2.imencode(".jpg", cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC))[1].tobytes()
            entry = tarfile.TarInfo(f"field/{index:07d}.jpg")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
