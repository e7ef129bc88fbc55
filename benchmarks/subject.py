"""Owns what is measured: our training without its loop, on images of noise, which cost the same as others."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from inpaint.config import Config
from inpaint.data.batches import Batch, BatchLoader
from inpaint.data.decoded import DecodedSplit
from inpaint.data.draws import stored_holes
from inpaint.distributed.runtime import Runtime
from inpaint.holes.spec import HoleSpec
from inpaint.resolve import load_config
from inpaint.training.task import InpaintingTask


def noise_images(num: int, spec: HoleSpec) -> DecodedSplit:
    """A split of `num` images of noise, in memory."""
    where, windows = stored_holes(np.arange(num, dtype=np.uint64), spec)
    pixels = np.random.default_rng(0).integers(0, 256, (num, spec.image_size, spec.image_size, 3), dtype=np.uint8)
    return DecodedSplit(pixels, where, windows, [str(index) for index in range(num)])


def configured(preset: str, batch_size: int, precision: str = "float32", **flags: Any) -> Config:
    """A preset at another batch size and precision; `flags` as `section__field`."""
    changes = {"training.global_batch_size": batch_size, "training.precision": precision}
    return load_config(preset, changes | {name.replace("__", "."): value for name, value in flags.items()})


class Subject:
    """Networks, optimizers, average and feed of a config, as the trainer builds them."""

    def __init__(self, config: Config, images: DecodedSplit | None = None) -> None:
        training = config.training
        self.config, self.batch_size = config, training.global_batch_size
        self.runtime = Runtime.of(config)
        self.task = InpaintingTask(config, self.runtime)
        images = images or noise_images(max(4 * self.batch_size, 256), config.data.hole_spec)
        self.feed = BatchLoader(
            images,
            config.data,
            training.seed,
            self.batch_size,
            self.runtime.rank,
            self.runtime.world_size,
            self.runtime.device,
        )
        self.batches = self.feed.batches(1, 0)
        self.images_seen = 0

    def batch(self) -> Batch:
        return next(self.batches)

    def step(self, phase: int, batch: Batch | None = None) -> None:
        """One step on the next batch, or on `batch`, with all that belongs to it: metrics and the average."""
        micro = (batch or self.batch()).split(self.runtime.micro_batch_size)
        self.images_seen += self.batch_size
        self.task.step(phase, micro, self.images_seen // self.batch_size, self.images_seen)

    def close(self) -> None:
        """Frees the memory and the threads."""
        self.batches.close()
        self.runtime.close()


def reset_threads() -> None:
    """One thread on CPUs, so that processor seconds are what a step takes; more threads share the same work."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
