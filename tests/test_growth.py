"""What each process does does not grow with the processes, nor what it holds with the images; by counting, not timing.

`benchmarks.growth_processes` forks the processes of a job from one that has imported all, so that many are cheap.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from running import ROOT, environment, metrics, steps

from benchmarks import growth, scaling
from benchmarks.growth_pictures import write_split
from benchmarks.growth_processes import settings
from benchmarks.store_traffic import CountingRelay
from inpaint.distributed import tree
from inpaint.resolve import load_config


def job(folder: Path, run_dir: Path, processes: int, num_steps: int) -> subprocess.Popen[str]:
    """In a session of its own, which all its processes are in."""
    arguments = [str(run_dir), str(processes), str(num_steps), str(folder / "modules.json")]
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.growth_processes", *arguments],
        cwd=ROOT,
        env={**environment(), "INPAINT_CACHE": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(started: subprocess.Popen[str], timeout_s: float = 600.0) -> tuple[dict[str, Any], str]:
    """What it measured, and what its processes said."""
    try:
        out, err = started.communicate(timeout=timeout_s)
    finally:
        kill(started)
    assert started.returncode == 0, err
    return json.loads(out.splitlines()[-1]), err


def kill(started: subprocess.Popen[str]) -> None:
    try:
        os.killpg(started.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    started.wait()


Jobs = dict[int, dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all jobs, so that one finds out for all what is imported."""
    return tmp_path_factory.mktemp("growth")


@pytest.fixture(scope="module")
def jobs(folder: Path) -> Jobs:
    """Two processes, then eight, each with six steps."""
    found = {}
    for processes in (2, 8):
        found[processes], said = ended(job(folder, folder / f"run-{processes}", processes, 6))
        assert "Traceback" not in said and "timeout" not in said
    return found


def test_eight_processes_open_no_more_files_each_than_two(jobs: Jobs) -> None:
    """Those that import what is then there are left out: the first job finds out what that is."""
    places = [by_place(jobs[processes], "files") for processes in (2, 8)]
    imports_nothing = ("meeting", "reading the last checkpoint", "saving")
    for place in imports_nothing:
        assert places[1].get(place, 0) <= 1.2 * places[0].get(place, 0) + 2, places


def by_place(measured: dict[str, Any], what: str) -> dict[str, float]:
    """The mean of the processes that are not the main one."""
    others = measured["processes"][1:]
    names = {place for process in others for place in process["by_place"]}
    return {
        name: sum(process["by_place"].get(name, {}).get(what, 0) for process in others) / len(others) for name in names
    }


def test_the_store_is_asked_little_more_by_each_of_eight_than_by_each_of_two(jobs: Jobs) -> None:
    """For its neighbours on a ring and in a tree, four at most on average, three messages each, in two groups.

    gloo of itself reads the address of every process in every process, and for its barrier of their logarithm.
    """
    asked = {processes: measured["store"]["about groups"] / processes for processes, measured in jobs.items()}
    assert asked[8] <= 2 * (4 * 3 + 1), asked
    connections = {processes: measured["store"]["connections"] / processes for processes, measured in jobs.items()}
    assert connections[8] <= 1.2 * connections[2], connections


@pytest.mark.parametrize("phase", [1, 2, 3])
def test_the_model_of_many_gpus_reckons_with_what_real_steps_exchange(jobs: Jobs, phase: int) -> None:
    for processes, measured in jobs.items():
        predicted = scaling.exchanged(load_config("quickstart", settings(processes, 6)), phase)
        for process in measured["processes"]:
            counted = process["reduced"][str(phase)]
            assert counted["steps"] == 2
            assert counted["gradient_bytes"] == 2 * predicted.gradient_bytes
            assert counted.get("norm_reductions", 0) == 2 * predicted.norm_reductions
            assert counted.get("norm_bytes", 0) == 2 * predicted.norm_bytes
            assert phase == 2 or predicted.norm_reductions


def test_the_memory_of_a_process_does_not_follow_the_images(tmp_path: Path) -> None:
    """400,000 images: less than 100 bytes for each that is not this process's own, holes of all kinds included."""
    write_split(tmp_path, 400_000)
    measured = growth._measured(tmp_path, 400_000, 8, "mixed")
    assert measured["to the first batch"][1] < 100 * 400_000 / 2**20 + 30, measured


def test_slopes_by_hand() -> None:
    assert growth.slope([1, 10, 100], [5, 5, 5]) == pytest.approx(0)
    assert growth.slope([1, 10, 100], [2, 20, 200]) == pytest.approx(1)
    last = growth.grown("x", "s", {10: 1.0, 100: 100.0}, 1000, "images")[-1]
    assert last.value == pytest.approx(10_000) and last.note == "slope 2.00"


# --- what they agree on


@pytest.mark.parametrize("world_size", [2, 5, 9, 40])
def test_the_largest_number_comes_to_every_process(world_size: int, tmp_path: Path) -> None:
    """In forks of a fresh interpreter, since threads of this one's do not survive a fork."""
    code = AGREEING.format(world_size=world_size, store=tmp_path / "store")
    answered = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert answered.stdout.split() == ["ok"] * world_size, answered.stderr[-2000:]


AGREEING = """
import os, random, torch, torch.distributed as dist
from inpaint.distributed.tree import Tree
os.environ["TORCH_GLOO_LAZY_INIT"] = "1"
for rank in range({world_size}):
    if os.fork() == 0:
        num = {world_size}
        dist.init_process_group("gloo", store=dist.FileStore("{store}", num), rank=rank, world_size=num)
        found = Tree(dist.group.WORLD, rank, num)
        values = [[random.Random(1000 * turn + each).randrange(2**40) for each in range(num)] for turn in range(5)]
        begun = [found.begin_max(row[rank]) for row in values]
        assert [wait() for wait in begun] == [max(row) for row in values]
        dist.barrier()
        found.close()
        os.write(1, b"ok\\n")
        os._exit(0)
for _ in range({world_size}):
    os.wait()
"""


def test_the_tree_reaches_everyone_once() -> None:
    for world_size in (2, 33, 1000):
        reached = [rank for parent in range(world_size) for rank in tree.children_of(parent, world_size)]
        assert reached == list(range(1, world_size))
        depth, rank = 0, world_size - 1
        while rank:
            depth, rank = depth + 1, tree.parent_of(rank)
        assert depth <= 5


# --- a machine in which many start


def killed_and_resumed(folder: Path, processes: int) -> None:
    """They meet, train ten steps, save, are all killed at once, and go on to the fourteenth."""
    run = folder / f"killed-{processes}"
    if not (folder / "modules.json").exists():
        ended(job(folder, folder / "rehearsal", 2, 3))
    first = job(folder, run, processes, 10**6)
    deadline = time.monotonic() + 900
    try:
        while max(steps(run), default=0) < 10:
            assert first.poll() is None and time.monotonic() < deadline, first.communicate()[1]
            time.sleep(0.1)
    finally:
        kill(first)
    first.communicate()
    done = steps(run)[-1]
    _, said = ended(job(folder, run, processes, done + 4), 900)
    assert steps(run)[-1] == done + 4
    numbers = [line["step"] for line in metrics(run) if "evaluation/hole_psnr" not in line]
    assert numbers == sorted(set(numbers)) and numbers[-1] == done + 4
    # Where names cannot be resolved torch says so of each connection.
    not_ours = ("img/s", "hostname of the client socket")
    lines = [line for line in said.replace("\r", "\n").splitlines() if line.strip()]
    lines = [line for line in lines if not any(words in line for words in not_ours)]
    # One line for all of what is said once in a start, however many they are.
    assert len(lines) <= 4 and sum("processes on 1 machine" in line for line in lines) == 1, lines


def test_eight_processes_are_killed_and_go_on(folder: Path) -> None:
    killed_and_resumed(folder, 8)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_sixty_four_processes_are_killed_and_go_on(folder: Path) -> None:
    killed_and_resumed(folder, 64)


def test_the_relay_counts_what_goes_through_it() -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with CountingRelay(store.port) as relay:
        client = dist.TCPStore("127.0.0.1", relay.port, is_master=False, wait_for_workers=False)
        before = relay.counted()
        for number in range(5):
            client.add("key", 1)
            assert client.add("key", 0) == number + 1
        after = relay.counted()
        assert after["messages"] - before["messages"] == 10
        assert after["connections"] == 1 and after["bytes"] > before["bytes"]
        del client
    assert store.add("key", 0) == 5
