"""The SLURM scripts on a real SLURM of two nodes: they finish, come back, refuse bad input, know when to give up."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from slurm_cluster import ENDED, SlurmCluster, why_not

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = sorted((REPOSITORY / "slurm").glob("*.sbatch"))
WEIGHTS = ("generator", "discriminator", "generator_ema", "optimizer_generator", "optimizer_discriminator")
NUM_STEPS = 32
TINY = """\
data: {synthetic_train: 256, synthetic_held_out: 64, image_size: 32, holes: resampled}
model: {width: 4, norm: group}
training: {epochs: 2, global_batch_size: 16, log_every: 4, phases: [0.4, 0.3, 0.3]}
evaluation: {num_pictures: 32}
"""

on_slurm = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


@dataclass
class Site:
    """A cluster, a checkout that nobody edits meanwhile, and a folder for runs."""

    cluster: SlurmCluster
    repository: Path
    runs: Path
    settings: dict[str, str]

    def train(self, run: str, *arguments: str, options: tuple[str, ...] = (), **settings: str) -> str:
        """Hand in the tiny training on both nodes, one process on each; returns the job's id."""
        return self.cluster.submit(
            self.repository / "slurm/train.sbatch",
            *("--config", str(self.repository / "tiny.yaml"), "--run-dir", str(self.runs / run), *arguments),
            options=("--nodes=2", *options),
            settings=self.settings | settings,
        )

    def wait_for_step(self, run: str, step: int = 4) -> None:
        """Until the run has logged `step`."""
        path = self.runs / run / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not path.exists() or f'"step": {step},' not in path.read_text():
            assert time.monotonic() < deadline, f"{run} did not come to step {step}"
            time.sleep(0.1)

    def weights(self, run: str, step: int = NUM_STEPS) -> dict[str, bytes]:
        folder = self.runs / run / f"checkpoints/step_{step:08d}"
        return {name: (folder / f"{name}.safetensors").read_bytes() for name in WEIGHTS}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("site")
    repository = root / "repository"
    for name in ("inpaint", "accelerate_configs", "slurm"):
        shutil.copytree(REPOSITORY / name, repository / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "train.py", repository)
    (repository / "tiny.yaml").write_text(TINY)
    (root / "runs").mkdir()
    settings = {
        "PYTHON": sys.executable,
        "ACCELERATE_CONFIG": "accelerate_configs/cpu.yaml",
        "PROCESSES_PER_NODE": "1",
        "NETWORK_INTERFACE": "lo",
        "PREFLIGHT": "nodes",
        "OMP_NUM_THREADS": "1",
        "INPAINT_CACHE": str(root / "cache"),
    }
    with SlurmCluster(num_nodes=2) as cluster:
        yield Site(cluster, repository, root / "runs", settings)


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> dict[str, bytes]:
    """The final weights of the tiny training in two processes without SLURM."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]
    command += ["train.py", "--config", "tiny.yaml", "--run-dir", str(site.runs / "reference")]
    environment = os.environ | site.settings | {"PYTHONPATH": str(site.repository)}
    done = subprocess.run(command, cwd=site.repository, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return site.weights("reference")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_scripts_pass_shellcheck() -> None:
    done = subprocess.run(["shellcheck", *map(str, SCRIPTS)], capture_output=True, text=True)
    assert len(SCRIPTS) == 3 and done.returncode == 0, done.stdout


@on_slurm
def test_two_nodes_train_what_two_processes_train(site: Site, undisturbed: dict[str, bytes]) -> None:
    job = site.train("plain", PREFLIGHT="full")
    assert site.cluster.wait(job, ENDED)["JobState"] == "COMPLETED", site.cluster.log(job)
    assert site.weights("plain") == undisturbed
    log = site.cluster.log(job)
    rows = [line.split()[:2] for line in log.splitlines() if line.startswith("node")]
    assert rows == [["node", "ranks"], ["node1", "0"], ["node2", "1"]]
    assert "2 process(es) on 2 machine(s)" in log and "all-reduce of 16 MiB over 2 processes on cpu" in log
    assert sorted(path.name for path in site.runs.glob("plain*")) == ["plain"], "something is left beside the run"
    assert not list((site.runs / "plain").glob(".*"))


@on_slurm
def test_warned_before_its_time_limit_it_saves_and_comes_back(site: Site, undisturbed: dict[str, bytes]) -> None:
    job = site.train("warned")
    site.wait_for_step("warned")
    site.cluster.call("scancel", "--batch", "--signal=USR1", job)
    assert_back_and_equal(site, job, "warned", undisturbed)
    log = site.cluster.log(job)
    assert "rank 0 (process" in log and "requeued (restart 1 of at most 100)" in log
    resumed = int(log.partition("resuming at step ")[2].split()[0])
    assert 4 <= resumed < NUM_STEPS, "it did not go on from where it was asked to stop"


@on_slurm
def test_one_that_always_fails_is_given_up(site: Site) -> None:
    photos = site.runs.parent / "too few"
    photos.mkdir()
    write_picture(photos / "one.png")
    job = site.train("failing", "--data.path", str(photos), options=("--nodes=1",), MAX_FAILURES="2")
    facts = site.cluster.wait(job, ENDED)
    log = site.cluster.log(job)
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", "1:0", "1"), log
    *_, why, end = log.strip().splitlines()
    assert "the training failed (exit code 1): inpaint: the" in why and "split of" in why
    assert "given up after 2 failure(s) without a new checkpoint" in end


BAD_INPUT: dict[str, tuple[dict[str, str], tuple[str, ...], str]] = {
    "too few GPUs": (
        {"ACCELERATE_CONFIG": "accelerate_configs/multi_node.yaml", "PROCESSES_PER_NODE": "4"},
        (),
        "node2 has 2 GPU(s) for 4 process(es): ask for sbatch --gpus-per-node=4",
    ),
    "batch not divisible": ({"PROCESSES_PER_NODE": "3"}, (), "global_batch_size = 16 cannot be divided among 6"),
    "bad setting": ({}, ("--training.epoks", "3"), "did you mean training.epochs?"),
    "no Python": ({"PYTHON": "/nowhere/python"}, (), "PYTHON=/nowhere/python does not run on node1"),
    "no repository": ({"REPOSITORY": "/tmp"}, (), "/tmp holds no train.py"),
    "second life would overwrite": ({}, ("--no-resume", "--overwrite"), "second life would throw its first away"),
}


@on_slurm
@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_settings_are_named_and_not_tried_again(site: Site, case: str) -> None:
    settings, arguments, message = BAD_INPUT[case]
    job = site.train("bad", *arguments, options=("--gpus-per-node=2",), **settings)
    assert_refused(site, job, message)


@on_slurm
def test_no_run_directory_and_a_taken_port(site: Site) -> None:
    script = site.repository / "slurm/train.sbatch"
    job = site.cluster.submit(script, "--config", "quickstart", settings=site.settings)
    assert_refused(site, job, "no run directory: give --run-dir DIR or set RUN_DIR")
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_refused(site, site.train("bad", MASTER_PORT=str(port)), f"port {port} on node1 cannot be had (Address")


@on_slurm
@pytest.mark.parametrize("what", ["run directory", "data", "code"])
def test_a_node_that_sees_something_else_is_named(site: Site, what: str) -> None:
    root = site.runs.parent / f"other {what}"
    photos, elsewhere, other_presets = root / "photos", root / "empty", root / "presets"
    for folder in (photos, elsewhere):
        folder.mkdir(parents=True)
    for number in range(3):
        write_picture(photos / f"{number}.png")
    presets = site.repository / "inpaint/presets"
    shutil.copytree(presets, other_presets)
    (other_presets / "quickstart.yaml").write_text("training: {epochs: 3}\n")
    (site.runs / "nested").mkdir(exist_ok=True)
    mounts: dict[str, AbstractContextManager[None]] = {
        "run directory": site.cluster.seen_as("node2", site.runs / "nested", elsewhere),
        "data": site.cluster.seen_as("node2", photos, elsewhere),
        "code": site.cluster.seen_as("node2", presets, other_presets),
    }
    message = {
        "run directory": "node2 does not see this run directory (No such file or directory",
        "data": f"node2: no pictures found in {photos}",
        "code": "node2 has other code than node1",
    }[what]
    with mounts[what]:
        job = site.train("nested/bad", "--data.path", str(photos))
        assert_refused(site, job, message)
    assert "preflight: node1" not in site.cluster.log(job)


INTERRUPTIONS: dict[str, Callable[[Site, str], object]] = {
    "scontrol requeue": lambda site, job: site.cluster.call("scontrol", "requeue", job),
    "preemption": lambda site, job: preempt(site),
    "node down": lambda site, job: take_node_down(site, job),
    "rank killed": lambda site, job: kill_rank(site, job, 1),
    "main rank killed": lambda site, job: kill_rank(site, job, 0),
}


@on_slurm
@pytest.mark.soak
@pytest.mark.parametrize("how", INTERRUPTIONS)
def test_interrupted_it_comes_back(site: Site, undisturbed: dict[str, bytes], how: str) -> None:
    run = how.replace(" ", "-")
    job = site.train(run, "--checkpointing.every_steps", "3")
    site.wait_for_step(run, 8)
    INTERRUPTIONS[how](site, job)
    assert_back_and_equal(site, job, run, undisturbed, hurry=how != "node down")


@on_slurm
@pytest.mark.soak
@pytest.mark.parametrize("how", ["preemption", "warning"])
def test_interrupted_in_the_preflight_it_comes_back(site: Site, how: str) -> None:
    job = site.train(f"early-{how}", PREFLIGHT="full")
    deadline = time.monotonic() + 60
    while "node2  1" not in site.cluster.log(job):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(2)
    preempt(site) if how == "preemption" else site.cluster.call("scancel", "--batch", "--signal=USR1", job)
    facts = site.cluster.wait(job, ENDED)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), site.cluster.log(job)
    assert "asked to stop before training began" in site.cluster.log(job)


@on_slurm
@pytest.mark.soak
def test_cancelled_it_stays_cancelled(site: Site) -> None:
    job = site.train("cancelled")
    site.wait_for_step("cancelled")
    site.cluster.call("scancel", job)
    site.cluster.wait(job, ENDED)
    time.sleep(10)
    facts = site.cluster.facts(job)
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0"), site.cluster.log(job)


@on_slurm
@pytest.mark.soak
def test_a_real_time_limit(site: Site) -> None:
    """SLURM looks at limits every 30 s: of 2 minutes, with a warning 60 s before, the training sees about one."""
    epochs = ("--training.epochs", "20", "--evaluation.every_epochs", "10")
    job = site.train("limit", *epochs, options=("--time=2", "--signal=B:USR1@60"))
    undisturbed = site.train("no-limit", *epochs)
    assert site.cluster.wait(job, ENDED, 560)["JobState"] == "COMPLETED", site.cluster.log(job)
    assert int(site.cluster.facts(job)["Restarts"]) >= 1, "the limit was not reached"
    site.cluster.wait(undisturbed, {"COMPLETED"}, 560)
    assert site.weights("limit", 10 * NUM_STEPS) == site.weights("no-limit", 10 * NUM_STEPS)


@on_slurm
@pytest.mark.soak
def test_table1_runs_all_eight(site: Site) -> None:
    smaller = (
        *("--training.epochs", "1", "--training.global_batch_size", "16", "--data.synthetic_train", "64"),
        *("--data.synthetic_held_out", "32", "--data.image_size", "32", "--model.width", "4"),
    )
    job = site.cluster.submit(
        site.repository / "slurm/table1.sbatch", *smaller, settings=site.settings | {"TABLE_DIR": str(site.runs / "t1")}
    )
    most = 0
    deadline = time.monotonic() + 560
    while listed := site.cluster.call("squeue", "--noheader", "--format=%T", f"--jobs={job}").split():
        most = max(most, listed.count("RUNNING"))
        assert time.monotonic() < deadline
        time.sleep(1)
    assert most == 2
    lines = (site.runs / "t1/table.md").read_text().splitlines()[2:]
    presets = {path.stem for path in (REPOSITORY / "inpaint/presets/paper").glob("*.yaml")} - {"final"}
    assert len(presets) == 8
    assert {line.split()[1] for line in lines} == presets
    for line in lines:
        _, _, epochs, _, psnr, ssim, l1, _ = (cell.strip() for cell in line.split("|"))
        assert epochs == "1" and float(psnr) > 0 and 0 < float(l1) < 1 and -1 < float(ssim) < 1


@on_slurm
@pytest.mark.soak
def test_staged_pictures_are_read_from_the_nodes_own_disk(site: Site, undisturbed: dict[str, bytes]) -> None:
    scratch = site.runs.parent / "scratch"
    job = site.train("staged", STAGE_DIR=str(scratch))
    assert site.cluster.wait(job, ENDED)["JobState"] == "COMPLETED", site.cluster.log(job)
    assert site.weights("staged") == undisturbed
    entries = {path.name for path in scratch.iterdir() if path.is_dir()}
    assert len(entries) == 1 and entries <= {path.name for path in (site.runs.parent / "cache").iterdir()}


@on_slurm
@pytest.mark.soak
def test_prepare_on_two_nodes(site: Site) -> None:
    source, out = site.runs.parent / "source", site.runs.parent / "prepared"
    for number in range(40):
        write_picture(source / f"class{number % 2}" / f"{number}.png", seed=number)
    job = site.cluster.submit(
        site.repository / "slurm/prepare.sbatch",
        *("--source", str(source), "--out", str(out), "--chunk-pictures", "10", "--workers", "1"),
        options=("--nodes=2", "--cpus-per-task=1"),
        settings=site.settings,
    )
    assert site.cluster.wait(job, ENDED)["JobState"] == "COMPLETED", site.cluster.log(job)
    assert len((out / "holes.csv").read_text().splitlines()) == 41


def assert_back_and_equal(site: Site, job: str, run: str, undisturbed: dict[str, bytes], hurry: bool = True) -> None:
    facts = site.cluster.wait(job, ENDED, 400, hurry)
    log = site.cluster.log(job)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), log
    assert "resuming at step" in log
    assert site.weights(run) == undisturbed


def assert_refused(site: Site, job: str, message: str) -> None:
    facts = site.cluster.wait(job, ENDED, 90)
    log = site.cluster.log(job)
    assert message in log, log
    assert "Traceback" not in log
    assert facts["JobState"] == "FAILED" and facts["ExitCode"] != "0:0" and facts["Restarts"] == "0"


def preempt(site: Site) -> None:
    options = ("--nodes=2", "--ntasks-per-node=8", "--partition=urgent", f"--output={os.devnull}")
    site.cluster.call("sbatch", *options, "--wrap=sleep 1")


def take_node_down(site: Site, job: str) -> None:
    site.cluster.call("scontrol", "update", "NodeName=node2", "State=DOWN", "Reason=test")
    deadline = time.monotonic() + 60
    while site.cluster.facts(job)["Restarts"] == "0" and time.monotonic() < deadline:
        time.sleep(0.2)
    site.cluster.call("scontrol", "update", "NodeName=node2", "State=RESUME")


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


def write_picture(path: Path, seed: int = 0) -> None:
    import numpy as np
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
