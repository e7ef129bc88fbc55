"""Owns how both networks begin: built from the config, with weights from the seed."""

from __future__ import annotations

import torch

from inpaint.config import Config
from inpaint.models.discriminator import Discriminator
from inpaint.models.generator import Generator, GeneratorConfig


def build_networks(config: Config) -> tuple[Generator, Discriminator]:
    """Both networks with their start values, which depend on the seed alone."""
    torch.manual_seed(config.training.seed)
    model, data = config.model, config.data
    generator = Generator(generator_config(config))
    discriminator = Discriminator(
        data.image_size, data.hole_spec.window_px, model.width, model.global_average_pooling, model.norm
    )
    return generator, discriminator


def generator_config(config: Config) -> GeneratorConfig:
    """The shape of a run's generator."""
    model, data = config.model, config.data
    return GeneratorConfig(
        model.width, model.bottleneck, model.mask_channel, model.norm, data.image_size, data.hole_spec.max_px
    )
