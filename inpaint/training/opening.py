"""Owns what a run is opened with, before it trains: what its settings name, its folder, its images; or a dry run.

`launch` imports it when it is wanted: it takes seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from inpaint.arguments import Options
from inpaint.config import Config
from inpaint.data.cache import StoppedError
from inpaint.data.decoded import DecodedSplit, SyntheticSpec, num_training_images, open_images
from inpaint.data.hole_statistics import hole_statistics
from inpaint.data.stream import Stream, find_shards
from inpaint.distributed.collectives import Collectives
from inpaint.distributed.launcher import divide_batch, settle
from inpaint.distributed.runtime import Runtime
from inpaint.distributed.store import once_each
from inpaint.errors import UsageError
from inpaint.evaluation.metrics import all_metrics
from inpaint.holes.kinds import HoleMixture
from inpaint.losses.frozen_features import frozen_network
from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.processes import rank_and_world_size
from inpaint.sources.keys import SPLITS, Split
from inpaint.tables import ADVERSARIAL_LOSSES, DISCRIMINATOR_LOSSES, DISCRIMINATORS, LOSSES, METRICS, load
from inpaint.training.estimate import estimate
from inpaint.training.evaluator import distance_network
from inpaint.training.run_directory import RunDirectory
from inpaint.training.saved_generator import init_generator
from inpaint.training.schedule import Phases
from inpaint.training.task import build_networks, losses_of
from inpaint.training.tracking import require_tracker


def load_entries(config: Config) -> None:
    """Import all of `tables.py` that a run will use: what is broken there is told before anything is done."""
    all_metrics()
    HoleMixture(config.data.hole_kinds, config.data.hole_spec)
    GeneratorConfig.for_run(config)
    load(DISCRIMINATORS, config.model.discriminator)
    for table in (LOSSES, ADVERSARIAL_LOSSES, DISCRIMINATOR_LOSSES):
        losses_of(config, table)
    if config.loss.penalties:
        _refuse_coupled_images(config)
    _require_feature_network(config)


def _refuse_coupled_images(config: Config) -> None:
    """Raise UsageError where an image's logits depend on others of its micro batch, and so its slope on all of them."""
    with torch.device("meta"):
        discriminator = build_networks(config)[1]
    if any(isinstance(layer, _BatchNorm) for layer in discriminator.modules()):
        raise UsageError(
            f"loss.terms {' and '.join(config.loss.penalties)}: a slope of each image by itself, which BatchNorm in "
            f"the discriminator {config.model.discriminator} (model.norm = {config.model.norm}) couples to the others "
            "of its batch; for model.norm use group or none, or model.discriminator = patch"
        )


def _require_feature_network(config: Config) -> None:
    """Raise UsageError where it is asked for and not installed, or would judge what was trained to please it."""
    weighs = bool(config.loss.terms.get("frozen_features"))
    if weighs and config.evaluation.best_by == "distance":
        raise UsageError(
            "evaluation.best_by = distance measures with the network that loss.terms.frozen_features trains on, and "
            "would prefer what pleases it to what looks right; set it to hole_psnr or last, or leave the term out"
        )
    distance_network(config)
    if weighs:
        frozen_network(torch.device("cpu"), torch.float32)


def settled(config: Config, options: Options, group: ProcessGroup | None = None) -> Config:
    """With what `auto` and null stand for in this run; the main process, which has the run's folder, decides."""
    is_going_on = options.resume and rank_and_world_size()[0] == 0
    kept = RunDirectory(options.run_dir).saved_config().get("training", {}) if is_going_on else {}
    ours = settle(config, kept).training.model_dump(include={"precision", "num_threads"})
    return settle(config, Collectives(group).broadcast(ours))


def open_run(run: RunDirectory, config: Config, options: Options) -> None:
    """Take the run's folder, on the main process alone, once what the settings ask for is known to be there.

    Raises: as `RunDirectory.open`, and InpaintError where `--init-from` names no generator of this run's shape.
    """
    require_tracker(config.training.tracker)
    if options.init_from is not None and options.resume and any(run.path.glob("checkpoints/*step_*")):
        print("--init-from is for a new run and not used; this one goes on from its own checkpoint", file=sys.stderr)
    elif options.init_from is not None:
        init_generator(Generator(GeneratorConfig.for_run(config)), options.init_from)
    for change in run.open(config, options.resume, options.overwrite):
        print(f"changed since this run was last started: {change}", file=sys.stderr)


def open_splits(
    runtime: Runtime, config: Config, wants_stop: Callable[[], bool]
) -> dict[Split, DecodedSplit | Stream] | None:
    """The images by split; decoded by the processes of each machine together, for as long as that takes.

    None where `wants_stop` said so meanwhile; what is decoded is kept.
    """
    data = config.data
    train = open_stream(config) if data.streaming else None
    if train is not None and runtime.is_main:
        train.warn_of_sharing(runtime.world_size)
    once_a_job, once_a_machine = once_each(runtime.rank, runtime.world_size)
    try:
        images: dict[Split, Any] = open_images(
            data.path,
            data.hole_spec,
            cache_dir=Path(data.cache_dir) if data.cache_dir else None,
            max_bad_fraction=data.max_bad_fraction,
            synthetic=SyntheticSpec.of(data),
            show_progress=runtime.is_main,
            splits=SPLITS[1:] if data.streaming else SPLITS,
            once_a_job=once_a_job,
            once_a_machine=once_a_machine,
            wants_stop=wants_stop,
        )
    except StoppedError:
        return None
    if train is not None:
        images["train"] = train
    num, batch = len(images["train"]), config.training.global_batch_size
    if num < batch:
        raise UsageError(
            f"training.global_batch_size = {batch} is larger than the {num} training images; use a smaller batch or "
            "more images"
        )
    return images


def open_stream(config: Config) -> Stream:
    """The training split where it is streamed."""
    data, batch = config.data, config.training.global_batch_size
    assert data.path is not None
    return Stream(find_shards(data.path), data.hole_spec, batch, data.stream_window, data.max_bad_fraction)


def dry_run(config: Config, world_size: int) -> None:
    """Print as YAML what this config amounts to."""
    load_entries(config)
    micro, accumulation = divide_batch(config.training.global_batch_size, config.training.micro_batch_size, world_size)
    generator, discriminator = (sum(p.numel() for p in network.parameters()) for network in build_networks(config))
    facts: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "parameters": {"generator": generator, "discriminator": discriminator, "total": generator + discriminator},
        "batch": {"global": config.training.global_batch_size, "micro": micro, "accumulation": accumulation},
    }
    num = config.data.synthetic_train
    if config.data.path is not None:
        num = len(open_stream(config)) if config.data.streaming else num_training_images(config.data.path)
    steps = num // config.training.global_batch_size
    facts["training_pictures"], facts["steps_per_epoch"] = num, steps
    facts["steps"] = min(steps * config.training.epochs, config.training.max_steps or steps * config.training.epochs)
    phases = Phases(config.training, steps, facts["steps"] * config.training.global_batch_size)
    facts["steps_per_phase"] = dict(zip((1, 2, 3), phases.steps, strict=True))
    shares = facts["steps_per_phase"]
    facts["estimate"] = estimate(config, num, facts["steps"], shares, micro, world_size)
    facts["metrics"] = list(METRICS)
    if config.data.holes == "resampled":
        facts["holes"] = hole_statistics(config.data, config.training.seed)
    if rank_and_world_size()[0] == 0:
        print(yaml.safe_dump(facts, sort_keys=False), end="")
