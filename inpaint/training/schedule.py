"""Owns time: steps, epochs, the three phases in each epoch, and the learning rate as a function of images seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from inpaint.config import OptimizerConfig, TrainingConfig


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
class Phases:
    """Which phase each step is in, by `training.phases_per`."""

    settings: TrainingConfig
    steps_per_epoch: int
    total_images: int

    @cached_property
    def steps(self) -> tuple[int, int, int]:
        """How many each phase gets of an epoch, or of the run."""
        is_of_run = self.settings.phases_per == "run"
        num = self.total_images // self.settings.global_batch_size if is_of_run else self.steps_per_epoch
        return phase_steps(self.settings.phases, num)

    def at(self, position: int, images_seen: int) -> int:
        """The phase, 1 to 3, of the step `position` (from 0) of its epoch, before which `images_seen` were seen.

        Of a run they are counted in images, for its batch may have been another at first.
        """
        if self.settings.phases_per == "run":
            position = images_seen // self.settings.global_batch_size
        return phase_at(position, self.steps)

    def adversarial_scale(self, images_seen: int, warmup_kimg: float) -> float:
        """Between 0 and 1: what the warm-up leaves of the adversarial losses' weights after `images_seen` images.

        Where the run goes through the phases once, it counts from where the third one begins.
        """
        if self.settings.phases_per == "run":
            images_seen -= sum(self.steps[:2]) * self.settings.global_batch_size
        return min(1.0, max(0, images_seen) / (1000 * warmup_kimg)) if warmup_kimg else 1.0


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
        if self.settings.schedule == "late_linear":
            return warmup * min(1.0, 2 * left)
        if self.settings.schedule == "cosine":
            return warmup * 0.5 * (1 - math.cos(math.pi * left))
        return warmup
