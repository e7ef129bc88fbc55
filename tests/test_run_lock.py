"""Two never write in one run directory, and nobody is kept out by one who is gone."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inpaint.errors import InpaintError
from inpaint.training import run_lock
from inpaint.training.run_lock import RunLock, live_holder

LEFT = {"host": "here", "pid": 1, "machine": run_lock._machine(), "token": "x"}
ELSEWHERE = {**LEFT, "host": "elsewhere", "machine": "another"}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A lock's, in an impatient world; all that were made here are released."""
    for name, seconds in {"RENEW_S": 0.1, "STALE_S": 0.8, "SETTLE_S": 0.2, "LOOK_S": 0.8}.items():
        monkeypatch.setattr(run_lock, name, seconds)
    made: list[RunLock] = []
    original = RunLock.__init__

    def init(self: RunLock, path: Path) -> None:
        made.append(self)
        original(self, path)

    monkeypatch.setattr(RunLock, "__init__", init)
    yield tmp_path / "run.lock"
    for lock in made:
        lock.release()


@pytest.fixture
def no_system_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared file system that was mounted without locks."""

    def flock(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture
def renewing(path: Path) -> Iterator[None]:
    """A holder on another machine, whose clock is an hour behind."""
    path.write_text(json.dumps(ELSEWHERE))
    stop = threading.Event()

    def renew() -> None:
        number = 0
        while not stop.wait(0.1):
            number += 1
            os.utime(path, (time.time() - 3600 + number, time.time() - 3600 + number))

    thread = threading.Thread(target=renew)
    thread.start()
    yield
    stop.set()
    thread.join()


def test_it_says_who_has_it_and_is_gone_afterwards(path: Path) -> None:
    lock = RunLock(path)
    lock.take()
    assert json.loads(path.read_text())["pid"] == os.getpid()
    with pytest.raises(InpaintError, match=f"in use by process {os.getpid()} on .* wait for it, stop it"):
        RunLock(path).take()
    holder = live_holder(path)
    assert holder is not None and holder["pid"] == os.getpid()
    lock.release()
    assert not path.exists() and live_holder(path) is None


RACER = """
import sys, time
from pathlib import Path
from inpaint.errors import InpaintError
from inpaint.training.run_lock import RunLock
for number, line in enumerate(sys.stdin):
    lock = RunLock(Path(line.strip()))
    try:
        lock.take()
    except InpaintError:
        print("out", flush=True)
    else:
        print("in", flush=True)
        sys.stdin.readline()
        lock.release()
        print("left", flush=True)
        continue
    sys.stdin.readline()
    print("left", flush=True)
"""


@pytest.mark.parametrize("left", [json.dumps(LEFT), None], ids=["a stale lock", "a fresh folder"])
def test_of_several_that_start_together_one_gets_in(path: Path, left: str | None) -> None:
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]

    def all_told(line: str) -> list[str]:
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write(f"{line}\n")
            racer.stdin.flush()
        return [racer.stdout.readline().strip() for racer in racers if racer.stdout is not None]

    try:
        for number in range(20):
            if left is not None:
                path.with_name(f"{number}.lock").write_text(left)
            assert sorted(all_told(str(path.with_name(f"{number}.lock")))) == ["in", "out", "out", "out"]
            assert all_told("leave") == ["left"] * 4
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


def test_one_who_was_killed_keeps_nobody_out(path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", RACER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None and holder.stdout is not None
    holder.stdin.write(f"{path}\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "in\n"
    with pytest.raises(InpaintError, match=f"in use by process {holder.pid} "):
        RunLock(path).take()
    holder.kill()
    holder.communicate()
    assert path.exists() and live_holder(path) is None
    started = time.monotonic()
    RunLock(path).take()
    assert time.monotonic() - started < 30


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="a PID namespace, as containers have, is made by unshare, as root",
)
def test_a_holder_in_another_pid_namespace_is_seen(path: Path) -> None:
    """As in containers, which may have one host name and each begin to count at 1."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", RACER]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert holder.stdin is not None and holder.stdout is not None
    try:
        holder.stdin.write(f"{path}\n")
        holder.stdin.flush()
        if (said := holder.stdout.readline()) != "in\n":
            pytest.skip(f"this machine lets not even root make a PID namespace, as in most containers ({said})")
        with pytest.raises(InpaintError, match="in use by process 1 "):
            RunLock(path).take()
    finally:
        holder.kill()
        holder.communicate()


def test_one_who_is_renewed_elsewhere_keeps_it_whatever_the_clocks_say(
    path: Path, renewing: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InpaintError, match="in use by process 1 on elsewhere"):
        RunLock(path).take()
    assert "process 1 on elsewhere: watching for up to" in capsys.readouterr().err
    assert json.loads(path.read_text()) == ELSEWHERE
    assert live_holder(path) == ELSEWHERE


@pytest.mark.parametrize("text", [json.dumps(ELSEWHERE), "", "\x00\xff{", '{"host": "of an older version", "pid": 7}'])
def test_one_that_is_not_renewed_is_taken_over_however_new_it_looks(path: Path, text: str) -> None:
    path.write_text(text)
    os.utime(path, (time.time() + 3600, time.time() + 3600))
    lock = RunLock(path)
    lock.take()
    assert json.loads(path.read_text())["pid"] == os.getpid()
    lock.release()


def test_without_system_locks_renewing_is_enough(path: Path, no_system_lock: None) -> None:
    lock = RunLock(path)
    lock.take()
    with pytest.raises(InpaintError, match="in use"):
        RunLock(path).take()
    assert live_holder(path) is not None
    lock.release()
    path.write_text(json.dumps(LEFT))
    RunLock(path).take()


def test_without_system_locks_those_that_take_a_stale_one_over_together_settle_it(
    path: Path, no_system_lock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text(json.dumps(ELSEWHERE))
    outcomes: list[str] = []
    watch, together = run_lock._is_renewed, threading.Barrier(3)

    def watched(path: Path, patience_s: float) -> bool:
        is_renewed = watch(path, patience_s)
        together.wait()  # all have found it stale before the first takes it
        return is_renewed

    monkeypatch.setattr(run_lock, "_is_renewed", watched)

    def take() -> None:
        try:
            RunLock(path).take()
            outcomes.append("in")
        except InpaintError:
            outcomes.append("out")

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["in", "out", "out"]


def test_one_whose_lock_another_has_taken_leaves_without_saving(path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", f"from inpaint.training import run_lock\nrun_lock.RENEW_S = 0.1\n{RACER}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdin is not None and holder.stdout is not None
    holder.stdin.write(f"{path}\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "in\n"
    path.unlink()
    lock = RunLock(path)
    lock.take()
    holder.wait(600)
    said = holder.communicate()[1]
    assert holder.returncode == 1
    assert f"inpaint: process {os.getpid()} on " in said and "leaves without saving" in said
    assert json.loads(path.read_text())["pid"] == os.getpid()
    lock.release()


def test_a_lock_that_cannot_be_renewed_is_said_once_and_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = RunLock(path)
    lock.take()
    tried = threading.Semaphore(0)

    def utime(*_: object) -> None:
        tried.release()
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", utime)
        for _ in range(4):
            tried.acquire()
    assert capsys.readouterr().err.count("cannot be renewed (Input/output error)") == 1
    lock.release()
    assert not path.exists()
