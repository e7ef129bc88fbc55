"""Owns time: steps, epochs, the three phases in each epoch, and the learning rate as a function of images seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from inpaint.config import OptimizerConfig


def phase_steps(shares: tuple[float, float, float], num_steps: int) -> tuple[int, int, int]:
    """How many steps of an epoch each phase gets: its share by largest remainder, so that they sum to `num_steps`."""
    exact = [share / sum(shares) * num_steps for share in shares]
    counts = [math.floor(value) for value in exact]
    by_remainder = sorted(range(3), key=lambda phase: (counts[phase] - exact[phase], phase))
    for phase in by_remainder[: num_steps - sum(counts)]:
        counts[phase] += 1
    return counts[0], counts[1], counts[2]


def phase_at(position: int, counts: tuple[int, int, int]) -> int:
    """The phase, 1 to 3, of step `position` (from 0) of an epoch."""
    return 1 if position < counts[0] else 2 if position < counts[0] + counts[1] else 3


@dataclass(frozen=True)
class LearningRate:
    """The share of the full rate after `images_seen` images; counted in images, it does not know the batch."""

    settings: OptimizerConfig
    total_images: int

    def of_step(self, images_seen: int, batch_size: int) -> float:
        """For the step after which `images_seen` images are seen: at its middle, so that none runs at rate 0."""
        return self.factor(images_seen - batch_size / 2)

    def factor(self, images_seen: float) -> float:
        """Between 0 and 1: rises linearly while warming up, then stays or falls to 0 at the end of the run."""
        warmup_images = self.settings.warmup_kimg * 1000
        warmup = min(1.0, images_seen / warmup_images) if warmup_images else 1.0
        left = max(0.0, 1 - images_seen / self.total_images)
        if self.settings.schedule == "linear":
            return warmup * left
        if self.settings.schedule == "cosine":
            return warmup * 0.5 * (1 - math.cos(math.pi * left))
        return warmup
