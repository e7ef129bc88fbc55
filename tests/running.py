"""Starts training as a user does, on runs small enough for a test, and reads what they leave.

`start` without a launcher spawns the workers with the environment that `accelerate launch` would give them, and hosts
the store they meet at in this process; it saves the seconds a launcher takes. `launch` is the real launcher.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import yaml
from safetensors.torch import load_file
from torch import Tensor

from inpaint.cli import main

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "accelerate_configs"
TRAIN = ROOT / "train.py"
WORKER = ROOT / "tests" / "distributed_worker.py"
ENGINES = ("zero1", "zero2", "zero3")

# For what takes seconds alone. Many processes that each import torch, on a busy machine, take their time.
PATIENCE_S = 900.0
# TINY's last step: two epochs of 160 images in batches of 16.
LAST = 20
TINY: dict[str, dict[str, Any]] = {
    "data": {"synthetic_train": 160, "synthetic_held_out": 32, "image_size": 32, "holes": "resampled"},
    "model": {"width": 4, "norm": "group"},
    "training": {"epochs": 2, "global_batch_size": 16, "log_every": 1, "phases": [0.4, 0.3, 0.3], "timeout_s": 600},
    "evaluation": {"num_pictures": 16, "num_samples": 4},
}


@dataclass(frozen=True)
class Ended:
    """How a job ended: each process's exit code, and what all of them wrote."""

    codes: list[int]
    stdout: str
    stderr: str
    seconds: float

    @property
    def said(self) -> list[str]:
        """Our own lines of stderr: those that begin with `inpaint: `."""
        return [line for line in self.stderr.splitlines() if line.startswith("inpaint: ")]

    def only_line(self) -> str:
        """Our one line of a job that failed in every process, above all tracebacks."""
        assert all(code != 0 for code in self.codes), self.codes
        (line,) = self.said
        assert "Traceback" not in self.stderr.partition(line)[0]
        return line

    def ok(self) -> Ended:
        """Itself, if every process ended with 0."""
        assert set(self.codes) == {0}, f"exit codes {self.codes}\n{self.stdout}\n{self.stderr}"
        return self


class Job:
    """Processes started together; leaving the `with` block kills what still runs of them and of their children.

    Args:
        commands, environments: one for each process.
        cwd: where they run.
        store: where they meet, kept as long as the job.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        environments: Sequence[Mapping[str, str]],
        cwd: Path = ROOT,
        store: dist.Store | None = None,
    ) -> None:
        self._started, self._store = time.monotonic(), store
        self._files = [(_file(), _file()) for _ in commands]
        self.processes = [
            subprocess.Popen(command, env=env, cwd=cwd, stdout=out, stderr=err, start_new_session=True)
            for command, env, (out, err) in zip(commands, environments, self._files, strict=True)
        ]

    @property
    def stdout(self) -> str:
        """All that was written so far."""
        return "".join(_written(out) for out, _ in self._files)

    @property
    def stderr(self) -> str:
        return "".join(_written(err) for _, err in self._files)

    def wait(self, timeout_s: float = PATIENCE_S) -> Ended:
        """Until all processes have ended.

        Raises:
            AssertionError: they did not within `timeout_s`, with what they wrote; they are killed.
        """
        deadline = time.monotonic() + timeout_s
        for process in self.processes:
            try:
                process.wait(max(0.01, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"not over after {timeout_s} s\n{self.stdout}\n{self.stderr}") from None
        codes = [process.returncode for process in self.processes]
        return Ended(codes, self.stdout, self.stderr, time.monotonic() - self._started)

    def until(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Wait until `condition` holds while the processes run."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            alive = all(process.poll() is None for process in self.processes)
            assert alive and time.monotonic() < deadline, f"it never came to be\n{self.stdout}\n{self.stderr}"
            time.sleep(0.05)

    def kill(self) -> None:
        for process in self.processes:
            try:
                os.killpg(process.pid, signal.SIGKILL)  # its whole session: a launcher's workers too
            except ProcessLookupError:
                continue
            process.wait()

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        for pair in self._files:
            for file in pair:
                file.close()


def tiny_config(folder: Path, name: str = "tiny", **sections: Mapping[str, Any]) -> Path:
    """A YAML file in `folder`: `TINY` (20 steps, two epochs of all phases) with values of `sections` in its place."""
    values = {section: {**TINY.get(section, {}), **sections.get(section, {})} for section in {**TINY, **sections}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def start(
    *arguments: str | Path,
    processes: int = 1,
    engine: str | None = None,
    env: Mapping[str, str] | None = None,
    script: Path = TRAIN,
    own_arguments: Sequence[Sequence[str]] = (),
    cwd: Path = ROOT,
) -> Job:
    """Begin `script` in several processes of this machine's CPU.

    Args:
        arguments: of the script.
        processes: how many.
        engine: None for one process or DDP; else the name of a DeepSpeed JSON such as `zero2`, or its path.
        env: more of the environment, for all.
        own_arguments: further arguments for each process, by rank.
    """
    common = {**environment(), **(env or {})}
    if engine is not None:
        path = CONFIGS / f"deepspeed_{engine}.json" if "/" not in engine else Path(engine)
        common |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}
    elif processes > 1:
        common |= {"ACCELERATE_USE_CPU": "true"}
    environments, store = [common], None
    if processes > 1 or engine is not None:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        meeting = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
        }
        environments = [{**common, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    own = own_arguments or [()] * processes
    commands = [[sys.executable, str(script), *map(str, arguments), *extra] for extra in own]
    return Job(commands, environments, cwd, store)


def launch(
    config: str | Path | None,
    *arguments: str | Path,
    processes: int | None = 2,
    launcher: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
) -> Job:
    """Begin `accelerate launch --config_file accelerate_configs/<config>.yaml --num_processes N train.py ...`."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    if config is not None:
        path = CONFIGS / f"{config}.yaml" if isinstance(config, str) else config
        command += ["--config_file", str(path.relative_to(cwd) if path.is_relative_to(cwd) else path)]
    if processes is not None:
        command += ["--num_processes", str(processes)]
    command += [*launcher, str(TRAIN), *map(str, arguments)]
    return Job([command], [{**environment(), **(env or {})}], cwd)


def train(*arguments: str | Path, timeout_s: float = PATIENCE_S, **how: Any) -> Ended:
    """`start`, and wait for the end."""
    with start(*arguments, **how) as job:
        return job.wait(timeout_s)


def refused(command: Sequence[str], capsys: pytest.CaptureFixture[str], code: int, *arguments: str | Path) -> str:
    """The one line with which a command, called in this process, refuses its arguments."""
    capsys.readouterr()
    assert main([*command, *map(str, arguments)]) == code
    captured = capsys.readouterr()
    line = captured.err.strip().splitlines()[-1]
    assert line.startswith(f"inpaint {command[0]}: error: ") and "Traceback" not in captured.err
    assert not captured.out
    return line


def environment() -> dict[str, str]:
    """This process's, without what a launcher above it may have set; no GPU, one thread."""
    foreign = (
        "OMP_WAIT_POLICY",
        "GOMP_",
        "ACCELERATE_",
        "TORCHELASTIC_",
        "SLURM_",
        "RANK",
        "LOCAL_",
        "WORLD_SIZE",
        "MASTER_",
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}


def steps(run_dir: Path) -> list[int]:
    """Of which there are checkpoints, oldest first."""
    return sorted(int(path.name.removeprefix("step_")) for path in run_dir.glob("checkpoints/step_*"))


def weights(run_dir: Path, step: int | None = None) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint (the newest) by file (generator, optimizer_generator, ...) and name."""
    folder = run_dir / "checkpoints" / f"step_{steps(run_dir)[-1] if step is None else step:08d}"
    return {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}


def differences(one: dict[str, dict[str, Tensor]], other: dict[str, dict[str, Tensor]]) -> dict[str, float]:
    """The largest difference in each file of two checkpoints; 0.0 is bit-identical."""
    assert one.keys() == other.keys()
    largest = {}
    for file, tensors in one.items():
        assert tensors.keys() == other[file].keys(), file
        apart = [(value.double() - other[file][name].double()).abs().max().item() for name, value in tensors.items()]
        largest[file] = max(apart)
    return largest


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def _file() -> Any:
    return tempfile.TemporaryFile()


def _written(file: Any) -> str:
    """What a child wrote; without moving the position it shares with us."""
    return os.pread(file.fileno(), 1 << 24, 0).decode(errors="replace")


def finish_writing() -> None:
    """Until the checkpoint that is being written in this process is there."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()


def assert_same_end(run: Path, straight: Path, last: int) -> None:
    assert set(differences(weights(run, last), weights(straight, last)).values()) == {0.0}
    lines = [line["step"] for line in metrics(run) if "evaluation/hole_psnr" not in line]
    assert lines == sorted(set(lines)), "a line of metrics.jsonl stands twice"
