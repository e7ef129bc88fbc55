"""Photos a second that `inpaint prepare` turns into a dataset, where the time goes, and how its memory grows."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks.measuring import Figure, lines_of, rate, ratio, take_turns
from benchmarks.step import picture_files
from benchmarks.subject import reset_threads
from inpaint.data.pixels import open_picture, square

NUM, ROUNDS = 2000, 3
GROWING = (1_000, 10_000, 100_000)


def run() -> list[Figure]:
    reset_threads()
    with tempfile.TemporaryDirectory() as name:
        return [*_speed(Path(name)), *_memory(Path(name))]


def _speed(folder: Path) -> list[Figure]:
    source = folder / "photos" / "field"
    source.mkdir(parents=True)
    files = picture_files(source, NUM)
    said: list[str] = []

    def whole() -> None:
        said.append(_prepare(source.parent, folder / f"dataset-{len(said)}")[0])

    def decode() -> None:
        for file in files:
            square(open_picture(file), 64)

    seconds = take_turns({"prepare": whole, "decode": decode}, rounds=ROUNDS, clock=time.perf_counter)
    total, stages = re.findall(r"([\d.]+) core seconds: (.+)", said[-1])[0]
    note = f"by the clock, {NUM} JPEGs of 256 px, start included, no people filter"
    return [
        rate("prepare, one worker", seconds["prepare"], NUM, "img/s", note),
        rate("only decoding and scaling them", seconds["decode"], NUM, "img/s"),
        ratio("prepare against only decoding", seconds["prepare"], seconds["decode"], "1 would be free"),
        Figure("first pass, per core", NUM / float(total), "img/s", None, "without the start and the second pass"),
        *(
            Figure(f"share of the first pass: {stage}", float(percent), "%")
            for stage, percent in re.findall(r"(\w+) (\d+)%", stages)
        ),
    ]


def _memory(folder: Path) -> list[Figure]:
    figures = []
    for num in GROWING:
        tar = folder / "photos.tar"
        _write_tar(tar, num)
        _, mib = _prepare(tar, folder / f"from-tar-{num}")
        figures.append(Figure(f"most memory, {num:,} pictures from a tar", mib, "MiB", None, "one worker, 64 px"))
    return figures


def _prepare(source: Path, out: Path) -> tuple[str, float]:
    """What the command said, and the most memory it held, in MiB."""
    command = [sys.executable, "-m", "inpaint", "prepare", "--source", str(source), "--out", str(out), "--workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.DEVNULL, env=environment)
        most_kib = 0
        while process.poll() is None:
            # Not what wait4 tells: that begins with the memory of this process, from which it was forked.
            peak = re.search(r"VmHWM:\s+(\d+) kB", "\n".join(lines_of(f"/proc/{process.pid}/status")))
            most_kib = int(peak[1]) if peak else most_kib
            time.sleep(0.02)
        said.seek(0)
        text = said.read().decode()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {text}")
    return text, most_kib / 1024


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
