"""One process of a job under test: trains several small runs in turn and writes down what only it can see.

`distributed_worker.py record FOLDER CONFIG SCENARIOS`: SCENARIOS is a file with a JSON list of {name, engine, flags},
where engine is a DeepSpeed JSON or null; each is a run in FOLDER/name, and FOLDER/name.rankN.json is what rank N saw of
it. With {after, at} it goes on from the checkpoint of step `at` of the run `after`, and with {unjudged} it ends with
its last checkpoint. One start of the processes serves many runs.

`distributed_worker.py fault KIND RANK STEP ARGUMENTS...`: train.py with ARGUMENTS, in which RANK meets a fault at STEP
the first time the job is started.
"""

import gc
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from inpaint.arguments import Options
from inpaint.data.batches import Batch
from inpaint.distributed.collectives import meet
from inpaint.distributed.heartbeat import Heartbeat
from inpaint.distributed.network import Network
from inpaint.distributed.runtime import Runtime
from inpaint.distributed.signals import StopRequest
from inpaint.resolve import load_config
from inpaint.training import launch, opening
from inpaint.training.run_directory import RunDirectory
from inpaint.training.task import InpaintingTask, Terms
from inpaint.training.trainer import Trainer


class Recorder:
    """Stands in the place of a task's `step` and writes down what each step saw, reduced and moved."""

    def __init__(self, trainer: Trainer) -> None:
        self.inner = trainer.task.step
        self.networks = trainer.task.networks
        self.index = {
            _digest([torch.from_numpy(seen.copy())]): index
            for index, row in enumerate(trainer.feed.split.pixels)
            for seen in (row, row[:, ::-1])  # as it is, and mirrored
        }
        self.steps: list[dict[str, Any]] = []
        self.now = self._nothing()
        for name, network in self.networks.items():
            self._count_reductions(name, network)
            self._watch_backward(name, network)

    def __call__(self, phase: int, batches: list[Batch], *rest: Any) -> Terms:
        before = {name: _state(network) for name, network in self.networks.items()}
        self.now = {
            "phase": phase,
            "left_over": {name: _gradients(network) for name, network in self.networks.items()},
            "indices": [self.index[_digest([row])] for batch in batches for row in _pixels(batch)],
            "holes": _digest([batch.mask.float() for batch in batches] + [batch.real_windows for batch in batches]),
            **self._nothing(),
        }
        terms = self.inner(phase, batches, *rest)
        self.now["terms"] = {name: float(value) for name, value in terms.items()}
        self.now["moved"] = [name for name, network in self.networks.items() if _state(network) != before[name]]
        self.steps.append(self.now)
        return terms

    def _nothing(self) -> dict[str, Any]:
        """What is added to while a step is under way; before the first one DeepSpeed makes its state exist."""
        return {"bytes": {name: [] for name in self.networks}, "other_gradient_moved": 0.0}

    def _count_reductions(self, name: str, network: Network) -> None:
        if not isinstance(network.engine, DistributedDataParallel):
            return

        def hook(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
            self.now["bytes"][name].append(bucket.buffer().numel() * bucket.buffer().element_size())
            return allreduce_hook(dist.group.WORLD, bucket)

        network.engine.register_comm_hook(None, hook)

    def _watch_backward(self, name: str, network: Network) -> None:
        """A backward of one network shall leave the other's gradients as they are."""
        other = next(candidate for key, candidate in self.networks.items() if key != name)
        backward = network.backward

        def watched(loss: Tensor) -> None:
            before = [None if p.grad is None else p.grad.clone() for p in other.module.parameters()]
            self.now["bytes"][name].append("micro batch")
            backward(loss)
            for parameter, gradient in zip(other.module.parameters(), before, strict=True):
                if parameter.grad is not None:
                    difference = parameter.grad if gradient is None else parameter.grad - gradient
                    moved = difference.abs().max().item() if difference.numel() else 0.0
                    self.now["other_gradient_moved"] = max(self.now["other_gradient_moved"], moved)

        network.backward = watched  # type: ignore[method-assign]


def record(folder: Path, base: str, scenarios: list[dict[str, Any]]) -> None:
    group = None
    for scenario in scenarios:
        engine = scenario.get("engine")
        os.environ["ACCELERATE_USE_DEEPSPEED"] = str(engine is not None).lower()
        os.environ["ACCELERATE_USE_CPU"] = str(engine is None).lower()
        os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = engine or "none"
        AcceleratorState._reset_state(reset_partial_state=True)
        config = load_config(base, scenario.get("flags", {}))
        training = config.training
        group = group or meet(training.timeout_s)  # one for all runs: each has threads that wake every 10 ms
        runtime = Runtime.of(config, group)
        options = Options(folder / scenario["name"])
        run = RunDirectory(options.run_dir)
        launch._on_main(runtime, lambda run=run, config=config, options=options: opening.open_run(run, config, options))
        if "after" in scenario and runtime.is_main:
            checkpoint = Path("checkpoints", f"step_{scenario['at']:08d}")
            shutil.copytree(folder / scenario["after"] / checkpoint, run.path / checkpoint)
        stop, heartbeat = StopRequest(), Heartbeat(runtime.rank, runtime.world_size, training.timeout_s)
        images = opening.open_splits(runtime, config, wants_stop=lambda: False)
        assert images is not None
        trainer = Trainer(config, options, runtime, run, stop, heartbeat, images)
        trainer.task.step = recorder = Recorder(trainer)  # type: ignore[method-assign, assignment]
        if scenario.get("unjudged"):
            trainer._end_epoch = lambda: False  # type: ignore[method-assign]
            trainer._finish = partial(end_unjudged, trainer)  # type: ignore[method-assign]
        outcome = trainer.run()
        seen = {
            "outcome": outcome,
            "describe": runtime.describe(),
            "num_bytes": {
                name: sum(p.numel() * p.element_size() for p in network.module.parameters())
                for name, network in recorder.networks.items()
            },
            "buffers": _digest([b for net in recorder.networks.values() for b in net.module.buffers()]),
            "ema": _digest(trainer.task.ema.module.state_dict().values()) if trainer.task.ema else None,
            "steps": recorder.steps,
        }
        (folder / f"{scenario['name']}.rank{runtime.rank}.json").write_text(json.dumps(seen))
        heartbeat.close(in_order=True)
        stop.restore()
        if runtime.is_main:
            run.close()
        for network in runtime.networks:
            network.release()
        runtime.networks.clear()
        del trainer, recorder
        gc.collect()
        gc.freeze()  # what is left are the libraries, which the next collection shall not walk through again
        runtime.barrier()
    runtime.close()
    sys.stdout.flush()
    os._exit(0)


def end_unjudged(trainer: Trainer) -> str:
    every = trainer.config.checkpointing.every_steps
    if every is None or trainer.progress.step % every:
        return trainer._leave("finished")
    trainer.store.wait()  # the last step has been saved already
    return "finished"


def fault(kind: str, rank: int, step: int, arguments: list[str]) -> int:
    """What goes wrong in one process, in the middle of a step; or `late`: its images take it STEP seconds longer."""
    inner, count = InpaintingTask.step, 0
    if kind == "late":
        if int(os.environ["RANK"]) == rank:
            open_splits = opening.open_splits
            opening.open_splits = lambda *args: (open_splits(*args), time.sleep(step))[0]
        return launch.main(arguments)

    def faulty(self: InpaintingTask, *arguments: Any) -> Terms:
        nonlocal count
        count += 1
        if (
            count == step
            and int(os.environ["RANK"]) == rank
            and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        ):
            if kind == "raise":
                raise ValueError("the dog ate\nthe batch")
            os._exit(7)
        return inner(self, *arguments)

    InpaintingTask.step = faulty  # type: ignore[method-assign]
    return launch.main(arguments)


def _pixels(batch: Batch) -> Tensor:
    return (batch.image * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _gradients(network: Network) -> float:
    """The largest gradient there is, 0 where there is none."""
    return max((p.grad.abs().max().item() for p in network.module.parameters() if p.grad is not None), default=0.0)


def _state(network: Network) -> str:
    # Under ZeRO-3 a parameter is whole or empty as it comes; this process's part of it is kept beside.
    parameters = [getattr(parameter, "ds_tensor", parameter) for parameter in network.module.parameters()]
    return _digest([*parameters, *network.module.buffers()])


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    mode, *rest = sys.argv[1:]
    if mode == "record":
        record(Path(rest[0]), rest[1], json.loads(Path(rest[2]).read_text()))
    else:
        sys.exit(fault(rest[0], int(rest[1]), int(rest[2]), rest[3:]))
