"""The SLURM scripts on a real SLURM of two nodes: they finish, come back, refuse bad input, know when to give up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
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
        deadline = time.monotonic() + 300
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


def test_faults_name_their_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "slurm")
    from preflight import Node, faults

    nodes = [
        Node("a", 0, 2, None, code="1", software="s", data="missing", token="t", trouble=("no pictures",)),
        Node("b", 1, 2, 1, code="1", software="s", data="d", token="t"),
        Node("c", 2, 2, 2, code="2", software="s", data="d", token="not there"),
    ]
    found = faults(nodes, ["a", "b", "c", "d"], processes_per_node=2, use_cpu=False, token="t", port=0)
    starts = ("d did not answer", "a: no pictures", "b was given 2 GPU(s), but", "c does not see", "c has other code")
    assert len(found) == len(starts) and all(map(str.startswith, found, starts)), found
    alike = [Node(name, number, 2, None, "1", "s", "d", "t") for number, name in enumerate("ab")]
    assert faults(alike, ["a", "b"], processes_per_node=2, use_cpu=False, token="t", port=0) == []


def test_table_of_runs_has_the_best_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "slurm")
    from summary import main

    for name, psnr in {"worse": 20.0, "better": 21.5, "unfinished": None}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
        if psnr is not None:
            ours = {"hole_psnr": psnr, "hole_ssim": 0.5, "hole_l1": 0.1}
            facts = {"rows": {"generator": ours}, "epochs": 3, "images_seen": 96}
            (tmp_path / name / "evaluation.json").write_text(json.dumps(facts))
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "table.md").read_text().splitlines()[2:] == [
        "| better | 3 | 96 | 21.50 | 0.5000 | 0.1000 |",
        "| worse | 3 | 96 | 20.00 | 0.5000 | 0.1000 |",
        "| unfinished | - | - | - | - | - |",
    ]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_scripts_pass_shellcheck() -> None:
    done = subprocess.run(["shellcheck", *map(str, SCRIPTS)], capture_output=True, text=True)
    assert len(SCRIPTS) == 3 and done.returncode == 0, done.stdout


@on_slurm
def test_two_nodes_train_what_two_processes_train(site: Site, undisturbed: dict[str, bytes]) -> None:
    job = site.train("plain", PREFLIGHT="full", TABLE_DIR=str(site.runs))
    assert site.cluster.wait(job, ENDED)["JobState"] == "COMPLETED", site.cluster.log(job)
    assert site.weights("plain") == undisturbed
    log = site.cluster.log(job)
    rows = [line.split()[:2] for line in log.splitlines() if line.startswith("node")]
    assert rows == [["node", "ranks"], ["node1", "0"], ["node2", "1"]]
    assert "2 process(es) on 2 machine(s)" in log and "all-reduce of 16 MiB over 2 processes on cpu" in log
    assert "\n| plain | 2 | 512 | " in (site.runs / "table.md").read_text()
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


REFUSED: dict[str, tuple[dict[str, str], tuple[str, ...], str]] = {
    "no run directory": ({}, ("--config", "quickstart"), "no run directory: give --run-dir DIR or set RUN_DIR"),
    "no Python": ({"PYTHON": "/nowhere/python"}, ("--run-dir", "bad"), "PYTHON=/nowhere/python does not run on node1"),
    "no repository": ({"REPOSITORY": "/tmp"}, ("--run-dir", "bad"), "/tmp holds no train.py"),
    "bad setting": ({}, ("--run-dir", "bad", "--training.epoks", "3"), "did you mean training.epochs?"),
    "a second life that overwrites": ({}, ("--run-dir", "bad", "--no-resume"), "would throw its first away"),
}


@on_slurm
@pytest.mark.parametrize("case", REFUSED)
def test_bad_settings_are_named_and_not_tried_again(site: Site, case: str) -> None:
    settings, arguments, message = REFUSED[case]
    script = site.repository / "slurm/train.sbatch"
    job = site.cluster.submit(script, *arguments, options=("--nodes=2",), settings=site.settings | settings)
    assert_refused(site, job, message)


@on_slurm
def test_an_allocation_that_does_not_fit_is_refused(site: Site) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        settings = {"ACCELERATE_CONFIG": "accelerate_configs/multi_node.yaml", "PROCESSES_PER_NODE": "3"}
        job = site.train("bad", options=("--gpus-per-node=2",), MASTER_PORT=port, **settings)
        assert_refused(
            site,
            job,
            "node1 has 2 GPU(s) for 3 process(es): ask for sbatch --gpus-per-node=3",
            "node2 has 2 GPU(s) for 3 process(es)",
            f"port {port} on node1 cannot be had (Address already in use)",
            "global_batch_size = 16 cannot be divided among 6 processes",
        )


@on_slurm
def test_a_node_that_sees_something_else_is_named(site: Site) -> None:
    root, presets, runs = site.runs.parent, site.repository / "inpaint/presets", site.runs / "nested"
    photos, empty, other_presets = root / "photos", root / "empty", root / "presets"
    for folder in (photos, empty, runs):
        folder.mkdir()
    write_picture(photos / "one.png")
    shutil.copytree(presets, other_presets)
    (other_presets / "quickstart.yaml").write_text("training: {epochs: 3}\n")
    with ExitStack() as mounts:
        for path, other in {runs: empty, photos: empty, presets: other_presets}.items():
            mounts.enter_context(site.cluster.seen_as("node2", path, other))
        job = site.train("nested/bad", "--data.path", str(photos))
        assert_refused(
            site,
            job,
            "node2 does not see this run directory (No such file or directory",
            f"node2: no pictures found in {photos}",
            "node2 has other code than node1",
        )
    assert "preflight: node1" not in site.cluster.log(job)


INTERRUPTIONS: dict[str, Callable[[Site, str], object]] = {
    "scontrol requeue": lambda site, job: site.cluster.call("scontrol", "requeue", job),
    "preemption": lambda site, job: preempt(site),
    # Its slurmd lives, so that the node comes back by itself.
    "node down": lambda site, job: site.cluster.call("scontrol", "update", "NodeName=node2", "State=DOWN", "Reason=x"),
    "rank killed": lambda site, job: kill_rank(site, job, 1),
    "main rank killed": lambda site, job: kill_rank(site, job, 0),
}


@on_slurm
@pytest.mark.soak
@pytest.mark.timeout(1500)
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
    deadline = time.monotonic() + 200
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
@pytest.mark.timeout(1500)
def test_a_real_time_limit(site: Site) -> None:
    """Set in the middle of a training that lasts longer than SLURM takes to look at its limits, every half minute."""
    epochs = ("--training.epochs", "120", "--evaluation.every_epochs", "60")
    job = site.train("limit", *epochs, options=("--signal=B:USR1@110",))
    site.wait_for_step("limit")
    hours, minutes, _ = map(int, site.cluster.facts(job)["RunTime"].split(":"))
    site.cluster.call("scontrol", "update", f"jobid={job}", f"TimeLimit={60 * hours + minutes + 2}")
    assert site.cluster.wait(job, {"PENDING", *ENDED})["JobState"] == "PENDING", site.cluster.log(job)
    site.cluster.call("scontrol", "update", f"jobid={job}", "TimeLimit=60")
    undisturbed = site.train("no-limit", *epochs)
    assert site.cluster.wait(job, ENDED, 1200)["JobState"] == "COMPLETED", site.cluster.log(job)
    log = site.cluster.log(job)
    assert site.cluster.facts(job)["Restarts"] == "1" and "is told" in log and "resuming at step" in log, log
    site.cluster.wait(undisturbed, {"COMPLETED"}, 1200)
    assert site.weights("limit", 60 * NUM_STEPS) == site.weights("no-limit", 60 * NUM_STEPS)


@on_slurm
@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_table1_runs_all_eight(site: Site) -> None:
    smaller = (
        *("--training.epochs", "1", "--training.global_batch_size", "16", "--data.synthetic_train", "64"),
        *("--data.synthetic_held_out", "32", "--data.image_size", "32", "--model.width", "4"),
    )
    job = site.cluster.submit(
        site.repository / "slurm/table1.sbatch", *smaller, settings=site.settings | {"TABLE_DIR": str(site.runs / "t1")}
    )
    most = 0
    deadline = time.monotonic() + 1200
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


def assert_refused(site: Site, job: str, *messages: str) -> None:
    facts = site.cluster.wait(job, ENDED, 90)
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


def write_picture(path: Path, seed: int = 0) -> None:
    import numpy as np
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
