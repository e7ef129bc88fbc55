"""A model of 1 to 1024 GPUs: how much of their time is work, from a step's seconds and what it must exchange.

Gradients of one network are reduced while its backward still runs: within a machine over its own links, between
machines each GPU its eighth over its own adapter (rings). What does not fit under the backward is waited for. BatchNorm
reduces its statistics twice a layer and micro batch, and nothing else runs meanwhile: what counts is the latency. What
is reduced follows from the networks; tests/test_growth.py counts it in real steps. The flag that all agree on, the
checkpoint's copy and the drawing of holes cost only what does not fit beside a step. Every process works at its own
pace but for that; a small share is lost to the slowest of many (`STRAGGLING` for each doubling).

`python -m benchmarks.scaling --help` has all figures as flags: for another machine, network or batch.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from torch import nn

from benchmarks.measuring import Figure, table
from inpaint.config import Config
from inpaint.distributed.collectives import RING_AT_MOST
from inpaint.distributed.tree import CHILDREN
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


@dataclass(frozen=True)
class Links:
    """What a machine's GPUs talk over; bytes a second each way and GPU, seconds of a message."""

    nvlink_bytes_s: float = NVLINK_BYTES_S
    adapter_bytes_s: float = ADAPTER_BYTES_S
    nvlink_latency_s: float = NVLINK_LATENCY_S
    adapter_latency_s: float = ADAPTER_LATENCY_S
    gpus_per_machine: int = GPUS_PER_MACHINE

    def latency_s(self, num_gpus: int) -> float:
        """Of a reduction of next to nothing: up and down a tree, between machines and within each."""
        local = min(num_gpus, self.gpus_per_machine)
        machines = math.ceil(num_gpus / self.gpus_per_machine)
        within = 2 * math.ceil(math.log2(local)) * self.nvlink_latency_s
        return within + 2 * math.ceil(math.log2(machines)) * self.adapter_latency_s


@dataclass(frozen=True)
class Exchanged:
    """By one process in a step of one micro batch: what it hands in, not what the links then carry."""

    gradient_bytes: int
    norm_reductions: int
    norm_bytes: int


def exchanged(config: Config, phase: int) -> Exchanged:
    """Of each network that a step of `phase` trains: the gradients once, each BatchNorm's statistics and sums once."""
    generator, discriminator = build_networks(config)
    by_phase: dict[int, list[nn.Module]] = {1: [generator], 2: [discriminator], 3: [generator, discriminator]}
    trained = by_phase[phase]
    channels = [
        layer.num_features for network in trained for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)
    ]
    # Forward: mean and mean square in float64; backward: two sums in float32.
    norm_bytes = sum(2 * 8 * each + 2 * 4 * each for each in channels)
    gradients = sum(4 * parameter.numel() for network in trained for parameter in network.parameters())
    return Exchanged(gradients, 2 * len(channels), norm_bytes)


@dataclass(frozen=True)
class Job:
    """What is trained, as far as its pace depends on it.

    `images` are a GPU's in one micro batch; `draw_s` is what one image's hole takes a core; a copy of
    `checkpoint_bytes` is made every `checkpoint_every_s`.
    """

    exchanged: Exchanged
    images: int
    accumulation: int = 1
    step: StepTime = ASSUMED
    links: Links = field(default_factory=Links)
    message_s: float = 1e-4
    draw_s: float = 3e-6
    checkpoint_bytes: float = 452e6
    checkpoint_every_s: float = 600.0
    copy_bytes_s: float = 10e9


def step_parts(num_gpus: int, job: Job) -> dict[str, float]:
    """Seconds of one optimizer step, by what is waited for; their sum is its length."""
    work = job.accumulation * job.step(job.images)
    parts = {"work": work, "the slowest": work * STRAGGLING * math.log2(num_gpus)}
    if num_gpus > 1:
        buckets = math.ceil(job.exchanged.gradient_bytes / BUCKET_BYTES)
        spent = reduction_s(num_gpus, job.exchanged.gradient_bytes, job.links)
        # The last bucket is ready only when the backward is over.
        hidden = BACKWARD_SHARE * job.step(job.images)
        parts["gradients"] = max(spent - hidden, spent / buckets)
        parts["BatchNorm"] = job.accumulation * job.exchanged.norm_reductions * job.links.latency_s(num_gpus)
    so_far = sum(parts.values())
    # Flags are acted upon two steps later, holes drawn beside training: only what is slower than steps is waited for.
    parts["agreement"] = max(0.0, agreement_s(num_gpus, job.message_s) / 2 - so_far)
    parts["holes"] = max(0.0, job.accumulation * job.images * job.draw_s - so_far)
    parts["checkpoint"] = so_far * job.checkpoint_bytes / job.copy_bytes_s / job.checkpoint_every_s
    return parts


def agreement_s(num_gpus: int, message_s: float) -> float:
    """Of the flag that each step exchanges over the machines' ordinary network: a ring, or beyond some GPUs a tree."""
    if num_gpus <= RING_AT_MOST:
        return 2 * (num_gpus - 1) * message_s
    depth = math.ceil(math.log(num_gpus * (CHILDREN - 1) + 1, CHILDREN)) - 1
    return 2 * depth * message_s


def share_of_work(num_gpus: int, job: Job) -> float:
    parts = step_parts(num_gpus, job)
    return parts["work"] / sum(parts.values())


def first_below(job: Job, wanted: float = 0.9, most: int = 1024) -> int | None:
    """The smallest power of two of GPUs at which less than `wanted` is work; None: not up to `most`."""
    counts = (2**power for power in range(most.bit_length()))
    return next((count for count in counts if share_of_work(count, job) < wanted), None)


def remedies(num_gpus: int, job: Job, wanted: float = 0.9) -> Iterator[tuple[str, float]]:
    """The least of each change, and of two together, that reaches `wanted` there; with what they reach."""
    without_norm = replace(job.exchanged, norm_reductions=0, norm_bytes=0)
    for name, base in (("", job), ("GroupNorm and ", replace(job, exchanged=without_norm))):
        if name and not job.exchanged.norm_reductions:
            return
        if name and (reached := share_of_work(num_gpus, base)) >= wanted:
            yield "GroupNorm (model.norm = group)", reached
            return
        for factor in (2**power for power in range(1, 7)):
            if (reached := share_of_work(num_gpus, replace(base, images=factor * job.images))) >= wanted:
                yield f"{name}{factor} x the images a GPU ({factor * job.images})", reached
                break
        for factor in (2**power for power in range(1, 7)):
            more = replace(base, accumulation=factor * job.accumulation)
            if (reached := share_of_work(num_gpus, more)) >= wanted:
                yield f"{name}{factor} micro batches accumulated", reached
                break


def reduction_s(num_gpus: int, num_bytes: float, links: Links = Links()) -> float:
    """Seconds to add up gradients of `num_bytes` over `num_gpus`, if nothing else uses the links."""
    local = min(num_gpus, links.gpus_per_machine)
    machines = math.ceil(num_gpus / links.gpus_per_machine)
    buckets = math.ceil(num_bytes / BUCKET_BYTES)
    latency = buckets * 2 * (local - 1) * links.nvlink_latency_s
    inside = 2 * (local - 1) / local * num_bytes / links.nvlink_bytes_s + latency
    between = 2 * (machines - 1) / machines * num_bytes / local / links.adapter_bytes_s
    # Trees, not rings, beyond a few machines: the latency grows with the logarithm.
    return inside + between + buckets * 2 * math.ceil(math.log2(machines)) * links.adapter_latency_s


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description="Up to 1024 GPUs, by a model.")
    flags.add_argument("--preset", default="paper/final", help="the networks and losses")
    flags.add_argument("--phase", type=int, choices=(1, 2, 3), default=3)
    flags.add_argument("--norm", choices=("batch", "group", "none"), help="model.norm, if not the preset's")
    flags.add_argument("--images", type=int, default=128, help="of a GPU in one micro batch")
    flags.add_argument("--accumulation", type=int, default=1, help="micro batches in a step")
    flags.add_argument("--image-us", type=float, default=1e6 * ASSUMED.image_s, help="work of an image on one GPU")
    flags.add_argument("--floor-ms", type=float, default=1e3 * ASSUMED.floor_s, help="of a step: launching kernels")
    flags.add_argument("--nvlink-gb-s", type=float, default=NVLINK_BYTES_S / 1e9, help="a GPU, each way")
    flags.add_argument("--adapter-gb-s", type=float, default=ADAPTER_BYTES_S / 1e9, help="InfiniBand a GPU, each way")
    flags.add_argument("--nvlink-us", type=float, default=1e6 * NVLINK_LATENCY_S, help="latency of a message")
    flags.add_argument("--adapter-us", type=float, default=1e6 * ADAPTER_LATENCY_S, help="latency of a message")
    flags.add_argument("--gpus-per-machine", type=int, default=GPUS_PER_MACHINE)
    flags.add_argument("--message-us", type=float, default=100.0, help="of TCP, between two processes")
    flags.add_argument("--draw-us", type=float, default=3.0, help="of a core, for one image's hole; mixed kinds: 38")
    flags.add_argument("--checkpoint-every-s", type=float, default=600.0)
    flags.add_argument("--wanted", type=float, default=0.9, help="share of the time that shall be work")
    return flags


def job_of(arguments: argparse.Namespace) -> Job:
    config = load_config(arguments.preset, {"model.norm": arguments.norm} if arguments.norm else {})
    links = Links(
        1e9 * arguments.nvlink_gb_s,
        1e9 * arguments.adapter_gb_s,
        1e-6 * arguments.nvlink_us,
        1e-6 * arguments.adapter_us,
        arguments.gpus_per_machine,
    )
    return Job(
        exchanged(config, arguments.phase),
        arguments.images,
        arguments.accumulation,
        StepTime(1e-3 * arguments.floor_ms, 1e-6 * arguments.image_us),
        links,
        1e-6 * arguments.message_us,
        1e-6 * arguments.draw_us,
        # Both networks' weights and moments, and the average.
        checkpoint_bytes=3 * exchanged(config, 3).gradient_bytes + exchanged(config, 1).gradient_bytes,
        checkpoint_every_s=arguments.checkpoint_every_s,
    )


def run(words: list[str] | None = None) -> list[Figure]:
    arguments = parser().parse_args(words or [])
    job = job_of(arguments)
    reduced = job.exchanged
    about = f"{arguments.preset}, phase {arguments.phase}, {job.images} images a GPU"
    figures = [
        Figure(f"{about}: gradients reduced a step", reduced.gradient_bytes / 1e6, "MB"),
        Figure(
            f"{about}: BatchNorm's reductions a micro batch",
            reduced.norm_reductions,
            "",
            None,
            f"{reduced.norm_bytes / 1e3:.0f} kB in all",
        ),
    ]
    for num_gpus in (1, 8, 16, 64, 256, 1024):
        parts = step_parts(num_gpus, job)
        whole = sum(parts.values())
        lost = ", ".join(f"{name} {100 * part / whole:.1f}%" for name, part in parts.items() if part > 0.0005 * whole)
        figures.append(Figure(f"{num_gpus} GPU(s)", 100 * parts["work"] / whole, "% work", None, lost))
    below = first_below(job, arguments.wanted)
    if below is None:
        figures.append(Figure(f"work stays above {100 * arguments.wanted:g}% up to", 1024, "GPUs"))
        return figures
    figures.append(Figure(f"work falls below {100 * arguments.wanted:g}% at", below, "GPUs"))
    for num_gpus in sorted({below, 1024}):
        for what, reached in remedies(num_gpus, job, arguments.wanted):
            figures.append(Figure(f"at {num_gpus} GPUs, {what}", 100 * reached, "% work"))
    return figures


if __name__ == "__main__":
    import sys

    print(table(run(sys.argv[1:])))
