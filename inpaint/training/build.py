"""Owns how both networks begin: built from the config, with weights from the seed or from a saved generator."""

from __future__ import annotations

from pathlib import Path

import torch

from inpaint.config import Config
from inpaint.errors import InpaintError
from inpaint.models.discriminator import Discriminator
from inpaint.models.generator import Generator, GeneratorConfig


def build_networks(config: Config) -> tuple[Generator, Discriminator]:
    """Both networks with their start values, which depend on the seed alone."""
    torch.manual_seed(config.training.seed)
    model, image_size, holes = config.model, config.data.image_size, config.data.hole_spec
    generator = Generator(
        GeneratorConfig(model.width, model.bottleneck, model.mask_channel, model.norm, image_size, holes.max_px)
    )
    discriminator = Discriminator(image_size, holes.window_px, model.width, model.global_average_pooling, model.norm)
    return generator, discriminator


def init_generator(generator: Generator, source: str) -> None:
    """Take the weights of a saved generator of the same shape into a new run.

    Raises:
        InpaintError: it cannot be read or has another shape.
    """
    folder = Path(source) / "generator"
    loaded = Generator.from_pretrained(str(folder) if folder.is_dir() else source)
    if loaded.config != generator.config:
        raise InpaintError(f"--init-from {source} is {loaded.config}, this run's generator is {generator.config}")
    generator.load_state_dict(loaded.state_dict())
