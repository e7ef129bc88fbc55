"""The paper's method on one device, in the order in which the paper tells it: dataset, networks, three phases.

Networks and losses are the package's. What `train.py` adds is left out: many processes, checkpoints, averaged weights,
evaluation, the Hub. Its losses are these, bit for bit.

    python examples/minimal.py --width 16 --epochs 3
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from inpaint.config import ModelConfig
from inpaint.data import draws
from inpaint.data.batches import to_unit
from inpaint.data.synthetic.landscapes import render
from inpaint.evaluation.grid import sample_grid
from inpaint.evaluation.metrics import composite_u8, to_u8
from inpaint.holes.rectangle import rasterise
from inpaint.holes.spec import HoleSpec
from inpaint.losses import adversarial_loss, discriminator_losses, reconstruction_loss
from inpaint.models.discriminators.fused import FusedDiscriminator
from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.sources.keys import key_hash
from inpaint.training.schedule import phase_at, phase_steps

LEARNING_RATE, BETAS = 2e-4, (0.5, 0.999)
RECONSTRUCTION_WEIGHT, ADVERSARIAL_WEIGHT = 1.0, 1.0  # w1 and w2 of equation (3)


class Landscapes:
    """Paper, "Dataset": images, each with a hole of 20 to 25 px (at 64) and a window of 28 px around it."""

    def __init__(self, num: int, size: int, seed: int) -> None:
        self.spec, self.seed = HoleSpec.scaled(size), seed
        self.pixels = render(0, np.arange(num), size)
        keys = np.array([key_hash(str(index)) for index in range(num)], np.uint64)
        self.holes, self.windows = draws.stored_holes(keys, self.spec)

    def batches(self, epoch: int, size: int) -> Iterator[tuple[Tensor, ...]]:
        """Each image once, in an order of this epoch's own; an incomplete last batch is dropped."""
        num = len(self.pixels)
        order = draws.epoch_order(num, self.seed, epoch)
        # Of a real image the local discriminator sees "a randomly selected region".
        real_windows = draws.real_windows(num, self.spec, self.seed, epoch)
        for start in range(0, num - size + 1, size):
            chosen = order[start : start + size]
            image = to_unit(torch.from_numpy(self.pixels[chosen]))
            mask = rasterise(torch.from_numpy(self.holes[chosen]), image.shape[-1]).float()
            yield image, mask, torch.from_numpy(self.windows[chosen]), torch.from_numpy(real_windows[chosen])


class Trainer:
    """Paper, "Training in theory": the generator alone, the discriminators alone, then both."""

    def __init__(self, size: int, width: int, device: str, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.device = device
        self.generator = Generator(GeneratorConfig(width))
        self.discriminator = FusedDiscriminator(ModelConfig(width=width), size, HoleSpec.scaled(size).window_px)
        for network in (self.generator, self.discriminator):
            network.to(device, memory_format=torch.channels_last)
        self.generator_optimizer, self.discriminator_optimizer = (
            torch.optim.Adam(network.parameters(), LEARNING_RATE, BETAS, fused=True)
            for network in (self.generator, self.discriminator)
        )

    def step(self, phase: int, image: Tensor, mask: Tensor, windows: Tensor, real_windows: Tensor) -> dict[str, Tensor]:
        """One batch in phase 1, 2 or 3: [B, 3, S, S], its holes [B, 1, S, S] and the windows' corners [B, 2]."""
        image, mask, windows, real_windows = (x.to(self.device) for x in (image, mask, windows, real_windows))
        losses: dict[str, Tensor] = {}

        # C(x, M_c). While only the discriminators learn, nothing of the generator moves.
        self.generator.train(phase != 2)
        with torch.set_grad_enabled(phase != 2):
            output = self.generator(image * (1 - mask), mask)

        if phase != 2:  # equation (1); in phase 3 the generator's part of (3) with it
            losses["reconstruction"] = total = reconstruction_loss(output, image)
            if phase == 3:
                with frozen(self.discriminator):
                    logits = self.discriminator(output, mask, windows).logits
                losses["adversarial"] = adversarial_loss(logits)
                total = RECONSTRUCTION_WEIGHT * total + ADVERSARIAL_WEIGHT * losses["adversarial"]
            total.backward()

        if phase != 1:  # equation (2), which is the discriminators' part of (3) too: real ones and filled ones together
            shown = torch.cat([image, output.detach()])
            judgement = self.discriminator(shown, torch.cat([mask, mask]), torch.cat([real_windows, windows]))
            real_logits, fake_logits = judgement.logits.chunk(2)
            losses["real"], losses["fake"] = discriminator_losses(real_logits, fake_logits)
            (losses["real"] + losses["fake"]).backward()

        # Both updates are taken from the networks as they were before the step.
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            optimizer.step()
            optimizer.zero_grad()
        return losses


class frozen:  # noqa: N801 - it reads as a verb
    """Within, gradients pass through a network and change nothing of it, its BatchNorm's statistics included."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __enter__(self) -> None:
        self.network.eval().requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        self.network.train().requires_grad_(True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--phases", type=float, nargs=3, default=(0.33, 0.33, 0.34), help="shares of each epoch")
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--width", type=int, default=64, help="channels of the first layers; the paper's is 64")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/minimal"))
    args = parser.parse_args()

    data = Landscapes(args.images, args.image_size, seed=0)
    trainer = Trainer(args.image_size, args.width, args.device)
    num_steps = args.images // args.batch_size
    phases = phase_steps(args.phases, num_steps)
    args.out.mkdir(parents=True, exist_ok=True)
    for epoch in range(1, args.epochs + 1):
        with tqdm(data.batches(epoch, args.batch_size), f"epoch {epoch}", num_steps) as bar:
            for position, batch in enumerate(bar):
                losses = trainer.step(phase_at(position, phases), *batch)
                if position % 20 == 0:
                    bar.set_postfix({name: f"{value.item():.4f}" for name, value in losses.items()})
        save_samples(trainer.generator.eval(), data, args.out / f"epoch_{epoch:04d}.png", args.device)
    trainer.generator.save_pretrained(args.out / "generator")


@torch.no_grad()
def save_samples(generator: Generator, data: Landscapes, path: Path, device: str, num: int = 30) -> None:
    """Original, masked, output and composite of the first images."""
    image = torch.from_numpy(data.pixels[:num]).permute(0, 3, 1, 2)
    mask = rasterise(torch.from_numpy(data.holes[:num]), image.shape[-1]).float()
    masked = image * (1 - mask)
    output = generator((masked / 255).to(device), mask.to(device)).cpu()
    columns = (image, masked.byte(), to_u8(output), composite_u8(output, image, mask))
    sample_grid(*(column.permute(0, 2, 3, 1).numpy() for column in columns)).save(path)


if __name__ == "__main__":
    main()
