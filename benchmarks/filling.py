"""Photographs a minute and core of `inpaint fill` on a folder, with decoding and PNG, and its peak memory.

Rendered landscapes as JPEG of quality 90, of 512 x 512 px and one of 7,071 x 7,071; one mask for all, a blob of 4% of
the image; a generator of width 16 that was trained at 64 px (what its weights are changes no figure). By processor
seconds of all threads, starting not counted.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.measuring import Figure, rate, take_turns, watched
from benchmarks.subject import reset_threads
from inpaint.data.synthetic.landscapes import render
from inpaint.filling.files import Files, all_of
from inpaint.filling.many import fill_many
from inpaint.images.job import FillJob
from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.photographs.how import How
from inpaint.pipeline import InpaintingPipeline

NUM, SIZE_PX, LARGE_PX = 48, 512, 7071


def run() -> list[Figure]:
    reset_threads()
    with tempfile.TemporaryDirectory() as folder:
        return [*_run(Path(folder))]


def _run(folder: Path) -> Iterator[Figure]:
    _save_model(folder / "model")
    for name, num, side in (("small", NUM, SIZE_PX), ("large", 1, LARGE_PX)):
        (folder / name).mkdir()
        for number in range(num):
            pixels = render(0, np.array([number]), SIZE_PX)[0]
            Image.fromarray(pixels).resize((side, side)).save(folder / name / f"{number}.jpg", quality=90)
        mask = np.zeros((side, side), np.uint8)
        axes = (side // 8, side // 10)
        cv2.ellipse(mask, (side // 2, side // 2), axes, 30.0, 0, 360, 255, -1)
        Image.fromarray(mask).save(folder / f"{name}.png")
    pipe = InpaintingPipeline.from_pretrained(folder / "model")
    jobs = all_of([str(folder / "small")], folder / "small.png", str(folder / "filled"))
    (folder / "filled").mkdir()

    def fill(detail: bool) -> None:
        def read(files: Files) -> FillJob:
            return FillJob.of(files.image, files.mask, resize_mask=False)

        how = How(detail=detail)
        assert not any(result.error for result in fill_many(jobs, read, lambda read: pipe.fill_jobs(read, how)))

    seconds = take_turns({"without detail": lambda: fill(False), "with detail": lambda: fill(True)}, rounds=3)
    for name, taken in seconds.items():
        yield rate(f"{SIZE_PX} px, {name}, {pipe.device.type}", [each / 60 for each in taken], NUM, "img/min")
    for name in ("small", "large"):
        files = [str(folder / name), "--mask", str(folder / f"{name}.png"), "-o", str(folder / f"out-{name}")]
        command = [sys.executable, "-m", "inpaint", "fill", *files, "--model", str(folder / "model"), "--device", "cpu"]
        _, peak_mib = watched(command, {**os.environ, "OMP_NUM_THREADS": "1"})
        what = f"{NUM} of {SIZE_PX} px" if name == "small" else f"one of {LARGE_PX**2 / 1e6:.0f} megapixels"
        yield Figure(f"peak memory, {what}", peak_mib, "MiB")


def _save_model(folder: Path) -> None:
    generator = Generator(GeneratorConfig(width=16, architecture="smooth_prior", image_size=64, hole_max_px=26))
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    generator.save_pretrained(folder)
