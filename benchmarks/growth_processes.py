"""One job of the suite `growth`: so many processes of this machine train, save, judge and leave, and are counted.

`python -m benchmarks.growth_processes RUN_DIR PROCESSES STEPS [MODULES [apart]]`, twice for what a resume costs; prints
JSON. The processes are forks of one that has imported all, so that they share its memory and what is counted is their
own work; each trains as many images a step, whatever their number. MODULES is a JSON file of what is imported while
they train, which a job writes that does not find it. `apart`: each is a run of its own and has nothing to do with the
others, which shows what it costs that they share this machine's cores, caches and memory.
"""

# Annotations stay what they are: DDP looks at those of its hook.
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from benchmarks.store_traffic import CountingRelay
from inpaint.arguments import Options
from inpaint.distributed import heartbeat as heartbeats
from inpaint.distributed.heartbeat import Heartbeat
from inpaint.resolve import load_config
from inpaint.training import (
    launch,
    opening,  # noqa: F401 - imported for all before they are forked
    trainer,  # noqa: F401
)
from inpaint.training.task import InpaintingTask

SHARE = 2
FILE_EVENTS = ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


def settings(processes: int, steps: int) -> dict[str, Any]:
    return {
        "data.image_size": 16,
        "data.synthetic_train": 2 * SHARE * 32,
        "data.synthetic_held_out": 64,
        "model.width": 4,
        "model.norm": "batch",
        "training.global_batch_size": SHARE * processes,
        "training.epochs": 10**6,
        "training.max_steps": steps,
        "training.num_threads": 1,
        "training.phases": [0.34, 0.33, 0.33],
        "training.phases_per": "run",
        "training.log_every": 4,
        "training.timeout_s": 600.0,
        "checkpointing.every_steps": 5,
        "evaluation.every_epochs": 10**6,
        "evaluation.num_samples": 4,
        "evaluation.best_by": "last",
    }


class Counted:
    """What this process does at each place that its heartbeat tells of: seconds of its processor, files, messages."""

    def __init__(self) -> None:
        self.by_place: dict[str, Counter[str]] = {}
        self.num_beats = 0
        self._place, self._files = "meeting", Counter[str]()
        self._since, self._modules = time.process_time(), set(sys.modules)
        self.reduced: dict[int, Counter[str]] = {}
        self._step: Counter[str] = Counter()
        self._count_reductions()
        sys.addaudithook(self._audit)
        at, busy, beat = Heartbeat.at, Heartbeat.busy, Heartbeat._beat

        def counted_at(one: Heartbeat, where: str) -> None:
            self.at(where)
            at(one, where)

        def counted_busy(one: Heartbeat, where: str) -> None:
            self.at(where)
            busy(one, where)

        def counted_beat(one: Heartbeat, **more: float) -> None:
            self.num_beats += 1
            beat(one, **more)

        _replace(Heartbeat, at=counted_at, busy=counted_busy, _beat=counted_beat)

    def modules(self) -> list[str]:
        """Imported since."""
        return [name for name in sys.modules if name not in self._modules and name != "__main__"]

    def _count_reductions(self) -> None:
        """By phase what a process hands in: gradients by the buckets of DDP, BatchNorm's by their own calls."""
        all_reduce, make, step = dist.all_reduce, InpaintingTask.__init__, InpaintingTask.step

        def counted_reduce(tensor: Tensor, *rest: Any, **named: Any) -> Any:
            if not named.get("group"):  # the others are flags and figures, over a group of their own
                self._step.update(norm_reductions=1, norm_bytes=tensor.nbytes)
            return all_reduce(tensor, *rest, **named)

        def hook(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
            self._step.update(gradient_bytes=bucket.buffer().nbytes)
            assert dist.group.WORLD is not None
            return allreduce_hook(dist.group.WORLD, bucket)

        def counted_make(task: InpaintingTask, *arguments: Any) -> None:
            make(task, *arguments)
            for network in task.networks.values():
                if isinstance(network.engine, DistributedDataParallel):
                    network.engine.register_comm_hook(None, hook)

        def counted_step(task: InpaintingTask, phase: int, *rest: Any) -> Any:
            self._step = self.reduced.setdefault(phase, Counter())
            self._step["steps"] += 1
            return step(task, phase, *rest)

        _replace(dist, all_reduce=counted_reduce)
        _replace(InpaintingTask, __init__=counted_make, step=counted_step)

    def _audit(self, event: str, arguments: Any) -> None:
        if event in FILE_EVENTS and not str(arguments[0]).startswith("/proc"):
            self._files["files"] += 1

    def at(self, where: str) -> None:
        kind = "step" if where.startswith("step ") and "saving" not in where else where
        kind = "saving" if "saving" in where else kind
        so_far = self.by_place.setdefault(self._place, Counter())
        now = time.process_time()
        so_far["ms"] += round(1e3 * (now - self._since))
        so_far["files"] += self._files.pop("files", 0)
        self._place, self._since = kind, now


def _replace(owner: Any, **by: Callable[..., Any]) -> None:
    """In this process alone, which ends with the job."""
    for name, value in by.items():
        setattr(owner, name, value)


def work(run_dir: Path, rank: int, processes: int, steps: int, port: int) -> dict[str, Any]:
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    numbers = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "RANK": rank, "LOCAL_RANK": rank}
    os.environ.update(where | {name: str(number) for name, number in numbers.items()}, ACCELERATE_USE_CPU="true")
    if processes == 1:
        for name in (*where, *numbers):
            os.environ.pop(name)
    counted = Counted()
    config = load_config("quickstart", settings(processes, steps))
    # One process that is slow to come on a machine of two cores is not dead.
    heartbeats._SILENCE_S = 600.0
    launch._train(config, Options(run_dir))
    counted.at("")
    memory = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if "kB" in line)
    own = Path("/proc/self/smaps_rollup").read_text()
    private = sum(int(line.split()[1]) for line in own.splitlines() if line.startswith("Private_Dirty"))
    return {
        "by_place": counted.by_place,
        "reduced": counted.reduced,
        "modules": counted.modules() if rank == 0 else [],
        "beats": counted.num_beats,
        "private_mib": private / 1024,
        "peak_mib": int(memory["VmHWM"].split()[0]) / 1024,
    }


def main(run_dir: Path, processes: int, steps: int, modules: Sequence[str] = (), apart: bool = False) -> dict[str, Any]:
    torch.set_num_threads(1)
    for name in modules:
        with suppress(ImportError):
            import_module(name)
    told, tell_port = os.pipe()
    children = []
    # All are forked before there are threads, which a fork would leave behind with their locks held.
    for rank in range(processes):
        answer, give = os.pipe()
        if (pid := os.fork()) == 0:
            code = 1
            try:
                port = int(os.read(told, 6))
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                job = (run_dir / f"{rank}", 0, 1) if apart else (run_dir, rank, processes)
                result = work(*job, steps, port)
                Path(f"/dev/fd/{give}").write_text(json.dumps(result))
                code = 0
            except BaseException as error:  # noqa: BLE001 - the parent says that it failed, this one why
                print(f"rank {rank}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            finally:
                os._exit(code)
        os.close(give)  # else its end would never be read
        children.append((pid, answer))
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    began = time.monotonic()
    with CountingRelay(store.port) as relay:
        os.write(tell_port, (b"%06d" % relay.port) * processes)
        said = [Path(f"/dev/fd/{answer}").read_bytes() for _, answer in children]
        codes = [os.waitpid(pid, 0)[1] for pid, _ in children]
        seconds = time.monotonic() - began
        messages = relay.counted()
    if any(codes):
        raise SystemExit(f"processes ended with {codes}")
    results = [json.loads(text) for text in said]
    return {"seconds": seconds, "store": messages, "processes": results}


if __name__ == "__main__":
    listed = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    names = json.loads(listed.read_text()) if listed and listed.exists() else []
    measured = main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), names, sys.argv[5:] == ["apart"])
    found = [process.pop("modules") for process in measured["processes"]]
    if listed and not listed.exists():
        listed.write_text(json.dumps(found[0]))
    print(json.dumps(measured))
