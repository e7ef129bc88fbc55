"""Owns BatchNorm over all processes, so that its statistics are those of the global batch whatever the machine."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

# torch 2.13 renamed it and warns of the old name.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes, which must be of one size; statistics in float32 at least.

    torch.nn.SyncBatchNorm knows no CPU. On a GPU it waits for the device three times a layer, to leave out processes
    whose batch is empty; here none is.
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
        if input.device.type == "cpu":
            # It would also move running statistics, by those of this process: it is given others.
            own = torch.batch_norm_update_stats(input, running_mean.clone(), running_var.clone(), 0.0)
            means, variances = _of_all(*own)
            mean, variance = means.mean(dim=0), variances.mean(dim=0) + means.var(dim=0, correction=0)
            total = ctx.count * len(means)
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * (total / (total - 1)), momentum)
            ctx.save_for_backward(input, weight, mean, variance)
            return nn.functional.batch_norm(input, mean, variance, weight, bias, eps=eps)
        means, inverse_stds = _of_all(*torch.batch_norm_stats(input, eps))
        counts = means.new_full((len(means),), ctx.count)
        mean, inverse_std = torch.batch_norm_gather_stats_with_counts(
            input, means, inverse_stds, running_mean, running_var, momentum, eps, counts
        )
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


def _of_all(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Two values for each channel, of every process: [processes, C] each."""
    own = torch.cat([one, other])
    gathered = own.new_empty(dist.get_world_size() * len(own))
    _all_gather(gathered, own)
    by_process = gathered.view(-1, 2, len(one))
    return by_process[:, 0], by_process[:, 1]


def _dense(values: Tensor) -> Tensor:
    return values if values.is_contiguous(memory_format=torch.channels_last) else values.contiguous()


def synchronise_batch_norm(network: nn.Module) -> None:
    """Make every BatchNorm one over all processes; parameters and names stay."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm
