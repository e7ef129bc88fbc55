"""Who is named when processes do not come, or go: also where the launcher, which hosts what they share, is gone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from inpaint.distributed import heartbeat as heartbeats
from inpaint.distributed.heartbeat import Heartbeat, meeting
from inpaint.distributed.store import connect, tell
from inpaint.errors import InpaintError


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dist.TCPStore:
    """Where the processes of this job meet."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    return store


def orphaned(monkeypatch: pytest.MonkeyPatch) -> tuple[Heartbeat, list[int]]:
    """A heartbeat whose store has just gone, and the codes with which it would have ended the process."""
    codes: list[int] = []
    monkeypatch.setattr(heartbeats.os, "_exit", codes.append)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    heartbeat = Heartbeat(0, 2, timeout_s=60)
    heartbeat.at("step 1")
    time.sleep(0.2)
    del store
    return heartbeat, codes


def test_without_the_store_there_is_time_to_save_and_leave_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher's death comes with a SIGTERM for its workers; saving may take longer than a beat."""
    heartbeat, codes = orphaned(monkeypatch)
    time.sleep(3 * heartbeats._BEAT_S)
    assert heartbeat._thread.is_alive() and not codes
    heartbeat.close(in_order=True)
    assert not codes


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(heartbeats, "_SILENCE_S", 1.0)
    heartbeat, codes = orphaned(monkeypatch)
    deadline = time.monotonic() + 600
    while not codes and time.monotonic() < deadline:
        time.sleep(0.1)
    assert codes and set(codes) == {1}
    assert "the store that the processes share is gone" in capfd.readouterr().err
    heartbeat.close(in_order=False)


def test_a_job_that_was_suspended_is_not_taken_for_stuck(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """SLURM does it with PreemptMode=SUSPEND. The clock is made here, for nothing tells when which thread wakes."""
    passed_s, codes = [0.0], list[float]()
    heartbeat = Heartbeat(0, 1, timeout_s=60)
    heartbeat.close(in_order=True)
    late_s = iter([0.0, 1000.0, 0.0])

    def wait(seconds: float) -> bool:
        passed_s[0] += seconds + next(late_s, 0.0)
        return bool(codes) or passed_s[0] > 2000

    monkeypatch.setattr(heartbeat._stop, "wait", wait)
    monkeypatch.setattr(heartbeat._stop, "is_set", lambda: False)
    monkeypatch.setattr(heartbeats.time, "monotonic", lambda: passed_s[0])
    monkeypatch.setattr(heartbeats.os, "_exit", lambda code: codes.append(passed_s[0]))
    heartbeat.at("step 1")
    heartbeat._run()
    assert len(codes) == 1 and 1060 < codes[0] < 1064
    assert "has been at 'step 1' for 61 s" in capfd.readouterr().err


def test_a_main_process_that_went_with_its_store_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reduction breaks at the same moment; torch's own word for it is "Broken pipe"."""
    monkeypatch.setattr(heartbeats.os, "_exit", lambda code: None)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    beat = json.dumps({"at": "step 8, phase 2", "pid": 4711, "host": "node1", "stuck_s": 0})
    connect(5.0).set("beat/0", beat)
    heartbeat = Heartbeat(1, 2, timeout_s=60)
    time.sleep(1.5 * heartbeats._BEAT_S)
    del store
    lost = heartbeat.missing()
    heartbeat.close(in_order=False)
    last = "does not answer any more, last seen at 'step 8, phase 2', nor does its launcher"
    assert lost == f"rank 0 (process 4711 on node1) {last}"


def test_who_does_not_come_is_named(
    store: dist.TCPStore, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(heartbeats, "_LATE_S", 0.2)
    connect(5.0).set("here/1", "node2")
    said = ""
    with pytest.raises(InpaintError) as caught, meeting(0, 4, timeout_s=0.5):
        deadline = time.monotonic() + 600
        while "waiting" not in said and time.monotonic() < deadline:
            time.sleep(0.1)
            said += capfd.readouterr().err
        raise RuntimeError("wait timeout after 500 ms\nand frames of C++")
    assert said.strip() == "waiting for the 4 processes to meet, for 0.2 s: ranks 2, 3 have not come"
    assert str(caught.value) == (
        "the 4 processes did not meet within training.timeout_s = 0.5 s: ranks 2, 3 have not come (wait timeout after "
        "500 ms)"
    )


def test_all_there_and_not_connected_points_to_the_network(store: dist.TCPStore) -> None:
    connect(5.0).set("here/1", "node2")
    with pytest.raises(InpaintError, match="all have come, but do not reach one another"), meeting(0, 2, timeout_s=5):
        raise RuntimeError("connect refused")


def test_the_job_script_learns_the_first_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INPAINT_FAILURE_FILE", str(tmp_path / "failure"))
    tell(0, 1, "data.path: there is no\nsuch folder", code=2)
    tell(3, 1, "what followed", code=1)
    assert (tmp_path / "failure").read_text() == "2 data.path: there is no such folder\n"
    assert capfd.readouterr().err.endswith("inpaint: rank 3: what followed\n")
    monkeypatch.setenv("INPAINT_FAILURE_FILE", str(tmp_path / "nowhere" / "failure"))
    tell(0, 1, "a full disk", code=1)
    assert capfd.readouterr().err == "inpaint: a full disk\n"
