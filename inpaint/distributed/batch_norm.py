"""Owns BatchNorm over all processes, so that its statistics are those of the global batch whatever the machine."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes, which must be of one size; statistics in float32 at least.

    torch.nn.SyncBatchNorm knows no CPU. On a GPU it waits for the device three times a layer, to leave out processes
    whose batch is empty; here none is. And in each process it gathers the statistics of all, in as many messages after
    one another as there are processes; here their sums are reduced, as gradients are, which NCCL does by trees.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        running = (self.running_mean, self.running_var, self.momentum)
        return _Normalise.apply(_dense(input), self.weight, self.bias, *running, self.eps)


class _Normalise(torch.autograd.Function):
    """Each process reduces its own batch and combines the results of all; the same for the sums of the gradient.

    On GPUs with the kernels behind torch.nn.SyncBatchNorm, which CPUs lack.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        ctx.count, ctx.eps = input.numel() // input.shape[1], eps
        is_cpu = input.device.type == "cpu"
        if is_cpu:
            # It would also move running statistics, by those of this process: it is given others.
            own = torch.batch_norm_update_stats(input, running_mean.clone(), running_var.clone(), 0.0)
        else:
            own_mean, own_inverse_std = torch.batch_norm_stats(input, eps)
            own = own_mean, own_inverse_std.double().square().reciprocal() - eps
        mean, variance = _of_all(*own)
        total = ctx.count * dist.get_world_size()
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((variance * (total / (total - 1))).to(running_var.dtype), momentum)
        if is_cpu:
            ctx.save_for_backward(input, weight, mean, variance)
            return nn.functional.batch_norm(input, mean, variance, weight, bias, eps=eps)
        inverse_std = torch.rsqrt(variance + eps)
        ctx.save_for_backward(input, weight, mean, inverse_std)
        return torch.batch_norm_elemt(input, weight, bias, mean, inverse_std, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradient, world_size = _dense(gradient), dist.get_world_size()
        if gradient.device.type == "cpu":
            input, weight, mean, variance = ctx.saved_tensors
            _, for_weight, for_bias = torch.ops.aten.native_batch_norm_backward(
                gradient, input, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
            )
            sums = torch.stack([for_bias, for_weight])
            dist.all_reduce(sums)
            means = sums / (ctx.count * world_size)
            # With n the normalised input: weight / std * (gradient - mean(gradient) - n * mean(gradient * n)).
            inverse_std = torch.rsqrt(variance + ctx.eps)
            scale = weight * inverse_std
            shift, slope, scale, mean = (
                value[:, None, None] for value in (-scale * means[0], -scale * inverse_std * means[1], scale, mean)
            )
            for_input = torch.addcmul(shift, input - mean, slope).addcmul_(gradient.to(mean.dtype), scale)
            return for_input.to(input.dtype), for_weight, for_bias, None, None, None, None
        input, weight, mean, inverse_std = ctx.saved_tensors
        statistics = (mean, inverse_std, weight)
        *own, for_weight, for_bias = torch.batch_norm_backward_reduce(gradient, input, *statistics, True, True, True)
        sums = torch.stack(own)
        dist.all_reduce(sums)
        counts = torch.full((world_size,), ctx.count, dtype=torch.int32, device=gradient.device)
        for_input = torch.batch_norm_backward_elemt(gradient, input, *statistics, sums[0], sums[1], counts)
        return for_input, for_weight, for_bias, None, None, None, None


def _of_all(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Of the batches of all processes together, from each one's own: [C] each, in the mean's type.

    As many bytes whatever the number of processes. In float64, since a square less another would lose a small variance
    beside a large mean.
    """
    mean64 = mean.double()
    sums = torch.stack([mean64, variance.double() + mean64.square()])
    dist.all_reduce(sums)
    whole, square = sums / dist.get_world_size()
    return whole.to(mean.dtype), (square - whole.square()).clamp_(min=0).to(mean.dtype)


def _dense(values: Tensor) -> Tensor:
    return values if values.is_contiguous(memory_format=torch.channels_last) else values.contiguous()


def synchronise_batch_norm(network: nn.Module) -> None:
    """Make every BatchNorm one over all processes; parameters and names stay."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm
