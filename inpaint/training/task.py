"""Owns what is trained: networks, losses, optimizers and average, and what one global batch does to them in each phase.

Only the network being trained pays (paper, "Training in theory"): the generator runs without gradient while the
discriminator learns alone, and in the generator's turn the discriminator is frozen and called raw, so that no gradient
of it is computed or reduced. There it is in evaluation mode: a step of the generator moves nothing of it.

In phase 3 each image runs forward through the generator once. Both updates are taken from that one forward and from the
networks as they were before the step: the generator's turns over all micro batches come first, for the discriminator's
turns move the statistics that the generator's turns read. So micro batches change only what BatchNorm does in training:
it normalises each by itself, and its running statistics move once for each.

The discriminator sees real and generated images in one forward of twice the batch; BatchNorm's statistics are those of
both together.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from inpaint.config import Config
from inpaint.data.batches import Batch
from inpaint.distributed.network import Network
from inpaint.distributed.runtime import Runtime
from inpaint.errors import InpaintError
from inpaint.losses.seen import Seen
from inpaint.models.discriminators.judgement import Judgement
from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.tables import ADVERSARIAL_LOSSES, DISCRIMINATOR_LOSSES, DISCRIMINATORS, LOSSES, load
from inpaint.training.ema import Ema
from inpaint.training.saved_generator import AVERAGE, GENERATOR, RECONSTRUCTION, init_generator

DISCRIMINATOR = "discriminator"

log = logging.getLogger(__name__)

Terms = dict[str, Tensor]
Loss = Callable[[Seen], Tensor | None]
Around = Callable[[], AbstractContextManager]


def build_networks(config: Config) -> tuple[Generator, nn.Module]:
    """Generator and discriminator with their start values, which depend on the seed alone."""
    torch.manual_seed(config.training.seed)
    model, data = config.model, config.data
    generator = Generator(GeneratorConfig.for_run(config))
    return generator, load(DISCRIMINATORS, model.discriminator)(model, data.image_size, data.hole_spec.window_px)


def losses_of(config: Config, table: Mapping[str, str]) -> dict[str, Loss]:
    """Of `table` those that weigh anything."""
    return {name: load(table, name) for name in table if config.loss.weights.get(name)}


class InpaintingTask:
    """A generator and its discriminator in training; every process calls every method alike.

    InpaintError if `init_from`, a saved generator to begin from, cannot be read or has another shape.

    Attributes:
        reconstruction: what `keep_reconstruction` kept, on the CPU of the main process; empty: nothing, or elsewhere.
    """

    def __init__(self, config: Config, runtime: Runtime, init_from: str | None = None) -> None:
        self.config, self.runtime = config, runtime
        rates = config.optimizer
        generator, discriminator = build_networks(config)
        if init_from is not None:
            init_generator(generator, init_from)
        # Before an engine takes the generator to pieces.
        average = copy.deepcopy(generator) if config.ema.half_life_kimg is not None else None
        modules = {GENERATOR: generator, DISCRIMINATOR: discriminator}
        self.num_parameters = {name: sum(p.numel() for p in net.parameters()) for name, net in modules.items()}
        self.learning_rates = {
            GENERATOR: rates.generator_learning_rate,
            DISCRIMINATOR: rates.discriminator_learning_rate,
        }
        self.networks: dict[str, Network] = {}
        for name, module in modules.items():
            adam = {"betas": (rates.beta1, rates.beta2), "lr": self.learning_rates[name]}
            self.networks[name] = runtime.prepare(name, module, adam, config.training.compile)
        self.generator, self.discriminator = self.networks[GENERATOR], self.networks[DISCRIMINATOR]
        self.weights = config.loss.weights
        tables = (LOSSES, ADVERSARIAL_LOSSES, DISCRIMINATOR_LOSSES)
        self.losses, self.adversarial_losses, self.discriminator_losses = (losses_of(config, its) for its in tables)
        self.ema = None if average is None else Ema(average.to(runtime.device, runtime.dtype), config.ema)
        self.reconstruction: dict[str, Tensor] = {}

    def step(
        self,
        phase: int,
        batches: list[Batch],
        step: int,
        images_seen: int,
        lr_scale: float = 1.0,
        adversarial_scale: float = 1.0,
    ) -> Terms:
        """Train on one global batch, of which this process has the micro `batches`; `step` counts from 1.

        `images_seen` are the run's, this batch included; `lr_scale` and `adversarial_scale` are what the schedule
        leaves of the learning rates and of the adversarial losses' weights.
        Returned are scalars on the device, means over this process's images, and the gradients' norms; nothing waits.
        """
        collected: list[Terms] = [{} for _ in batches]
        outputs = [
            self._generate(phase, batch, step, terms, adversarial_scale, last=batch is batches[-1])
            for batch, terms in zip(batches, collected, strict=True)
        ]
        if phase != 1:
            for batch, output, terms in zip(batches, outputs, collected, strict=True):
                with self.discriminator.micro_step(last=batch is batches[-1]):
                    self._train_discriminator(output, batch, step, terms)
        terms = collected[0]
        if len(collected) > 1:
            terms = {name: torch.stack([part[name] for part in collected]).mean() for name in terms}
        for name, idle_phase in ((GENERATOR, 2), (DISCRIMINATOR, 1)):
            if phase != idle_phase:
                network = self.networks[name]
                with network.span("optimizer"):
                    norm = network.step(self.learning_rates[name] * lr_scale)
                terms[f"gradient_norm/{name}"] = norm
        if self.ema is not None and phase != 2:
            self.ema.update(self.generator, images_seen, self.config.training.global_batch_size)
        return terms

    @property
    def evaluation_module(self) -> nn.Module:
        """What is judged: the averaged generator, or without an average the one in training."""
        return self.generator.module if self.ema is None else self.ema.module

    def published_generator(self) -> Generator | None:
        """A copy of what is judged, in float32 on the CPU; None on all processes but the main one."""
        weights = self._judged_weights()
        if not self.runtime.is_main:
            return None
        return Generator.of(GeneratorConfig.for_run(self.config), weights, self.reconstruction)

    def keep_reconstruction(self) -> None:
        """Keep the weights that are judged as they are now, before the adversary moves them, to be published too."""
        self.reconstruction = self._judged_weights()

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Weights, average and optimizers' states, copies on the CPU of the main process; empty on the others."""
        tensors: dict[str, dict[str, Tensor]] = {}
        for name, network in self.networks.items():
            tensors |= {name: network.weights(), f"optimizer_{name}": network.optimizer_state()}
        if self.ema is not None:
            tensors[AVERAGE] = self._average()
        return tensors | ({RECONSTRUCTION: self.reconstruction} if self.reconstruction else {})

    def load_state(self, tensors: dict[str, dict[str, Tensor]], step: int) -> None:
        """Take in what `state` gave at `step`, under whichever engine; InpaintError if it is of other networks."""
        for name, network in self.networks.items():
            found = {key: tuple(tensor.shape) for key, tensor in tensors[name].items()}
            if differing := {
                key for key in found.keys() | network.shapes.keys() if found.get(key) != network.shapes.get(key)
            }:
                raise InpaintError(
                    f"the checkpoint of step {step} is of another {name} ({min(differing)} and {len(differing) - 1} "
                    "more differ); give another --run-dir, or the old model settings"
                )
            optimizer = tensors[f"optimizer_{name}"]
            if int(optimizer["num_updates"]):
                network.initialise_state(*self._example_inputs(name))
            network.load_weights(tensors[name])
            network.load_optimizer_state(optimizer)
        if self.ema is not None:
            if AVERAGE not in tensors and self.runtime.is_main:
                log.warning("the checkpoint holds no average; it starts from the generator's weights")
            self.ema.module.load_state_dict(tensors.get(AVERAGE, tensors[GENERATOR]))
        kept = tensors.get(RECONSTRUCTION, {}) if self.runtime.is_main else {}
        # Copied, for they are mapped from a file that will be pruned.
        self.reconstruction = {name: tensor.clone() for name, tensor in kept.items()}

    def _judged_weights(self) -> dict[str, Tensor]:
        return self.generator.weights() if self.ema is None else self._average()

    def _average(self) -> dict[str, Tensor]:
        assert self.ema is not None
        return self.runtime.on_main(self.ema.module.state_dict().items())

    def _example_inputs(self, name: str) -> tuple[Tensor, ...]:
        image = torch.zeros(2, 3, *[self.config.data.image_size] * 2, device=self.runtime.device)
        windows = torch.zeros(2, 2, dtype=torch.int64, device=self.runtime.device)
        return (image, image[:, :1]) if name == GENERATOR else (image, image[:, :1], windows)

    def _generate(self, phase: int, batch: Batch, step: int, terms: Terms, scale: float, last: bool) -> Tensor:
        """The output for a micro batch, without its graph, after the generator's turn where the phase has one."""
        if phase == 2:
            with torch.no_grad(), self.generator.frozen():
                output = self.generator.module(batch.masked_image, batch.mask)
        else:
            with self.generator.micro_step(last):
                output = self.generator(batch.masked_image, batch.mask)
                self._train_generator(output, batch, step, terms, scale if phase == 3 else None)
        output = output.detach()
        if len(output) > 1:
            # How much the outputs differ from one another; near 0 the generator paints one image for all.
            terms["output/batch_std"] = (output.float() - output.float().mean(dim=0)).square().mean(dim=0).sqrt().mean()
        return output

    def _train_generator(self, output: Tensor, batch: Batch, step: int, terms: Terms, scale: float | None) -> None:
        """`scale` is of the adversarial losses' weights; None: without them."""
        seen = self._seen(output, batch, step, self.discriminator.frozen)
        losses, weights = self.losses, self.weights
        if scale is not None:
            losses = losses | self.adversarial_losses
            weights = weights | {name: scale * weights[name] for name in self.adversarial_losses}
        self.generator.backward(self._total(losses, weights, seen, f"loss/{GENERATOR}", terms, output))

    def _train_discriminator(self, output: Tensor, batch: Batch, step: int, terms: Terms) -> None:
        seen = self._seen(output, batch, step, self.discriminator.autocast)
        images, windows = torch.cat([batch.image, seen.generated]), torch.cat([batch.real_windows, batch.windows])
        judgement = self.discriminator(images, torch.cat([batch.mask, batch.mask]), windows)
        seen = replace(seen, judgements=judgement.chunk(2))
        losses, prefix = self.discriminator_losses, f"loss/{DISCRIMINATOR}"
        self.discriminator.backward(self._total(losses, self.weights, seen, prefix, terms, judgement.logits))
        terms["score/real"] = seen.real.logits.detach().float().sigmoid().mean()
        terms["score/fake"] = seen.fake.logits.detach().float().sigmoid().mean()

    def _judge(self, around: Around, *inputs: Tensor, in_float32: bool = False) -> Judgement:
        with ExitStack() as stack:
            stack.enter_context(around())
            if in_float32:
                stack.enter_context(self.discriminator.without_autocast())
                if self.config.training.compile:  # a compiled graph cannot be differentiated twice
                    stack.enter_context(torch.compiler.set_stance("force_eager"))
            return self.discriminator.module(*inputs)

    def _seen(self, output: Tensor, batch: Batch, step: int, around: Around) -> Seen:
        """`around` goes round the discriminator's forward passes that a loss asks for."""
        judge = partial(self._judge, around)
        where = (batch.image, batch.mask, output, batch.windows, batch.real_windows)
        return Seen(*where, step, self.config.loss, self.config.model.discriminator_input == "composite", judge)

    def _total(
        self,
        losses: Mapping[str, Loss],
        weights: Mapping[str, float],
        seen: Seen,
        prefix: str,
        terms: Terms,
        reached: Tensor,
    ) -> Tensor:
        """The weighted sum, with each loss as it is in `terms`; nothing of `reached` where there is none."""
        weighted = []
        for name, loss in losses.items():
            if (value := loss(seen)) is None:
                continue
            if not isinstance(value, Tensor) or value.ndim:
                found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise InpaintError(f"loss {name} returned {found}; it must be a scalar tensor, the mean over images")
            if not value.requires_grad:
                raise InpaintError(f"loss {name} has no gradient and trains nothing; compute it without detach()")
            terms[f"{prefix}/{name}"] = value.detach()
            weighted.append(weights[name] * value)
        return sum(weighted[1:], weighted[0]) if weighted else 0 * reached.float().sum()
