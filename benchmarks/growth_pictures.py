"""One process of the suite `growth`: what so many images cost it, of which it trains on one of so many shares.

`python -m benchmarks.growth_pictures FOLDER NUM PROCESSES HOLES` prints JSON: by part the seconds of its processor, and
how many MiB more than before it holds at most.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from inpaint.config import DataConfig
from inpaint.data import draws
from inpaint.data.batches import BatchLoader
from inpaint.data.decoded import DecodedSplit, _open_split
from inpaint.data.filling import fill
from inpaint.data.recipes import SyntheticRecipe, SyntheticSpec
from inpaint.holes.kinds import MIXED
from inpaint.sources.keys import key_hash

SIZE, SHARE = 16, 16


def write_split(folder: Path, num: int) -> None:
    """The files of a split as the cache holds it, all black and with holes in the file: it takes no room."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (num, SIZE, SIZE, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + num * SIZE * SIZE * 3)
    hashes = np.random.default_rng(0).integers(0, 2**63, num, dtype=np.uint64)
    sources = pa.array((f"field/{index:08d}.jpg" for index in range(num)), pa.string())
    table = pa.table({"source": sources, "key_hash": hashes})
    with pa.ipc.new_file(str(folder / "train.arrow"), table.schema) as writer:
        writer.write_table(table)


class Measured:
    """By part: seconds of the processor, and the most memory beyond that of the start, in MiB."""

    def __init__(self) -> None:
        self.start_mib, self.parts = _resident_mib(), dict[str, tuple[float, float]]()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        most, ended = [_resident_mib()], threading.Event()

        def watch() -> None:
            while not ended.wait(0.01):
                most.append(max(most.pop(), _resident_mib()))

        watching = threading.Thread(target=watch)
        watching.start()
        before = time.process_time()
        try:
            yield
        finally:
            spent = time.process_time() - before
            ended.set()
            watching.join()
            self.parts[name] = spent, max(*most, _resident_mib()) - self.start_mib


def _resident_mib() -> float:
    """Without pages of files, which belong to all processes of a machine."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if "kB" in line)
    return int(fields["RssAnon"].split()[0]) / 1024


def longest_gap_s(act: Callable[[], object]) -> float:
    """The longest that another thread had to wait for Python meanwhile, of the processor's seconds of the program."""
    longest, ended = [0.0], threading.Event()

    def tick() -> None:
        last = time.process_time()
        while not ended.is_set():
            time.sleep(0.0005)
            now = time.process_time()
            longest[0], last = max(longest[0], now - last), now

    ticking = threading.Thread(target=tick)
    ticking.start()
    act()
    ended.set()
    ticking.join()
    return longest[0]


def measure(folder: Path, num: int, processes: int, holes: str) -> dict[str, tuple[float, float]]:
    measured = Measured()
    kinds = MIXED if holes == "mixed" else {holes: 1.0}
    config = DataConfig(image_size=SIZE, holes="resampled", hole_kinds=kinds, flip=True)
    with measured.part("open the memory map"):
        split: DecodedSplit = _open_split(folder, "train", config.hole_spec)
    with measured.part("order of an epoch"):
        draws.epoch_order(num, 0, 1)
    feed = BatchLoader(split, config, 0, SHARE * processes, 0, processes)
    batches = feed.batches(1, 0)
    with measured.part("to the first batch"):
        next(batches)
    with measured.part("64 more batches"):
        for _ in range(64):
            next(batches)
    batches.close()
    gap_s = longest_gap_s(lambda: feed._plan(2, 0))
    measured.parts["longest that a step waits for the plan"] = gap_s, 0.0
    return measured.parts


def decode(folder: Path, num: int) -> dict[str, tuple[float, float]]:
    """Synthetic landscapes into an entry of the cache."""
    measured = Measured()
    recipe = SyntheticRecipe(SyntheticSpec(num, 8, 8, seed=0), SIZE)
    (folder / "decoded").mkdir(parents=True)
    with measured.part("fill the cache"):
        fill(folder / "decoded", folder / "entry", recipe, SIZE, 0.0, show_progress=False)
    with measured.part("hash the keys"):
        [key_hash(str(index)) for index in range(num)]
    return measured.parts


if __name__ == "__main__":
    where, how_many, how_many_processes, kinds = sys.argv[1:]
    if kinds == "decode":
        print(json.dumps(decode(Path(where), int(how_many))))
    else:
        print(json.dumps(measure(Path(where), int(how_many), int(how_many_processes), kinds)))
