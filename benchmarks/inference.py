"""Images a second out of the pipeline, paper-size generator, with reading the mask and setting the hole in."""

from __future__ import annotations

from functools import partial

import numpy as np
from PIL import Image

from benchmarks.measuring import Figure, rate, take_turns
from benchmarks.subject import reset_threads
from inpaint.models.generator import Generator
from inpaint.pipeline import InpaintingPipeline


def run() -> list[Figure]:
    reset_threads()
    pipe = InpaintingPipeline(Generator())
    figures = []
    for size, num in ((64, 1), (64, 16), (256, 1)):
        random = np.random.default_rng(0)
        images = [Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(num)]
        mask = np.zeros((size, size), np.uint8)
        mask[size // 4 : size // 2, size // 4 : size // 2] = 255
        masks = [Image.fromarray(mask)] * num
        seconds = take_turns({"": partial(pipe, images, masks)}, rounds=3)[""]
        figures.append(rate(f"{size} px, {num} at once, {pipe.device.type}", seconds, num, "img/s"))
    return figures
