"""What one process does for several is done once, takes as long as it takes, and fails for all alike."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from coloured import SPEC, SYNTHETIC, folder_of, many
from running import tiny_config, train

from inpaint.data.decoded import Once, open_images

WORKER = """
import os, sys, time
import torch.distributed as dist
from inpaint.errors import InpaintError
from inpaint.distributed import store as sharing
rank = int(os.environ["RANK"])
store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), is_master=rank == 0, wait_for_workers=False)
sharing.WAIT_S = 0.2  # shorter than what is waited for

def act():
    print("acts", flush=True)
    time.sleep(1.5)
    return f"by {rank}"

def fail():
    raise InpaintError("no such folder")

said = [sharing.once("job", 2, rank == 0, act), sharing.once(f"machine {rank}", 1, True, lambda: f"own {rank}")]
try:
    sharing.once("job", 2, rank == 0, fail)
except InpaintError as error:
    said.append(str(error))
print(*said, sep=";", flush=True)
store.set(f"done {rank}", "")
store.wait(["done 0", "done 1"])
if rank == 0:
    time.sleep(0.5)  # the store goes with this process
"""


def test_once_for_all_however_long_it_takes_and_alike_where_it_fails(free_port: int) -> None:
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER], env={**environment, "RANK": rank}, stdout=subprocess.PIPE, text=True
        )
        for rank in "01"
    ]
    said = [worker.communicate(timeout=900)[0].splitlines() for worker in workers]
    assert said == [["acts", "by 0;own 0;no such folder"], ["by 0;own 1;no such folder"]]


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def test_a_process_that_is_not_the_first_never_looks_at_the_images(tmp_path: Path) -> None:
    """Neither to name the entry nor to read it: the folder may be gone for all it cares."""
    root = folder_of(tmp_path / "photos", many())
    told: list[str] = []

    def first(act: Callable[[], str]) -> str:
        told.append(act())
        return told[-1]

    def opened(once_a_job: Once, once_a_machine: Once) -> list:
        return open_images(
            str(root),
            SPEC,
            cache_dir=tmp_path / "cache",
            max_bad_fraction=0.0,
            synthetic=SYNTHETIC,
            show_progress=False,
            once_a_job=once_a_job,
            once_a_machine=once_a_machine,
        )["train"].pixels.tolist()

    expected = opened(first, first)
    root.rename(tmp_path / "gone")
    again = iter(told)
    assert opened(lambda act: next(again), lambda act: next(again)) == expected


def test_two_processes_train_from_a_folder_that_is_not_there_and_say_it_once(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, data={"path": str(tmp_path / "nowhere"), "image_size": 16})
    ended = train("--config", config, "--run-dir", tmp_path / "run", processes=2)
    assert ended.stderr.count("nowhere does not exist; give a folder of images") == 1
