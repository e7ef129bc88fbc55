"""Owns what others get of a run: its `generator/` folder and, if asked for, its repository on the Hub."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from torch import Tensor
from tqdm import tqdm

from inpaint.config import Config
from inpaint.distributed.runtime import Runtime
from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.training.checkpoint import CheckpointStore, DamagedCheckpointError, read_checkpoint
from inpaint.training.run_directory import ENVIRONMENT, RunDirectory
from inpaint.training.saved_generator import AVERAGE, GENERATOR, RECONSTRUCTION
from inpaint.training.state import Progress
from inpaint.training.task import InpaintingTask

if TYPE_CHECKING:
    from inpaint.hub.publisher import HubPublisher


class Publication:
    """The finished weights of a run, in its folder and on the Hub. Every process calls `save` alike."""

    def __init__(self, runtime: Runtime, run: RunDirectory, store: CheckpointStore, config: Config) -> None:
        self.runtime, self.run_directory, self.store, self.config = runtime, run, store, config
        self._publisher: HubPublisher | None = None
        self._step: int | None = None
        self._is_lost = False
        hub = config.hub
        if runtime.is_main and hub.repo_id is not None:
            from inpaint.hub.publisher import HubPublisher

            self._publisher = HubPublisher(
                hub.repo_id, hub.private, run.path, hub.push_checkpoint, say=lambda line: tqdm.write(line, sys.stderr)
            )
            self._publisher.start()

    def save(
        self, task: InpaintingTask, progress: Progress, again: bool = False, best: Generator | None = None
    ) -> None:
        """Write `generator/`: `best` or as it is now, unless this step's was written and is not wanted `again`."""
        if self._step == progress.step and not again:
            return
        self._step = progress.step
        generator = task.published_generator() if best is None else best.float().cpu()
        if generator is not None and self.runtime.is_main:
            facts = {"hardware": self.runtime.hardware(), "training_hours": round(progress.seconds / 3600, 3)}
            facts |= self.which(progress)
            self.run_directory.write(ENVIRONMENT, (json.dumps(facts, indent=1) + "\n").encode())
            self.run_directory.save_generator(generator)

    def which(self, progress: Progress) -> dict[str, str]:
        """After which step the weights in `generator/` are, in words, where that need not be the last."""
        if not self._is_of_best(progress):
            return {}
        what = {"hole_psnr": "hole PSNR", "distance": "distance"}[self.config.evaluation.best_by]
        return {"weights": f"step {progress.best_step}, the best epoch's by {what} on validation images"}

    def judged(self, progress: Progress) -> dict[str, Any]:
        """After which step the weights in `generator/` are: `weights_step`, with the words of `which`."""
        step = progress.best_step if self._is_of_best(progress) else progress.step
        return {**self.which(progress), "weights_step": step}

    def _is_of_best(self, progress: Progress) -> bool:
        return self.config.evaluation.best_by != "last" and bool(progress.best_step) and not self._is_lost

    def best(self, progress: Progress) -> Generator | None:
        """The generator that `evaluation.best_by` names, from its checkpoint, on every process; None: the one as it is.

        Where that checkpoint can't be read, this is said, and the last generator takes its place.
        """
        if self.config.evaluation.best_by == "last" or progress.best_step in (0, progress.step):
            return None
        weights: dict[str, dict[str, Tensor]] = {}
        reconstruction: dict[str, Tensor] | None = None
        if self.runtime.is_main:
            try:
                tensors = read_checkpoint(self.store.folder(progress.best_step)).tensors
                weights = {GENERATOR: tensors.get(AVERAGE, tensors[GENERATOR])}
                reconstruction = tensors.get(RECONSTRUCTION)
            except DamagedCheckpointError as error:
                tqdm.write(f"the best checkpoint is damaged ({error}): generator/ is the last one", file=sys.stderr)
        weights = self.runtime.broadcast_tensors(weights)
        self._is_lost = not weights
        if self._is_lost:
            return None
        generator = Generator.of(GeneratorConfig.for_run(self.config), weights[GENERATOR], reconstruction)
        return generator.to(self.runtime.device, self.runtime.dtype)

    def push(self, label: str) -> None:
        """Hand the run's folder as it is now to the Hub's queue; the pushing goes on beside the training."""
        if self._publisher is None:
            return
        self.store.wait()
        newest = self.store.steps()[-1:]
        self._publisher.submit(label, checkpoint=self.store.folder(newest[0]) if newest else None)

    def close(self, preempted: bool) -> str | None:
        """Wait for what is still to be pushed and say what is on the Hub; a run that goes on later waits hardly."""
        if self._publisher is None:
            return None
        return self._publisher.close(5.0 if preempted else self.config.hub.wait_minutes * 60)
