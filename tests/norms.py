"""BatchNorm as it is tested, on CPUs and GPUs: cases, a layer, and two steps of training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Case(NamedTuple):
    """`offset`: how far the channels' means lie from zero, about."""

    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    order: torch.memory_format = torch.channels_last
    offset: float = 3.0

    @property
    def of_parameters(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def tensors(self) -> list[list[Tensor]]:
        """Inputs and output's gradients of two steps, of the whole batch."""
        torch.manual_seed(0)
        channels = self.shape[1]
        scale, shift = torch.rand(channels, 1, 1) * 3 + 0.2, torch.randn(channels, 1, 1) * self.offset
        inputs = [torch.randn(self.shape) * scale + shift for _ in range(2)]
        gradients = [torch.randn(self.shape) for _ in range(2)]
        return [[t.to(self.dtype).to(memory_format=self.order) for t in each] for each in (inputs, gradients)]


def trained(layer: nn.BatchNorm2d, inputs: list[Tensor], gradients: list[Tensor]) -> dict[str, Tensor]:
    """Two steps of training; what came of the last."""
    for input, gradient in zip(inputs, gradients, strict=True):
        layer.zero_grad()
        leaf = input.clone().requires_grad_()
        output = layer(leaf)
        output.backward(gradient)
    assert leaf.grad is not None and layer.weight.grad is not None and layer.bias.grad is not None
    of_parameters = {"weight": layer.weight.grad, "bias": layer.bias.grad}
    return {"output": output.detach(), "input": leaf.grad, **of_parameters, **dict(layer.named_buffers())}


def make_layer(channels: int, dtype: torch.dtype) -> nn.BatchNorm2d:
    torch.manual_seed(1)
    layer = nn.BatchNorm2d(channels, dtype=dtype)
    nn.init.uniform_(layer.weight, 0.5, 2)
    nn.init.uniform_(layer.bias, -1, 1)
    return layer


def close(name: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, msg=lambda text: f"{name}: {text}")
