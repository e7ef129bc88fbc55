"""Both networks and batches of noise to train them on, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import Tensor

from inpaint.config import Config
from inpaint.data import draws
from inpaint.data.batches import Batch, BatchLoader
from inpaint.data.decoded import DecodedSplit
from inpaint.distributed.network import Network
from inpaint.distributed.runtime import Runtime
from inpaint.training.task import InpaintingTask

SIZE, BATCH = 16, 8


class Setup:
    """Both networks, ready to train on batches of noise."""

    def __init__(self, micro: int | None = None, precision: str = "float64", **sections: dict[str, Any]) -> None:
        sections["data"] = {"image_size": SIZE, **sections.get("data", {})}
        sections["model"] = {"width": 4, **sections.get("model", {})}
        self.config = Config.model_validate(sections)
        self.runtime = Runtime(precision, BATCH, micro)
        self.task = InpaintingTask(self.config, self.runtime)
        self.generator, self.discriminator = self.task.generator, self.task.discriminator

    def batch(self, step: int = 0) -> Batch:
        random, spec, size = np.random.default_rng(0), self.config.data.hole_spec, self.config.data.image_size
        where, windows = draws.stored_holes(random.integers(0, 2**63, 64, dtype=np.uint64), spec)
        pixels = random.integers(0, 256, (64, size, size, 3), dtype=np.uint8)
        pictures = DecodedSplit(pixels, where, windows, [""] * 64)
        feed = BatchLoader(pictures, self.config.data, 0, BATCH, device=self.runtime.device, dtype=self.runtime.dtype)
        batches = feed.batches(1, step)
        try:
            return next(batches)
        finally:
            batches.close()

    def __call__(self, phase: int, step: int = 0, lr_scale: float = 1.0) -> dict[str, Tensor]:
        micro_batches = self.batch(step).split(self.runtime.micro_batch_size)
        return self.task.step(phase, micro_batches, step + 1, (step + 1) * BATCH, lr_scale)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def gradients_at_step(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> dict[Network, list[Tensor]]:
    """Filled, when a step is taken, with the gradients that each network's optimizer was given."""
    seen: dict[Network, list[Tensor]] = {}
    original = Network.step

    def step(self: Network, learning_rate: float) -> Tensor:
        seen[self] = [p.grad.detach().clone() for p in self.module.parameters() if p.grad is not None]
        return original(self, learning_rate)

    monkeypatch.setattr(Network, "step", step)
    return seen
