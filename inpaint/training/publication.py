"""Owns what others get of a run: its `generator/` folder and, if asked for, its repository on the Hub."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from torch import nn
from tqdm import tqdm

from inpaint.config import Config
from inpaint.distributed.network import Network
from inpaint.distributed.runtime import Runtime
from inpaint.training.build import generator_config
from inpaint.training.checkpoint import CheckpointStore
from inpaint.training.run_directory import ENVIRONMENT, RunDirectory

if TYPE_CHECKING:
    from inpaint.hub.publisher import HubPublisher


class Publication:
    """The finished weights of a run, in its folder and on the Hub. Every process calls `save` alike."""

    def __init__(self, runtime: Runtime, run: RunDirectory, store: CheckpointStore, config: Config) -> None:
        self.runtime, self.run_directory, self.store, self.config = runtime, run, store, config
        self._publisher: HubPublisher | None = None
        hub = config.hub
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

    def save(self, generator: Network, average: nn.Module | None, seconds: float) -> None:
        """Write `generator/`: the average if there is one, else the weights in training."""
        weights = generator.weights() if average is None else average.state_dict()
        if self.runtime.is_main:
            facts = {"hardware": self.runtime.hardware(), "training_hours": round(seconds / 3600, 3)}
            self.run_directory.write(ENVIRONMENT, (json.dumps(facts, indent=1) + "\n").encode())
            self.run_directory.save_generator(weights, generator_config(self.config))

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
