"""Owns BatchNorm over all processes, so that its statistics are those of the global batch whatever the machine."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncBatchNormCPU(nn.BatchNorm2d):
    """What torch.nn.SyncBatchNorm is for GPUs: statistics over the batches of all processes, with their gradient."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        count = input.numel() / input.shape[1] * dist.get_world_size()
        mean = _AllReduceSum.apply(input.sum(dim=(0, 2, 3))) / count
        centred = input - mean[None, :, None, None]
        variance = _AllReduceSum.apply(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            momentum = self.momentum if self.momentum is not None else 0.1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale[None, :, None, None] + self.bias[None, :, None, None]


class _AllReduceSum(torch.autograd.Function):
    """The sum over processes; the gradient of a sum that every process uses is again a sum over processes."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def synchronise_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with every BatchNorm replaced by one over all processes; parameters and names stay."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNormCPU
    return network
