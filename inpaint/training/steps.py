"""Owns the step: what one global batch does to the networks in each of the three phases (paper, "Training in theory").

Only the network being trained pays: the generator runs without gradient while the discriminators learn alone, and in
the generator's turn the discriminator is frozen and called raw, so that no gradient of it is computed or reduced. There
it also runs with the statistics it has learnt (evaluation mode): a step of the generator moves nothing of it.

In phase 3 each picture runs forward through the generator once. Both updates are taken from that one forward and from
the networks as they were before the step: the generator's turns over all micro batches come first, for the
discriminators' turns move the statistics that the generator's turns read. So micro batches change only what BatchNorm
does in training: it normalises each by itself, and its running statistics move once for each.

The discriminators see real and generated pictures in one forward of twice the batch; BatchNorm's statistics are those
of both together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inpaint.config import Config
from inpaint.data.batches import Batch, composite, crop
from inpaint.distributed.network import Network
from inpaint.distributed.runtime import Runtime
from inpaint.losses import adversarial_loss, discriminator_losses, reconstruction_loss

Terms = dict[str, Tensor]


class Steps:
    """The three kinds of step; each takes this process's micro batches and returns unweighted terms to log."""

    def __init__(self, runtime: Runtime, generator: Network, discriminator: Network, config: Config) -> None:
        self.runtime, self.generator, self.discriminator = runtime, generator, discriminator
        self.config, self.window_px = config, config.data.hole_spec.window_px

    def __call__(self, phase: int, batches: list[Batch], lr_scale: float) -> Terms:
        """Train on one global batch.

        Args:
            phase: 1, 2 or 3.
            batches: this process's micro batches of the global batch.
            lr_scale: what the schedule leaves of the full learning rates.

        Returns:
            Scalars on the device, means over this process's pictures, and the gradients' norms; nothing waits for them.
        """
        collected: list[Terms] = [{} for _ in batches]
        outputs = [
            self._generate(phase, batch, terms, last=batch is batches[-1])
            for batch, terms in zip(batches, collected, strict=True)
        ]
        if phase != 1:
            for batch, output, terms in zip(batches, outputs, collected, strict=True):
                with self.discriminator.micro_step(last=batch is batches[-1]):
                    terms |= self._train_discriminator(output, batch)
        terms = collected[0]
        if len(collected) > 1:
            terms = {name: torch.stack([part[name] for part in collected]).mean() for name in terms}
        rates = self.config.optimizer
        if phase != 2:
            rate = rates.generator_learning_rate * lr_scale
            with self.generator.span("optimizer"):
                terms["gradient_norm/generator"] = self.generator.step(rate)
        if phase != 1:
            rate = rates.discriminator_learning_rate * lr_scale
            with self.discriminator.span("optimizer"):
                terms["gradient_norm/discriminator"] = self.discriminator.step(rate)
        return terms

    def _generate(self, phase: int, batch: Batch, terms: Terms, last: bool) -> Tensor:
        """The output for a micro batch, without its graph, after the generator's turn where the phase has one."""
        if phase == 2:
            with torch.no_grad(), self.generator.frozen():
                output = self.generator.module(batch.masked_image, batch.mask)
        else:
            with self.generator.micro_step(last):
                output = self.generator(batch.masked_image, batch.mask)
                terms |= self._train_generator(output, batch, adversarial=phase == 3)
        output = output.detach()
        if len(output) > 1:
            # How much the outputs differ from one another; near 0 the generator paints one picture for all.
            terms["output/batch_std"] = (output.float() - output.float().mean(dim=0)).square().mean(dim=0).sqrt().mean()
        return output

    def _train_generator(self, output: Tensor, batch: Batch, adversarial: bool) -> Terms:
        weights = self.config.loss
        region = batch.mask if weights.reconstruction_region == "hole" else None
        reconstruction = reconstruction_loss(output, batch.image, region)
        terms = {"loss/generator/reconstruction": reconstruction.detach()}
        total = weights.reconstruction_weight * reconstruction
        if adversarial:
            seen = self._seen(output, batch)
            with self.discriminator.frozen():
                logits = self.discriminator.module(seen, crop(seen, batch.windows, self.window_px))
            fooled = adversarial_loss(logits)
            terms["loss/generator/adversarial"] = fooled.detach()
            total = total + weights.adversarial_weight * fooled
        self.generator.backward(total)
        return terms

    def _train_discriminator(self, output: Tensor, batch: Batch) -> Terms:
        fake = self._seen(output, batch)
        images = torch.cat([batch.image, fake])
        windows = torch.cat([batch.real_windows, batch.windows])
        logits = self.discriminator(images, crop(images, windows, self.window_px))
        real_logits, fake_logits = logits.chunk(2)
        real_loss, fake_loss = discriminator_losses(real_logits, fake_logits)
        self.discriminator.backward(real_loss + fake_loss)
        return {
            "loss/discriminator/real": real_loss.detach(),
            "loss/discriminator/fake": fake_loss.detach(),
            "score/real": real_logits.detach().float().sigmoid().mean(),
            "score/fake": fake_logits.detach().float().sigmoid().mean(),
        }

    def _seen(self, output: Tensor, batch: Batch) -> Tensor:
        """What the discriminators see of a generated picture."""
        if self.config.model.discriminator_input == "composite":
            return composite(output, batch.image, batch.mask)
        return output.to(batch.image.dtype)
