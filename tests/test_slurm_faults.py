"""Faults of every kind strike a training under SLURM: each comes back, and ends with the bits of one undisturbed.

In each, the last line of the job script's first life must name the true cause. The table is printed at the end.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from slurm_cluster import ENDED
from slurm_site import Site, on_slurm, preempt

SAVED = "the run was asked to stop and is saved; requeued"
GONE = r"rank {0} \(process PID{0} on node{1}\) does not answer any more"
RANK_0_GONE, RANK_1_GONE = GONE.format(0, 1), GONE.format(1, 2)
NO_ROOM = "could not be saved.* free|No space left on device|cannot be written .* free"


def processes(site: Site, job: str) -> Iterator[tuple[int, list[str], dict[str, str]]]:
    """Pid, command line and environment of all that belongs to a job of this cluster."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text(errors="replace").split("\0")
            given = (folder / "environ").read_text(errors="replace").split("\0")
        except OSError:  # not ours to read, or gone
            continue
        values = dict(entry.partition("=")[::2] for entry in given)
        if values.get("SLURM_JOB_ID") == job and values.get("SLURM_CONF") == site.cluster.environment["SLURM_CONF"]:
            yield int(folder.name), command, values


def rank(number: int) -> Callable[[Site, str], int]:
    """The training process; its launcher has no RANK in its environment."""
    return lambda site, job: next(pid for pid, _, values in processes(site, job) if values.get("RANK") == str(number))


def launcher(node: int) -> Callable[[Site, str], int]:
    def find(site: Site, job: str) -> int:
        for pid, command, values in processes(site, job):
            is_it = command[1:3] == ["-m", "accelerate.commands.launch"] and "RANK" not in values
            if is_it and values.get("SLURM_NODEID") == str(node):
                return pid
        raise AssertionError(f"job {job} has no launcher on node {node}")

    return find


def batch_shell(site: Site, job: str) -> int:
    found = [pid for pid, command, _ in processes(site, job) if any("slurm_script" in word for word in command)]
    return min(found)  # its subshells came after it


def send(signal_number: int, *find: Callable[[Site, str], int]) -> Callable[[Site, str], object]:
    def act(site: Site, job: str) -> None:
        for pid in [each(site, job) for each in find]:
            os.kill(pid, signal_number)

    return act


def scancel(*options: str) -> Callable[[Site, str], object]:
    return lambda site, job: site.cluster.call("scancel", *options, job)


def damage(newest: Callable[[Path], object]) -> Callable[[Site, str], object]:
    """Rank 1 is killed, and something of the run is damaged before the next life."""

    def act(site: Site, job: str) -> None:
        send(signal.SIGKILL, rank(1))(site, job)
        site.cluster.wait(job, {"PENDING", *ENDED})
        (run,) = (site.runs / name for name in [site.cluster.facts(job)["JobName"]])
        newest(run)

    return act


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def fill_disk(site: Site, job: str) -> None:
    """All the room there is, and given back once the job has failed of it."""
    ballast = site.small / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError as error:
            assert error.strerror == "No space left on device"
    facts = site.cluster.wait(job, {"PENDING", *ENDED})
    assert facts["JobState"] == "PENDING", site.cluster.log(job)
    ballast.unlink()


@dataclass(frozen=True)
class Fault:
    """What happens to a run in training, at step `at` or later (0: as soon as its job runs); what the log must say.

    `said` is a regular expression; PID0 and PID1 in it are the ranks' processes.
    """

    act: Callable[[Site, str], object]
    said: str
    at: int = 8
    by_slurm: bool = False
    on_small_disk: bool = False
    hurry: bool = True


KILL, STOP, TERM, USR1 = signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGUSR1
FAULTS = {
    "rank 0 killed": Fault(send(KILL, rank(0)), RANK_0_GONE),
    "rank 1 killed": Fault(send(KILL, rank(1)), RANK_1_GONE),
    "both ranks killed": Fault(send(KILL, rank(0), rank(1)), r"Signal 9 \(SIGKILL\) received by PID (PID0|PID1)"),
    "rank 0 stopped": Fault(send(STOP, rank(0)), RANK_0_GONE),
    "rank 1 stopped": Fault(send(STOP, rank(1)), RANK_1_GONE),
    "rank 0 segfaults": Fault(send(signal.SIGSEGV, rank(0)), RANK_0_GONE),
    "rank 1 aborts": Fault(send(signal.SIGABRT, rank(1)), RANK_1_GONE),
    "rank 1 out of memory at once": Fault(send(KILL, rank(1)), RANK_1_GONE, at=4),
    "rank 0 told to stop": Fault(send(TERM, rank(0)), SAVED),
    "rank 1 told to stop": Fault(send(TERM, rank(1)), SAVED),
    "rank 0 warned": Fault(send(USR1, rank(0)), SAVED),
    "rank 1 warned": Fault(send(USR1, rank(1)), SAVED),
    "Ctrl-C in rank 0": Fault(send(signal.SIGINT, rank(0)), SAVED),
    "launcher 0 killed": Fault(send(KILL, launcher(0)), SAVED),
    "launcher 1 killed": Fault(send(KILL, launcher(1)), SAVED),
    "launcher 0 told to stop": Fault(send(TERM, launcher(0)), SAVED),
    "launcher 1 told to stop": Fault(send(TERM, launcher(1)), SAVED),
    "launcher 1 hung up": Fault(send(signal.SIGHUP, launcher(1)), SAVED),  # it hands SIGHUP on, and the worker saves
    "batch shell hung up": Fault(send(signal.SIGHUP, batch_shell), SAVED),
    "batch shell told to stop": Fault(scancel("--batch", "--signal=TERM"), SAVED),
    "warned before the limit": Fault(scancel("--batch", "--signal=USR1"), SAVED),
    "USR1 to all tasks": Fault(scancel("--signal=USR1"), SAVED),
    "USR1 to everybody": Fault(scancel("--full", "--signal=USR1"), SAVED),
    "scontrol requeue": Fault(
        lambda site, job: site.cluster.call("scontrol", "requeue", job), "DUE TO JOB", by_slurm=True
    ),
    "preemption": Fault(lambda site, job: preempt(site), "saved; requeued"),
    "node down": Fault(
        lambda site, job: site.cluster.call("scontrol", "update", "NodeName=node2", "State=DOWN", "Reason=x"),
        "NODE FAILURE",
        by_slurm=True,
        hurry=False,  # a slurmd that was cut off kills what comes too early with the same job id
    ),
    "full disk": Fault(fill_disk, NO_ROOM, on_small_disk=True),
    "full disk at the start": Fault(fill_disk, NO_ROOM, at=0, on_small_disk=True),
    "newest checkpoint damaged": Fault(
        damage(lambda run: cut(max(run.glob("checkpoints/step_*")) / "generator.safetensors")), RANK_1_GONE
    ),
    "last line of metrics cut": Fault(damage(lambda run: cut(run / "metrics.jsonl")), RANK_1_GONE),
}


def first_life(log: str) -> list[str]:
    begins = [number for number, line in enumerate(log.splitlines()) if "train.sbatch: job " in line]
    assert len(begins) == 2, f"{len(begins)} lives:\n{log}"
    return [line for line in log.splitlines()[: begins[1]] if line.strip()]


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    rows: list[str] = []
    yield rows
    head = f"\n\n{len(rows)} faults, each requeued and finished to the same bits:\n"
    lines = [head, "| fault | out of the nodes after | the log's last line |", "| --- | ---: | --- |", *rows]
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n".join(lines), flush=True)


@on_slurm
@pytest.mark.soak
@pytest.mark.parametrize("name", FAULTS)
def test_struck_it_comes_back(name: str, site: Site, undisturbed: dict[str, bytes], table: list[str]) -> None:
    fault = FAULTS[name]
    run = name.replace(" ", "-")
    folder = site.small if fault.on_small_disk else site.runs
    flags = ("--checkpointing.every_steps", "3", "--checkpointing.keep", "2", "--training.log_every", "1")
    job = site.train(run, *flags, options=(f"--job-name={run}",), folder=folder)
    if fault.at:
        site.wait_for_step(run, fault.at, folder)
    else:
        site.cluster.wait(job, {"RUNNING"})
    pids = {number: rank(number)(site, job) for number in (0, 1)} if fault.at else {}
    begun = time.monotonic()
    fault.act(site, job)
    site.cluster.wait(job, {"PENDING", *ENDED})
    seconds = time.monotonic() - begun
    facts = site.cluster.wait(job, ENDED, 600, fault.hurry)
    log = site.cluster.log(job)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), log
    life = first_life(log)
    last = [line for line in life if "train.sbatch:" in line][-1]
    said = fault.said
    for number, pid in pids.items():
        said = said.replace(f"PID{number}", str(pid))
    if fault.by_slurm:  # then the script has no last word
        last = next((line for line in reversed(life) if re.search(said, line)), last)
    assert re.search(said, last), f"{said!r} is not in {last!r}\n{log}"
    assert site.weights(run, folder=folder) == undisturbed
    left = sorted(path.name for path in folder.glob(f"{run}*"))
    assert left == [run], "something is left beside the run"
    table.append(f"| {name} | {seconds:.0f} s | {last.partition('train.sbatch: ')[2] or last} |")
    subprocess.run(["rm", "-r", str(folder / run)], check=True)


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
