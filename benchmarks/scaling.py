"""A model of 1 to 1024 GPUs: how much of their time is work, from a step's seconds and the bytes it must exchange.

Gradients of one network are reduced while its backward still runs: within a machine over its own links, between
machines each GPU its eighth over its own adapter (rings). What does not fit under the backward is waited for. Every
process works at its own pace but for that; a small share is lost to the slowest of many (`STRAGGLING` for each
doubling).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.measuring import Figure
from inpaint.resolve import load_config
from inpaint.training.task import build_networks

# Stated by the makers, each way and GPU: NVLink 4, and one 400 Gb/s adapter a GPU.
NVLINK_BYTES_S, ADAPTER_BYTES_S = 450e9, 50e9
NVLINK_LATENCY_S, ADAPTER_LATENCY_S = 5e-6, 10e-6
GPUS_PER_MACHINE = 8
BUCKET_BYTES = 25 * 2**20
BACKWARD_SHARE = 0.6
STRAGGLING = 0.002


@dataclass(frozen=True)
class StepTime:
    """Seconds of one GPU's step as a function of its images: what the launch of kernels takes, or the work."""

    floor_s: float
    image_s: float

    def __call__(self, images: float) -> float:
        return max(self.floor_s, images * self.image_s)


# 10 GFLOP an image at 300 TFLOP/s, and a few hundred kernels; gpu_check.py measures both.
ASSUMED = StepTime(floor_s=2.5e-3, image_s=10e9 / 300e12)


def reduction_s(num_gpus: int, num_bytes: float) -> float:
    """Seconds to add up gradients of `num_bytes` over `num_gpus`, if nothing else uses the links."""
    local = min(num_gpus, GPUS_PER_MACHINE)
    machines = math.ceil(num_gpus / GPUS_PER_MACHINE)
    buckets = math.ceil(num_bytes / BUCKET_BYTES)
    inside = 2 * (local - 1) / local * num_bytes / NVLINK_BYTES_S + buckets * 2 * (local - 1) * NVLINK_LATENCY_S
    between = 2 * (machines - 1) / machines * num_bytes / local / ADAPTER_BYTES_S
    # Trees, not rings, beyond a few machines: the latency grows with the logarithm.
    return inside + between + buckets * 2 * math.ceil(math.log2(machines)) * ADAPTER_LATENCY_S


def efficiency(num_gpus: int, images: float, num_bytes: float, step: StepTime = ASSUMED) -> float:
    """Share of the time that is work, at so many images a GPU in each step."""
    work = step(images)
    buckets = math.ceil(num_bytes / BUCKET_BYTES)
    spent = reduction_s(num_gpus, num_bytes)
    # The last bucket is ready only when the backward is over.
    waited = max(spent - BACKWARD_SHARE * work, spent / buckets) if num_gpus > 1 else 0.0
    return work / (work * (1 + STRAGGLING * math.log2(num_gpus)) + waited)


def smallest_batch(num_gpus: int, num_bytes: float, step: StepTime = ASSUMED, wanted: float = 0.9) -> int:
    """The smallest power of two of images a GPU at which `wanted` is reached."""
    return next(2**power for power in range(21) if efficiency(num_gpus, 2**power, num_bytes, step) >= wanted)


def run() -> list[Figure]:
    networks = build_networks(load_config("paper/final"))
    num_bytes = [4 * sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    figures = []
    for num_gpus in (1, 8, 64, 256, 1024):
        note = f"assumed: {ASSUMED.image_s * 1e6:.0f} us an image, at least {ASSUMED.floor_s * 1e3:.1f} ms a step"
        for name, size, images in (("both networks", sum(num_bytes), 128), ("generator", num_bytes[0], 128)):
            value = 100 * efficiency(num_gpus, images, size)
            what = f"{num_gpus} GPU(s), {images} images each, {name} ({size / 1e6:.0f} MB)"
            figures.append(Figure(what, value, "% work", None, note))
        batch = smallest_batch(num_gpus, sum(num_bytes))
        figures.append(
            Figure(f"{num_gpus} GPU(s): smallest batch a GPU for 90%", batch, "images", None, "phase 3, both networks")
        )
    return figures
