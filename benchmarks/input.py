"""Images a second that come out of the memory map, against decoding files and against rows of a dataset."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.baseline_loop import ImageFiles
from benchmarks.measuring import Figure, rate, ratio, take_turns
from benchmarks.step import image_files
from benchmarks.subject import noise_images, reset_threads
from inpaint.config import DataConfig
from inpaint.data.batches import BatchLoader
from inpaint.data.decoded import DecodedSplit

NUM, BATCH, NUM_BATCHES = 4096, 128, 4


def run() -> list[Figure]:
    import datasets

    reset_threads()
    config = DataConfig(holes="resampled", flip=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = image_files(folder, 128)
        noise = noise_images(NUM, config.hole_spec)
        np.save(folder / "pixels.npy", noise.pixels)
        mapped = DecodedSplit(np.load(folder / "pixels.npy", mmap_mode="r"), noise.holes, noise.windows, noise.sources)
        ours = BatchLoader(mapped, config, 0, BATCH).batches(1, 0)
        decoded = iter_forever(DataLoader(ImageFiles(files), BATCH, shuffle=True))
        rows = datasets.Dataset.from_dict(
            {"image": [str(path) for path in files]}, features=datasets.Features({"image": datasets.Image()})
        )
        order = np.random.default_rng(0)

        def from_rows() -> Tensor:
            chosen = rows[order.choice(len(rows), BATCH)]["image"]
            return torch.stack([torch.from_numpy(np.array(image.resize((64, 64)))) for image in chosen])

        seconds = take_turns(
            {
                "ours": lambda: [next(ours) for _ in range(NUM_BATCHES)],
                "files": lambda: [next(decoded) for _ in range(NUM_BATCHES)],
                "rows": lambda: [from_rows() for _ in range(NUM_BATCHES)],
            }
        )
        ours.close()
    num = NUM_BATCHES * BATCH
    return [
        rate("memory map, holes, flips and masks", seconds["ours"], num, "img/s", f"batch {BATCH}, 64 px"),
        rate("DataLoader decoding JPEGs", seconds["files"], num, "img/s", "256 px to 64 px, no workers, no masks"),
        rate("rows of a datasets.Dataset", seconds["rows"], num, "img/s", "the same files, no masks"),
        ratio("memory map against DataLoader", seconds["ours"], seconds["files"]),
        ratio("memory map against datasets", seconds["ours"], seconds["rows"]),
    ]


def iter_forever(loader: DataLoader) -> Iterator[Tensor]:
    while True:
        yield from loader
