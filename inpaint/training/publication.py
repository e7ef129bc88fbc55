"""Owns what others get of a run: its `generator/` folder and, if asked for, its repository on the Hub."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from tqdm import tqdm

from inpaint.config import Config
from inpaint.distributed.runtime import Runtime
from inpaint.training.checkpoint import CheckpointStore
from inpaint.training.run_directory import ENVIRONMENT, RunDirectory
from inpaint.training.task import InpaintingTask

if TYPE_CHECKING:
    from inpaint.hub.publisher import HubPublisher


class Publication:
    """The finished weights of a run, in its folder and on the Hub. Every process calls `save` alike."""

    def __init__(self, runtime: Runtime, run: RunDirectory, store: CheckpointStore, config: Config) -> None:
        self.runtime, self.run_directory, self.store = runtime, run, store
        self._publisher: HubPublisher | None = None
        self._step: int | None = None
        hub = config.hub
        self._wait_minutes = hub.wait_minutes
        if runtime.is_main and hub.repo_id is not None:
            from inpaint.hub.publisher import HubPublisher

            self._publisher = HubPublisher(
                hub.repo_id,
                hub.private,
                run.path,
                hub.push_checkpoint,
                say=lambda line: tqdm.write(line, file=sys.stderr),
            )
            self._publisher.start()

    def save(self, task: InpaintingTask, step: int, seconds: float, again: bool = False) -> None:
        """Write `generator/` as it is at this step, unless that was done and is not wanted `again`."""
        if self._step == step and not again:
            return
        self._step = step
        generator = task.published_generator()
        if generator is not None:
            facts = {"hardware": self.runtime.hardware(), "training_hours": round(seconds / 3600, 3)}
            self.run_directory.write(ENVIRONMENT, (json.dumps(facts, indent=1) + "\n").encode())
            self.run_directory.save_generator(generator)

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
        return self._publisher.close(5.0 if preempted else self._wait_minutes * 60)
