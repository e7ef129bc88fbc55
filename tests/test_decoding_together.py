"""The processes of a machine decode together: the same bytes however many they are, and whichever of them dies."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shards import NUMS, write_shards

from inpaint.data import journal
from inpaint.data.decode import Decoded
from inpaint.data.recipes import Task
from inpaint.errors import InpaintError
from inpaint.sources.keys import SPLITS

NUM, TASK, NUM_BAD = sum(NUMS.values()), 4, 3

WORKER = """
import os, resource, signal, sys, time
from pathlib import Path
import torch.distributed as dist
from inpaint.data import decode, filling, journal
from inpaint.data.decoded import SyntheticSpec, open_images
from inpaint.distributed.store import once_each
from inpaint.holes.spec import HoleSpec

root, fault, task = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
rank, num = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
filling.TASK_IMAGES, journal.SYNC_BYTES = task, 1
dist.init_process_group("gloo")
original, latest = decode.decode_square, time.monotonic() + 600

def decode_square(*arguments):  # once all have begun, so that nobody does it alone
    os.write(1, b"decoded\\n")
    (root / f"{os.environ['MASTER_PORT']}-{rank}").touch()
    while len(list(root.glob(f"{os.environ['MASTER_PORT']}-*"))) < num:
        assert time.monotonic() < latest, "alone"
        time.sleep(0.01)
    pixels, full = original(*arguments)
    return (255 - pixels if fault == "helper" and rank == 1 else pixels), full

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

decode.decode_square = decode_square
if fault == "helper" and rank == 1:
    filling.replace = die  # wrong pixels are written, and nothing is answered
if fault == "disk" and rank == 1:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
if fault == "moving" and rank == 0:
    filling.sync = die  # the first split's images have just been moved together
if fault == "leader" and rank == 0:
    write, num_written = journal.Journal._write, []
    def _write(self):
        write(self)
        num_written.append(1)
        if len(num_written) == 5:
            die()
    journal.Journal._write = _write
once_a_job, once_a_machine = once_each(rank, num)
open_images(sys.argv[4], HoleSpec.scaled(16), cache_dir=root / "cache", max_bad_fraction=0.1,
              synthetic=SyntheticSpec(1, 1, 1, 0), show_progress=rank == 0, once_a_job=once_a_job,
              once_a_machine=once_a_machine)
if rank == 0:
    sys.stdin.readline()  # the store goes with this process
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with holes of its own, and three images in train that cannot be used."""
    root = write_shards(tmp_path_factory.mktemp("shards"))
    path = sorted((root / "data").glob("train-*"))[1]
    table = pq.read_table(path)
    images = table["image"].to_pylist()
    for row in range(10, 10 + NUM_BAD):
        images[row]["bytes"] = b"no image"
    where = table.column_names.index("image")
    spoilt = table.set_column(where, table.schema.field(where), pa.array(images, table.schema.field(where).type))
    pq.write_table(spoilt, path, row_group_size=5)
    return root


@pytest.fixture(scope="module")
def alone(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("alone")
    live(root, shards, 1)
    return entry_in(root)


def live(root: Path, shards: Path, num: int, fault: str = "") -> list[tuple[int, str]]:
    """One life of so many processes: how many images each decoded, and what it said."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = str(listening.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(num), "LOCAL_WORLD_SIZE": str(num)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(root), fault, str(TASK), str(shards)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num)
    ]
    if fault in ("leader", "moving"):  # as a launcher does
        processes[0].wait()
        for process in processes[1:]:
            process.kill()
    ended = [process.communicate("\n") for process in reversed(processes)][::-1]
    return [(out.count("decoded\n"), err) for out, err in ended]


def entry_in(root: Path) -> dict[str, bytes]:
    assert not list((root / "cache").glob("*.partial-*"))
    (entry,) = (path for path in (root / "cache").iterdir() if path.is_dir())
    return {path.name: path.read_bytes() for path in entry.iterdir()}


def test_what_one_decodes_alone(alone: dict[str, bytes]) -> None:
    names = {f"{split}.{end}" for split in SPLITS for end in ("npy", "arrow")}
    assert alone.keys() == names | {"entry.json", "bad.txt"}
    facts = json.loads(alone["entry.json"])
    assert len(facts["bad"]) == NUM_BAD and facts["num_pictures"] == NUM


@pytest.mark.parametrize("num", [2, 3])
def test_several_share_the_work_and_write_the_same_bytes(
    num: int, shards: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    ended = live(tmp_path, shards, num)
    assert entry_in(tmp_path) == alone
    assert sum(decoded for decoded, _ in ended) == NUM and min(decoded for decoded, _ in ended) > 0
    assert [f"{NUM}/{NUM}" in said for _, said in ended] == [True] + [False] * (num - 1)
    assert ["decoding" in said for _, said in ended] == [True] + [False] * (num - 1)


def test_what_a_killed_helper_had_begun_is_done_again(shards: Path, alone: dict[str, bytes], tmp_path: Path) -> None:
    ended = live(tmp_path, shards, 2, "helper")
    assert ended[1][0] > 0
    assert entry_in(tmp_path) == alone
    assert ended[0][0] == NUM


def test_a_helper_that_cannot_write_is_heard_of(shards: Path, tmp_path: Path) -> None:
    for _, said in live(tmp_path, shards, 2, "disk"):
        assert "cannot write to the cache of decoded images" in said and "(File too large)" in said
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_a_killed_decoding_goes_on(shards: Path, alone: dict[str, bytes], tmp_path: Path) -> None:
    live(tmp_path, shards, 2, "leader")
    (known,) = (tmp_path / "cache").glob("*.partial-*/journal.jsonl")
    assert len(known.read_text().splitlines()) == 5
    with known.open("a") as file:
        file.write('{"task": 1, "ro')
    ended = live(tmp_path, shards, 2)
    assert sum(decoded for decoded, _ in ended) == NUM - 5 * TASK
    assert entry_in(tmp_path) == alone


def test_one_that_was_killed_while_it_closed_gaps_begins_anew(
    shards: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    live(tmp_path, shards, 1, "moving")
    assert list((tmp_path / "cache").glob("*.partial-*/train.npy"))
    assert live(tmp_path, shards, 1)[0][0] == NUM
    assert entry_in(tmp_path) == alone


@pytest.mark.parametrize(("limit", "least"), [("SYNC_BYTES", 1), ("SYNC_S", 0.0)])
def test_a_journal_is_gone_on_with_after_half_a_line_and_only_for_the_same_images(
    limit: str, least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, limit, least)
    tasks = [Task(np.zeros(1, np.int8), np.array([place]), lambda: part) for place in range(4)]
    part = Decoded(np.empty(0, np.uint8), [0], np.array([[1, 2, 3, 4, 5, 6, 7]], np.int32), ("b.png: truncated",))

    def decoded(num: int, tasks: list[Task] = tasks) -> list[int]:
        """The images that were not known, among the first so many; all but the last reach the journal meanwhile."""
        asked = []

        def decode(left: Iterator[Task]) -> journal.Results:
            for task in left:
                asked.append(int(task.places[0]))
                yield task, task.decode()

        with closing(journal.Journal(tmp_path).results(iter(tasks), decode, 1)) as results:
            seen = list(islice(results, num))
            path = tmp_path / "journal.jsonl"
            assert (path.read_text().count("\n") if path.exists() else 0) == num - 1
        assert [task for task, _ in seen] == tasks[:num]
        for _, its in seen:
            assert its.coordinates is not None and its.coordinates.tolist() == [[1, 2, 3, 4, 5, 6, 7]]
            assert (its.rows, its.bad) == ([0], ("b.png: truncated",))
        return asked

    assert decoded(2) == [0, 1]
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"task": 1, "ro')
    assert decoded(3) == [2]
    assert decoded(4) == [3]
    with pytest.raises(InpaintError, match=f"the half-decoded images in {tmp_path} were others"):
        decoded(4, tasks[::-1])
