"""Owns the exponential moving average of the generator, the weights that are evaluated and published."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inpaint.config import EmaConfig
from inpaint.distributed.network import Network, by_dtype, memory_format


class Ema:
    """Average parameters with a half-life in images, so that the batch size does not change it (Karras et al.).

    BatchNorm's statistics are averaged with the weights they belong to: those of the moment, beside averaged weights,
    cost up to 4 dB at high rates (benchmarks/RESULTS.md). Its counts are copied. Equal on all processes without
    communication, but under ZeRO-3, where each update gathers the generator's weights. `module`, a generator of the
    same shape with the same start values, becomes the average.
    """

    def __init__(self, module: nn.Module, config: EmaConfig) -> None:
        # In the memory layout of the generator in training, so that the average takes one pass over all weights.
        order = memory_format(next(module.parameters()).device)
        self.module = module.eval().requires_grad_(False).to(memory_format=order)  # type: ignore[call-overload]
        self.config = config
        self._parameters: list[Tensor] = list(module.parameters())
        self._buffers = by_dtype(module.buffers())

    @torch.no_grad()
    def update(self, network: Network, images_seen: int, batch_size: int) -> None:
        """After a step of `network` on `batch_size` images, the last of `images_seen`."""
        assert self.config.half_life_kimg is not None
        half_life = min(self.config.half_life_kimg * 1000, images_seen * self.config.ramp_up)
        keep = 0.5 ** (batch_size / max(half_life, 1e-8))
        with network.full_parameters():
            torch._foreach_lerp_(self._parameters, network.parameters, 1 - keep)
        for dtype, copies in self._buffers.items():
            if dtype.is_floating_point:
                torch._foreach_lerp_(copies, network.buffers[dtype], 1 - keep)
            else:
                torch._foreach_copy_(copies, network.buffers[dtype])
