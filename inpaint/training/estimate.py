"""Owns what a run will take, worked out from its networks before it is begun: operations, memory, hours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from inpaint.config import Config
from inpaint.training.task import build_networks

# What a process reaches in training, in TFLOP/s: a CPU core in float32, and large GPUs on narrow and on wide networks.
PACES = {"0.1_tflops": 0.1, "30_tflops": 30.0, "200_tflops": 200.0}
_GIB = 2**30


def estimate(
    config: Config, num_images: int, num_steps: int, shares: dict[int, int], micro: int, world_size: int
) -> dict[str, Any]:
    """For `--dry-run`: GFLOP an image by phase, GiB of a process and of the cache, hours at some paces of a process.

    Forward and backward of both networks are run on tensors that hold nothing. What the losses, the optimizer and the
    judging add is left out: a few percent. Of `num_steps` the phases have `shares`.
    """
    size, batch = config.data.image_size, config.training.global_batch_size
    # Unlike those on `meta`, these may meet what numpy has worked out, and autocast knows their device.
    with FakeTensorMode(allow_non_fake_inputs=True):
        generator, discriminator = build_networks(config)
        image, mask = torch.empty(2, 3, size, size), torch.empty(2, 1, size, size)
        windows = torch.empty(2, 2, dtype=torch.int64)
        fill, filled, kept = _measured(generator, image, mask)
        judge, judged, kept_judged = _measured(discriminator, image, mask, windows)
    # The discriminator sees two images for each, and in phase 3 once more, to pass a gradient through.
    gflop = {1: filled, 2: fill + 2 * judged, 3: filled + 2 * judged + judge + (judged - judge) / 2}
    gflop = {phase: value / 1e9 for phase, value in gflop.items()}
    num_bytes = 2 if config.training.precision in ("bf16", "fp16") else 4
    sizes = {name: sum(p.numel() for p in net.parameters()) for name, net in (("g", generator), ("d", discriminator))}
    # Weights, gradients and Adam's two moments; the average.
    state = 16 * sum(sizes.values()) + (4 * sizes["g"] if config.ema.half_life_kimg is not None else 0)
    activations = micro * (kept + 3 * kept_judged) * num_bytes
    mean = sum(gflop[phase] * share for phase, share in shares.items()) / max(1, sum(shares.values()))
    total = mean * num_steps * batch
    return {
        "gflop_per_image": {phase: round(value, 3) for phase, value in gflop.items()},
        "memory_gib": {
            "weights_and_optimizer": round(state / _GIB, 3),
            "activations": round(activations / _GIB, 3),
            "plan_of_an_epoch": round(num_images * (8 + 24 + 4 / world_size) / _GIB, 3),
            "cache_on_disk": round(num_images / 0.85 * 3 * size**2 / _GIB, 3),
        },
        "hours": {name: round(total / (1e3 * pace * world_size * 3600), 3) for name, pace in PACES.items()},
    }


def _measured(network: nn.Module, *inputs: Tensor) -> tuple[float, float, float]:
    """Of one image: operations of the forward, of forward and backward, and how many numbers the latter keeps."""
    kept: dict[int, Tensor] = {}
    parameters = {id(parameter) for parameter in network.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in parameters:
            kept[id(tensor)] = tensor
        return tensor

    network.train()
    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            output = network(*inputs)
        forward = counter.get_total_flops()
        (output if isinstance(output, Tensor) else output.logits).sum().backward()
    num = len(inputs[0])
    return forward / num, counter.get_total_flops() / num, sum(tensor.numel() for tensor in kept.values()) / num
