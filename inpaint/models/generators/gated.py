"""Owns `gated`: `smooth_prior` with gated convolutions (Yu et al. 2019), which learn where a value counts."""

from __future__ import annotations

from dataclasses import replace

from inpaint.models.generator import GeneratorConfig
from inpaint.models.generators.smooth_prior import SmoothPriorGenerator


class GatedGenerator(SmoothPriorGenerator):
    """The same layers with half the channels, as in Yu et al. 2019, since each convolution computes gates as well."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(replace(config, width=max(2, config.width // 4 * 2)), is_gated=True)
        # Measured as that of `smooth_prior`.
        self.inference_bytes_per_px = 22 * config.width + 60
