"""Processes that prepare one dataset together: each does what nobody does, none waits, none reads what others do."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from preparing import contents, landscape, options, ran

from inpaint.errors import InpaintError
from inpaint.prepare import run
from inpaint.prepare.chunks import chunks_of
from inpaint.prepare.people import PeopleFilter
from inpaint.prepare.run import WORK_FOLDER, prepare
from inpaint.prepare.sharing import WRITING
from inpaint.sources.opening import open_source
from inpaint.sources.rows import MOST_ROWS, loaded
from inpaint.sources.source import Entry
from inpaint.sources.tables import SHARD_TAIL_BYTES

Stopped = Callable[[Path], subprocess.Popen[bytes]]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="what is read is counted in /proc, which Linux alone has")
FINISHES_LAST = "are making the last 1 of"


def made(out: Path) -> dict[str, int]:
    """The finished chunks, and which file each is."""
    return {path.name: path.stat().st_ino for path in (out / WORK_FOLDER / "chunks").glob("*.arrow")}


def said_by(process: subprocess.Popen[bytes]) -> str:
    said = process.communicate()[0].decode()
    assert process.returncode == 0, said
    return said


# The command, which stands still when it has so many images.
STANDS_STILL = """
import os, signal, sys, cv2

left, encode = int(sys.argv[1]), cv2.imencode

def counted(*args):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    return encode(*args)

cv2.imencode = counted
from inpaint.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def stopped(places: Path) -> Iterator[Stopped]:
    """Starts the command, which then stands still with a chunk behind it and in the middle of another."""
    processes = []

    def start(out: Path) -> subprocess.Popen[bytes]:
        processes.append(ran(places, out, "-c", STANDS_STILL, "5"))
        _, status = os.waitpid(processes[-1].pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_nobody_waits_for_one_that_stands_still_and_then_dies(
    places: Path, dataset: Path, tmp_path: Path, stopped: Stopped
) -> None:
    out = tmp_path / "out"
    first = stopped(out)
    with pytest.raises(InpaintError, match=r"another inpaint prepare is running in .* with other options"):
        prepare(replace(options(places, out), grey_steps=1.0))
    assert FINISHES_LAST in said_by(ran(places, out, RANK="1", WORLD_SIZE="3"))
    before = made(out)
    assert FINISHES_LAST in said_by(ran(places, out)) and not (out / "README.md").exists()
    first.kill()
    first.communicate()
    assert "images kept" in said_by(ran(places, out, RANK="2", WORLD_SIZE="3"))
    after = made(out)
    assert before.items() < after.items() and len(after) == len(before) + 1
    assert contents(out) == contents(dataset)
    assert not list(out.rglob("*.tmp"))
    assert "there is nothing left to do" in said_by(ran(places, out))


def test_what_one_was_at_when_it_was_killed_is_done_by_another(
    places: Path, dataset: Path, tmp_path: Path, stopped: Stopped
) -> None:
    out = tmp_path / "out"
    first = stopped(out)
    second = stopped(out)  # which has passed over the chunk that the first is at
    first.kill()
    first.communicate()
    second.send_signal(signal.SIGCONT)
    assert "images kept" in said_by(second)
    assert contents(out) == contents(dataset)


def test_the_last_to_finish_writes_the_dataset(places: Path, dataset: Path, tmp_path: Path, stopped: Stopped) -> None:
    out = tmp_path / "out"
    slow = stopped(out)
    assert FINISHES_LAST in said_by(ran(places, out))
    slow.send_signal(signal.SIGCONT)
    assert "images kept" in said_by(slow)
    assert contents(out) == contents(dataset)


def test_while_one_writes_the_dataset_others_leave(places: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / WORK_FOLDER).mkdir(parents=True)
    hold = "import fcntl, sys; fcntl.lockf(file := open(sys.argv[1], 'ab'), fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", hold, str(out / WORK_FOLDER / WRITING)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert prepare(options(places, out)) is None and not (out / "README.md").exists()
        writer.kill()
    assert prepare(options(places, out)) is not None and (out / "README.md").exists()


def test_three_at_once_make_each_chunk_once(places: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = list(map(said_by, [ran(places, out) for _ in range(3)]))
    assert sum("images kept" in text for text in said) == 1
    assert contents(out) == contents(dataset)


def test_a_finished_dataset_is_left_at_once_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source" / "hills", tmp_path / "out"
    source.mkdir(parents=True)
    for index in range(20):
        landscape(index).save(source / f"{index}.png")
    told = options(source.parent, out)
    assert prepare(told) is not None and run.is_finished(told)
    with monkeypatch.context() as patch:
        patch.setattr(run, "_do_chunks", lambda *_: pytest.fail("looked for work"))
        assert prepare(told) is None
        assert "is finished: there is nothing left to do" in capsys.readouterr().out
    assert not run.is_finished(replace(told, grey_steps=1.0))
    landscape(20).save(source / "20.png")
    plan = prepare(told)
    assert plan is not None and plan.counts()["kept"] == 21
    (out / "holes.csv").unlink()
    assert prepare(told) is not None and (out / "holes.csv").exists()


NUM, CLASSES = 40, ("lake", "wood")


def noise(index: int) -> bytes:
    """A JPEG of about 170 kB, of a size of its own."""
    pixels = np.random.default_rng(index).integers(0, 256, (400, 400 + index, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "jpeg", quality=90)
    return data.getvalue()


def folder(root: Path) -> Path:
    for index in range(NUM):
        path = root / CLASSES[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise(index))
    return root


def tar(root: Path) -> Path:
    with tarfile.open(root.with_suffix(".tar"), "w") as archive:
        archive.add(folder(root), "photos")
    return root.with_suffix(".tar")


def zipped(root: Path) -> Path:
    with zipfile.ZipFile(root.with_suffix(".zip"), "w") as archive:
        for path in sorted(folder(root).rglob("*.jpg")):
            archive.write(path, path.relative_to(root))
    return root.with_suffix(".zip")


def table(name: str = "") -> Dataset:
    cells = [{"bytes": noise(index), "path": name and f"{index}{name}"} for index in range(NUM)]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=list(CLASSES))})
    return Dataset.from_dict({"image": cells, "label": [index % 2 for index in range(NUM)]}, features=features)


def parquet(root: Path, name: str = ".jpg") -> Path:
    root.mkdir()
    for number in range(2):
        table(name).shard(2, number).to_parquet(root / f"train-{number}.parquet", batch_size=5)
    return root


def nameless(root: Path) -> Path:
    return parquet(root, "")


def saved(root: Path) -> Path:
    table(".jpg").save_to_disk(root)
    return root


def named(entry: Entry) -> tuple[object, ...]:
    return entry.source, entry.label, entry.split, entry.read()


def bytes_read(act: Callable[[], object]) -> int:
    """By this process, from files."""

    def so_far() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = so_far()
    act()
    return so_far() - before


@on_linux
@pytest.mark.parametrize("kind", [folder, tar, zipped, parquet, nameless, saved])
def test_only_the_images_of_ones_own_chunks_are_read(kind: Callable[[Path], Path], tmp_path: Path) -> None:
    path = kind(tmp_path / "photos")
    whole = sum(len(noise(index)) for index in range(NUM))
    # A shard's footer is read several times, and its last MiB tells it from others.
    shards = len(list(path.glob("*.parquet")))
    most = NUM * 2000 + 70_000 * (1 + shards)
    source, entries = open_source(str(path)), list[Entry]()
    assert bytes_read(lambda: open_source(str(path)).survey()) < 2 * most + shards * (SHARD_TAIL_BYTES + 300_000)
    source.survey()
    assert bytes_read(lambda: entries.extend(source.located())) < most
    chunks = list(chunks_of(entries, 8, tmp_path, 64, PeopleFilter(), frozenset(), 2.5))
    assert sum(len(chunk.entries) for chunk in chunks) == NUM and len({chunk.file for chunk in chunks}) == len(chunks)
    read: list[Entry] = []
    for chunk in chunks:
        assert bytes_read(lambda: read.extend(loaded(chunk.entries))) < whole / 3  # noqa: B023
    assert bytes_read(lambda: [list(loaded(chunk.entries)) for chunk in chunks]) < whole * 1.2
    assert [named(entry) for entry in read] == [named(entry) for entry in open_source(str(path)).entries()]


def test_rows_that_differ_in_their_content_alone_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(2):
        cells = [{"bytes": b"%04d" % (100 * number + index), "path": None} for index in range(20)]
        shard = Dataset.from_dict({"image": cells}, features=Features({"image": ImageFeature()}))
        shard.to_parquet(tmp_path / "photos" / f"{number}.parquet", batch_size=5)
    entries = open_source(str(tmp_path / "photos")).located()
    chunks = list(chunks_of(entries, 5, tmp_path, 64, PeopleFilter(), frozenset(), 2.5))
    assert len({chunk.file for chunk in chunks}) == len(chunks) == 8


def test_a_row_group_too_large_for_a_chunk_is_parted(tmp_path: Path) -> None:
    num = MOST_ROWS + 1
    cells = [{"bytes": b"%d" % index, "path": f"{index}.jpg"} for index in range(num)]
    (tmp_path / "photos").mkdir()
    Dataset.from_dict({"image": cells}, features=Features({"image": ImageFeature()})).to_parquet(
        tmp_path / "photos" / "0.parquet", batch_size=num
    )
    chunks = chunks_of(
        open_source(str(tmp_path / "photos")).located(), 500, tmp_path, 64, PeopleFilter(), frozenset(), 2.5
    )
    assert [len(chunk.entries) for chunk in chunks] == [500, 500, 500, 500, 1]
