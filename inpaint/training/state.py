"""Owns what a checkpoint means: where the run stands, and how its networks, averages and optimizers go out and in."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor

from inpaint.config import Config
from inpaint.data.batches import Feed, plan_epoch
from inpaint.distributed.network import Network
from inpaint.distributed.runtime import Runtime
from inpaint.errors import InpaintError
from inpaint.sources.keys import KEY_RULE
from inpaint.training.checkpoint import CheckpointStore
from inpaint.training.ema import Ema
from inpaint.training.identity import another_run, is_same_place
from inpaint.training.meter import NonFiniteError

log = logging.getLogger(__name__)

GENERATOR, EMA, DISCRIMINATOR = "generator", "generator_ema", "discriminator"


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: optimizer step cycles done.
        epoch: the one under way, from 1.
        position: its steps done; at the end of an epoch this is all of them.
        images_seen: pictures trained on.
        evaluated_epoch: the last epoch that was judged.
        best_hole_psnr: the best validation figure so far, in dB, and
        best_step: when that was; 0 if never.
        skipped: [epoch, position] of batches left out because they made the loss not finite.
        rollbacks: how often the run went back to a checkpoint for that.
        seconds: time spent training.
    """

    step: int = 0
    epoch: int = 1
    position: int = 0
    images_seen: int = 0
    evaluated_epoch: int = 0
    best_hole_psnr: float = 0.0
    best_step: int = 0
    skipped: list[list[int]] = field(default_factory=list)
    rollbacks: int = 0
    seconds: float = 0.0

    def advance(self, num_pictures: int) -> None:
        self.step += 1
        self.position += 1
        self.images_seen += num_pictures

    def next_epoch(self) -> None:
        self.epoch, self.position = self.epoch + 1, 0


def save_state(
    store: CheckpointStore,
    runtime: Runtime,
    generator: Network,
    discriminator: Network,
    ema: Ema | None,
    progress: Progress,
    config: Config,
    data_digest: str = "",
) -> None:
    """Begin a checkpoint; every process gathers, the main one writes in the background.

    Args:
        data_digest: of the data that the run is trained on; see `identity.digest_of`.
    """
    tensors = {
        GENERATOR: generator.weights(),
        DISCRIMINATOR: discriminator.weights(),
        f"optimizer_{GENERATOR}": generator.optimizer_state(),
        f"optimizer_{DISCRIMINATOR}": discriminator.optimizer_state(),
    }
    if ema is not None:
        tensors[EMA] = runtime.on_main(ema.module.state_dict().items())
    if runtime.is_main:
        state = {
            **asdict(progress),
            "global_batch_size": config.training.global_batch_size,
            "config": config.model_dump(mode="json"),
            "data_digest": data_digest,
            "key_rule": KEY_RULE,
            "versions": {name: version(name) for name in ("inpaint", "torch", "accelerate")},
        }
        store.save(progress.step, tensors, state)


def load_state(
    store: CheckpointStore,
    runtime: Runtime,
    generator: Network,
    discriminator: Network,
    ema: Ema | None,
    config: Config,
    data_digest: str = "",
) -> Progress | None:
    """Take the newest sound checkpoint in, whichever engine wrote it; None if there is none.

    Only the main process reads; the others get theirs from it.

    Raises:
        InpaintError: the checkpoint is sound but of other networks.
        UsageError: it was trained on other data.
    """
    checkpoint = store.newest_sound() if runtime.is_main else None
    state = runtime.broadcast(checkpoint.state if checkpoint else None)
    if state is None:
        return None
    if config.data.path is not None and (rule := state.get("key_rule", 1)) != KEY_RULE:
        raise InpaintError(
            f"the run was begun under rule {rule} of keys; by this version's, {KEY_RULE}, the pictures of "
            f"{config.data.path} change their splits, holes and order: finish it with the version that began it, or "
            "begin anew in another --run-dir, from its weights by --init-from"
        )
    before = state.get("config", {}).get("data", {}).get("path", config.data.path)
    if state.get("data_digest", data_digest) != data_digest:
        if not is_same_place(before, config.data.path):
            changed = f"data.path: {before} -> {config.data.path}, which holds other images"
            raise another_run(store.root.parent, [changed])
        if runtime.is_main:
            log.warning("the validation images of %s are not those of before; the run goes on with them", before)
    tensors = runtime.broadcast_tensors(checkpoint.tensors if checkpoint else {})
    for name, network in ((GENERATOR, generator), (DISCRIMINATOR, discriminator)):
        found = {key: tuple(tensor.shape) for key, tensor in tensors[name].items()}
        if differing := {
            key for key in found.keys() | network.shapes.keys() if found.get(key) != network.shapes.get(key)
        }:
            raise InpaintError(
                f"the checkpoint of step {state['step']} is of another {name} ({min(differing)} and "
                f"{len(differing) - 1} more differ); give another --run-dir, or the old model settings"
            )
        optimizer = tensors[f"optimizer_{name}"]
        if int(optimizer["num_updates"]):
            network.initialise_state(*_example_inputs(name, config, runtime))
        network.load_weights(tensors[name])
        network.load_optimizer_state(optimizer)
    if ema is not None:
        if EMA not in tensors and runtime.is_main:
            log.warning("the checkpoint holds no average; it starts from the generator's weights")
        ema.module.load_state_dict(tensors.get(EMA, tensors[GENERATOR]))
    # Checkpoints of before a field was there have the others.
    progress = Progress(**{item.name: state[item.name] for item in fields(Progress) if item.name in state})
    if state["global_batch_size"] != config.training.global_batch_size:
        progress.position = progress.position * state["global_batch_size"] // config.training.global_batch_size
    return progress


def save_debug_bundle(folder: Path, error: NonFiniteError, feed: Feed, config: Config) -> None:
    """What is needed to look at a batch that broke the run: its pictures, where they are from, and the settings."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_epoch(feed.pictures, config.data, config.training.seed, error.info.epoch)
    start = error.info.position * feed.batch_size
    chosen = plan.order[start : start + feed.batch_size]
    save_file(
        {"pixels": np.ascontiguousarray(feed.pictures.take(chosen)), "holes": plan.holes[chosen]},
        folder / "batch.safetensors",
    )
    facts = {
        "place": asdict(error.info),
        "not_finite": error.keys,
        "sources": [feed.pictures.place(int(index)) for index in chosen],
        "config": config.model_dump(mode="json"),
    }
    (folder / "error.json").write_text(json.dumps(facts, indent=1))


def _example_inputs(name: str, config: Config, runtime: Runtime) -> tuple[Tensor, ...]:
    size, window = config.data.image_size, config.data.hole_spec.window_px

    def zeros(channels: int, side: int) -> Tensor:
        return torch.zeros(2, channels, side, side, device=runtime.device)

    return (zeros(3, size), zeros(1 if name == GENERATOR else 3, size if name == GENERATOR else window))
