"""What the trainer costs beyond the arithmetic: against a bare PyTorch loop that does the same to the same networks."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from benchmarks.measuring import Figure, middle, take_turns
from benchmarks.subject import configured, noise_images, reset_threads
from inpaint.arguments import Options
from inpaint.config import Config
from inpaint.data.batches import Batch
from inpaint.distributed.heartbeat import Heartbeat
from inpaint.distributed.runtime import Runtime
from inpaint.distributed.signals import StopRequest
from inpaint.training.console import Console
from inpaint.training.run_directory import RunDirectory
from inpaint.training.task import build_networks
from inpaint.training.trainer import Trainer

BATCH, STEPS_PER_PHASE, ROUNDS = 16, 3, 9


def run() -> list[Figure]:
    reset_threads()
    config = configured(
        "paper/original",
        BATCH,
        model__width=16,
        training__phases=[0.34, 0.33, 0.33],
        training__epochs=10**6,
        evaluation__every_epochs=10**6,
        checkpointing__every_minutes=None,
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        return compare(config, Path(folder), ROUNDS)


def compare(config: Config, folder: Path, rounds: int) -> list[Figure]:
    """Both, taking turns of a few steps of each phase.

    Args:
        config: its phases are cut into an epoch of `3 * STEPS_PER_PHASE` steps.
        folder: for the run.
        rounds: how many turns count.
    """
    batch_size = config.training.global_batch_size
    images = noise_images(3 * STEPS_PER_PHASE * batch_size, config.data.hole_spec)
    runtime = Runtime(config.training.precision, batch_size)
    directory = RunDirectory(folder / "run")
    directory.open(config, resume=False, overwrite=False)
    heartbeat, stop = Heartbeat(0, 1, 600.0), StopRequest()
    splits = dict.fromkeys(("train", "validation", "test"), images)
    trainer = Trainer(config, Options(folder / "run"), runtime, directory, stop, heartbeat, splits)
    waiting = Waiting(trainer.feed.batches(1, 0))
    bare = BareLoop(config, runtime.device)
    num_steps = 3 * STEPS_PER_PHASE
    batches = [next(waiting) for _ in range(num_steps)]
    trainer.console = Console(is_shown=False)
    trainer.console.begin(0, 1)

    def train() -> None:
        trainer.progress.next_epoch()
        for _ in range(num_steps):
            trainer._step(waiting)

    def train_bare() -> None:
        for position, batch in enumerate(batches):
            bare.step(trainer.phases.at(position, 0), batch)

    waits, walls = [], []

    def train_and_watch() -> None:
        start, waiting.seconds = time.perf_counter(), 0.0
        train()
        walls.append(time.perf_counter() - start)
        waits.append(waiting.seconds)

    seconds = take_turns({"trainer": train_and_watch, "bare": train_bare}, rounds)
    heartbeat.close(in_order=True)
    stop.restore()
    waiting.close()
    directory.close(preempted=False)
    costs = [ours / theirs - 1 for ours, theirs in zip(seconds["trainer"], seconds["bare"], strict=True)]
    cost, spread = middle([100 * cost for cost in costs])
    wait, wait_spread = middle([100 * wait / wall for wait, wall in zip(waits[1:], walls[1:], strict=True)])
    each = 1e3 * middle(seconds["bare"])[0] / num_steps
    what = f"width {config.model.width}, batch {batch_size}, all phases"
    return [
        Figure(f"trainer over a bare loop, {what}", cost, "%", spread, f"goal 3; a bare step takes {each:.0f} ms"),
        Figure(f"waiting for data, {what}", wait, "%", wait_spread, "goal 2; by the clock, so others' load counts"),
    ]


class Waiting(Iterator[Batch]):
    """Batches, and the seconds that were spent waiting for them."""

    def __init__(self, batches: Any) -> None:
        self.batches, self.seconds = batches, 0.0

    def __next__(self) -> Batch:
        start = time.perf_counter()
        try:
            return next(self.batches)
        finally:
            self.seconds += time.perf_counter() - start

    def close(self) -> None:
        self.batches.close()


class BareLoop:
    """The paper's three phases as a script would do them: no metrics, no checks, no log."""

    def __init__(self, config: Config, device: torch.device) -> None:
        generator, discriminator = build_networks(config)
        average, _ = build_networks(config)
        self.networks: list[nn.Module] = [generator.to(device), discriminator.to(device)]
        self.average = average.to(device)
        for network in (*self.networks, self.average):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.adam = [torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999), fused=True) for net in self.networks]
        self.weights = config.loss

    def step(self, phase: int, batch: Batch) -> None:
        generator, discriminator = self.networks
        with torch.set_grad_enabled(phase != 2):
            generator.train(phase != 2)
            output = generator(batch.masked_image, batch.mask)
        if phase != 2:
            loss = self.weights.reconstruction_weight * mse_loss(output, batch.image)
            if phase == 3:
                discriminator.requires_grad_(False).eval()
                logits = discriminator(output, batch.mask, batch.windows).logits
                loss = loss + self.weights.adversarial_weight * _cross_entropy(logits, 1.0)
                discriminator.requires_grad_(True).train()
            loss.backward()
        if phase != 1:
            images = torch.cat([batch.image, output.detach()])
            windows = torch.cat([batch.real_windows, batch.windows])
            real, fake = discriminator(images, torch.cat([batch.mask] * 2), windows).logits.chunk(2)
            (_cross_entropy(real, 1.0) + _cross_entropy(fake, 0.0)).backward()
        for trained, adam in zip((phase != 2, phase != 1), self.adam, strict=True):
            if trained:
                adam.step()
                adam.zero_grad()
        if phase != 2:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.parameters()), list(generator.parameters()), 1e-3)
                for mine, theirs in zip(self.average.buffers(), generator.buffers(), strict=True):
                    mine.copy_(theirs)


def _cross_entropy(logits: Tensor, label: float) -> Tensor:
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
