"""Owns where a run stands, what a checkpoint says of it, and what is kept of a batch that broke it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from inpaint.config import Config, TrainingConfig
from inpaint.data.batches import BatchLoader
from inpaint.distributed.runtime import Runtime
from inpaint.errors import InpaintError
from inpaint.sources.keys import KEY_RULE
from inpaint.training.checkpoint import CheckpointStore
from inpaint.training.identity import another_run, is_same_place
from inpaint.training.meter import NonFiniteError
from inpaint.training.task import InpaintingTask

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0  # optimizer step cycles done
    epoch: int = 1  # the one under way
    position: int = 0  # its steps done; at the end of an epoch this is all of them
    images_seen: int = 0  # images trained on
    phase: int = 0  # that of the last step; 0 before the first
    evaluated_epoch: int = 0  # the last that was judged
    best_hole_psnr: float = 0.0  # the best validation figure so far, in dB
    best_step: int = 0  # when that was; 0 if never
    best_distance: float | None = None  # the distance then, where `evaluation.best_by` is that
    skipped: list[list[int]] = field(default_factory=list)  # [epoch, position] of batches whose loss was not finite
    rollbacks: int = 0  # how often the run went back to a checkpoint for that
    seconds: float = 0.0  # spent training

    def advance(self, num_pictures: int) -> None:
        self.step += 1
        self.position += 1
        self.images_seen += num_pictures

    def is_best(self, figures: Mapping[str, float], best_by: str) -> bool:
        """Whether the figures of the epoch that has just been judged are the best so far; remembered if so."""
        if best_by == "distance":
            is_best = self.best_distance is None or figures["distance"] < self.best_distance
        else:
            is_best = figures["hole_psnr"] > self.best_hole_psnr
        if is_best:
            self.best_hole_psnr, self.best_step = figures["hole_psnr"], self.step
            self.best_distance = figures.get("distance")
        return is_best

    def next_epoch(self) -> None:
        self.epoch, self.position = self.epoch + 1, 0

    def facts(self) -> dict[str, Any]:
        """What the report says of it."""
        seconds = round(self.seconds, 1)
        return {"steps": self.step, "epochs": self.epoch, "images_seen": self.images_seen, "training_seconds": seconds}

    def steps_left(self, training: TrainingConfig, steps_per_epoch: int) -> int:
        """How many the run has still to do, as far as these settings let it go."""
        left = (training.epochs - self.epoch + 1) * steps_per_epoch - self.position
        return max(0, left if training.max_steps is None else min(left, training.max_steps - self.step))


def save_state(
    store: CheckpointStore,
    runtime: Runtime,
    task: InpaintingTask,
    progress: Progress,
    config: Config,
    data_digest: str = "",
) -> None:
    """Begin a checkpoint with the data's `digest_of`; every process gathers, the main one writes in the background."""
    tensors = task.state()
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
    store: CheckpointStore, runtime: Runtime, task: InpaintingTask, config: Config, data_digest: str = ""
) -> Progress | None:
    """Take the newest sound checkpoint in, whichever engine wrote it; None if there is none.

    Only the main process reads; the others get theirs from it. InpaintError if it is sound but of other networks,
    UsageError if it was trained on other data.
    """
    checkpoint = store.newest_sound() if runtime.is_main else None
    state = runtime.broadcast(checkpoint.state if checkpoint else None)
    if state is None:
        return None
    if config.data.path is not None and (rule := state.get("key_rule", 1)) != KEY_RULE:
        raise InpaintError(
            f"the run was begun under rule {rule} of keys; by this version's, {KEY_RULE}, the images of "
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
    task.load_state(runtime.broadcast_tensors(checkpoint.tensors if checkpoint else {}), state["step"])
    # Checkpoints of before a field was there have the others.
    progress = Progress(**{item.name: state[item.name] for item in fields(Progress) if item.name in state})
    if state["global_batch_size"] != config.training.global_batch_size:
        progress.position = progress.position * state["global_batch_size"] // config.training.global_batch_size
    return progress


def save_debug_bundle(folder: Path, error: NonFiniteError, loader: BatchLoader, config: Config) -> None:
    """What is needed to look at a batch that broke the run: as it was seen, where it is from, and the settings."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen, batch = loader.global_batch(error.info.epoch, error.info.position)
    tensors = {name: tensor.contiguous() for name, tensor in vars(batch).items()}
    save_file(tensors, folder / "batch.safetensors")
    facts = {
        "place": asdict(error.info),
        "not_finite": error.keys,
        "sources": [loader.split.place(int(index)) for index in chosen],
        "config": config.model_dump(mode="json"),
    }
    (folder / "error.json").write_text(json.dumps(facts, indent=1))
