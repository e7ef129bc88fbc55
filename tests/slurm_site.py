"""A SLURM of two nodes with a checkout and a folder for runs, and what is done there to a training and its job."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from slurm_cluster import ENDED, SlurmCluster, why_not

REPOSITORY = Path(__file__).parents[1]
WEIGHTS = ("generator", "discriminator", "generator_ema", "optimizer_generator", "optimizer_discriminator")
NUM_STEPS = 32
TINY = """\
data: {synthetic_train: 256, synthetic_held_out: 64, image_size: 32, holes: resampled}
model: {width: 4, norm: group}
training: {epochs: 2, global_batch_size: 16, num_threads: 1, log_every: 4, phases: [0.4, 0.3, 0.3]}
evaluation: {num_pictures: 32}
"""

on_slurm = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


@dataclass
class Site:
    """A cluster, a checkout that nobody edits meanwhile, a folder for runs, and one on a small disk."""

    cluster: SlurmCluster
    repository: Path
    runs: Path
    small: Path
    settings: dict[str, str]

    def train(
        self, run: str, *arguments: str, options: tuple[str, ...] = (), folder: Path | None = None, **settings: str
    ) -> str:
        """Hand in the tiny training on both nodes, one process on each; returns the job's id."""
        return self.cluster.submit(
            self.repository / "slurm/train.sbatch",
            *(
                "--config",
                str(self.repository / "tiny.yaml"),
                "--run-dir",
                str((folder or self.runs) / run),
                *arguments,
            ),
            options=("--nodes=2", *options),
            settings=self.settings | settings,
        )

    def wait_for_step(self, run: str, step: int = 4, folder: Path | None = None) -> None:
        """Until the run has logged `step`."""
        path = (folder or self.runs) / run / "metrics.jsonl"
        deadline = time.monotonic() + 900
        while not path.exists() or f'"step": {step},' not in path.read_text():
            assert time.monotonic() < deadline, f"{run} did not come to step {step}"
            time.sleep(0.1)

    def weights(self, run: str, step: int = NUM_STEPS, folder: Path | None = None) -> dict[str, bytes]:
        folder = (folder or self.runs) / run / f"checkpoints/step_{step:08d}"
        return {name: (folder / f"{name}.safetensors").read_bytes() for name in WEIGHTS}


@contextmanager
def make_site(root: Path) -> Iterator[Site]:
    """Started, and gone at the block's end."""
    repository = root / "repository"
    for name in ("inpaint", "accelerate_configs", "slurm"):
        shutil.copytree(REPOSITORY / name, repository / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "train.py", repository)
    (repository / "tiny.yaml").write_text(TINY)
    (root / "runs").mkdir()
    (root / "small").mkdir()
    # Before the nodes start: each has its own view of what is mounted later.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "small", str(root / "small")], check=True)
    settings = {
        "PYTHON": sys.executable,
        "ACCELERATE_CONFIG": "accelerate_configs/cpu.yaml",
        "PROCESSES_PER_NODE": "1",
        "NETWORK_INTERFACE": "lo",
        "PREFLIGHT": "nodes",
        "OMP_NUM_THREADS": "1",
        "INPAINT_CACHE": str(root / "cache"),
    }
    try:
        with SlurmCluster(num_nodes=2) as cluster:
            yield Site(cluster, repository, root / "runs", root / "small", settings)
    finally:
        subprocess.run(["umount", "--lazy", str(root / "small")], check=True)


def train_undisturbed(site: Site) -> dict[str, bytes]:
    """The final weights of the tiny training in two processes without SLURM."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]
    command += ["train.py", "--config", "tiny.yaml", "--run-dir", str(site.runs / "reference")]
    environment = os.environ | site.settings | {"PYTHONPATH": str(site.repository)}
    done = subprocess.run(command, cwd=site.repository, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return site.weights("reference")


def assert_back_and_equal(site: Site, job: str, run: str, undisturbed: dict[str, bytes], hurry: bool = True) -> None:
    facts = site.cluster.wait(job, ENDED, hurry=hurry)
    log = site.cluster.log(job)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), log
    assert "resuming at step" in log
    assert site.weights(run) == undisturbed


def assert_refused(site: Site, job: str, *messages: str) -> None:
    facts = site.cluster.wait(job, ENDED)
    log = site.cluster.log(job)
    assert [message for message in messages if message not in log] == [], log
    assert "Traceback" not in log
    assert facts["JobState"] == "FAILED" and facts["ExitCode"] != "0:0" and facts["Restarts"] == "0"


def preempt(site: Site) -> None:
    options = ("--nodes=2", "--ntasks-per-node=8", "--partition=urgent", f"--output={os.devnull}")
    site.cluster.call("sbatch", *options, "--wrap=sleep 1")


def kill_rank(site: Site, job: str, rank: int) -> None:
    """kill -9 of the training process; its launcher has no RANK in its environment."""
    wanted = {f"{name}={value}" for name, value in (("SLURM_JOB_ID", job), ("RANK", rank))}
    wanted.add(f"SLURM_CONF={site.cluster.environment['SLURM_CONF']}")  # this machine may hold other clusters' jobs
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = path.read_text(errors="replace").split("\0")
        except OSError:  # not ours to read, or gone
            continue
        if wanted <= set(environment):
            os.kill(int(path.parent.name), signal.SIGKILL)
            return
    raise AssertionError(f"job {job} has no rank {rank}")


def write_image(path: Path, seed: int = 0) -> None:
    import numpy as np
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
