"""Ctrl-C or SIGTERM ends `inpaint prepare` at once, in one line, and costs no finished chunk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from preparing import contents

from inpaint.prepare.run import WORK_FOLDER

# The command, whose workers, or itself where it is the only one, stand still at a certain point and say so by a file.
STANDS_STILL = """
import os, sys, time
from pathlib import Path
import cv2

place, marks, encode = sys.argv[1], Path(sys.argv[2]), cv2.imencode
left = 5

def stand_still():
    (marks / str(os.getpid())).touch()
    time.sleep(3000)
    print("slept to the end", flush=True)

def counted(*args):
    global left
    left -= 1
    if left == 0:
        stand_still()
    return encode(*args)

if place == "a chunk":
    cv2.imencode = counted
elif __name__ != "__main__":
    stand_still()
if __name__ == "__main__":
    from inpaint.cli import main
    sys.exit(main(sys.argv[3:]))
"""

Begin = Callable[[str, int], list[subprocess.Popen[str]]]


@pytest.fixture
def begin(places: Path, tmp_path: Path) -> Iterator[Begin]:
    """Starts two such commands for one folder, each in its own session, and waits until all workers stand still."""
    script, marks, processes = tmp_path / "stands_still.py", tmp_path / "marks", list[subprocess.Popen[str]]()
    script.write_text(STANDS_STILL)
    marks.mkdir()

    def start(place: str, workers: int) -> list[subprocess.Popen[str]]:
        words = [str(script), place, str(marks), "prepare", "--source", str(places), "--out", str(tmp_path / "out")]
        for _ in range(2):
            processes.append(
                subprocess.Popen(
                    [sys.executable, *words, "--workers", str(workers), "--chunk-images", "3"],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                    # A shell has it ignored in what it starts in its background, as these tests may be.
                    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                    text=True,
                )
            )
        while len(list(marks.iterdir())) < 2 * workers:
            assert all(process.poll() is None for process in processes)
            time.sleep(0.05)
        return processes

    yield start
    for process in processes:
        if is_there(process):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def is_there(process: subprocess.Popen[str]) -> bool:
    """Whether it or any process that it started is."""
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("send", "number", "workers", "place"),
    [
        (os.killpg, signal.SIGINT, 2, "a chunk"),  # as a terminal sends it
        (os.killpg, signal.SIGINT, 2, "its start"),
        (os.killpg, signal.SIGTERM, 2, "a chunk"),
        (os.kill, signal.SIGTERM, 2, "a chunk"),
        (os.kill, signal.SIGINT, 1, "a chunk"),
        (os.kill, signal.SIGTERM, 1, "a chunk"),
    ],
)
def test_each_says_that_the_same_command_goes_on_and_leaves_nothing_behind(
    send: Callable[[int, int], None],
    number: signal.Signals,
    workers: int,
    place: str,
    begin: Begin,
    places: Path,
    dataset: Path,
    tmp_path: Path,
) -> None:
    processes = begin(place, workers)
    for process in processes:
        send(process.pid, number)
    for process in processes:
        out, err = process.communicate()
        assert process.returncode == 130, err
        assert "slept to the end" not in out and "Traceback" not in err
        assert err.splitlines()[-1] == "inpaint prepare: stopped; what is done so far is kept: the same command goes on"
        while is_there(process):  # what multiprocessing cleans up with ends after it
            time.sleep(0.05)
    if place == "a chunk":
        finished = {path: path.stat().st_ino for path in (tmp_path / "out" / WORK_FOLDER / "chunks").glob("*.arrow")}
        assert finished
        words = ["--source", str(places), "--out", str(tmp_path / "out"), "--workers", "1", "--chunk-images", "3"]
        subprocess.run([sys.executable, "-m", "inpaint", "prepare", *words], check=True)
        assert all(path.stat().st_ino == number for path, number in finished.items())
        assert contents(tmp_path / "out") == contents(dataset)


def test_a_launcher_that_passes_on_what_the_terminal_sent_changes_nothing(begin: Begin) -> None:
    processes = begin("a chunk", 2)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)
    for process in processes:
        out, err = process.communicate()
        assert process.returncode == 130 and err.count("the same command goes on") == 1
        assert "slept to the end" not in out and "Traceback" not in err
