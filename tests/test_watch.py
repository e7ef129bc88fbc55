"""The watch over the other processes where the launcher itself, which hosts what they share, is gone."""

from __future__ import annotations

import time

import pytest
import torch.distributed as dist

from inpaint.training import watch as watching
from inpaint.training.watch import Watch


def orphaned(monkeypatch: pytest.MonkeyPatch) -> tuple[Watch, list[int]]:
    """A watch whose store has just gone, and the codes with which it would have ended the process."""
    codes: list[int] = []
    monkeypatch.setattr(watching.os, "_exit", codes.append)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    watch = Watch(0, 2, timeout_s=60)
    watch.at("step 1")
    time.sleep(0.2)
    del store
    return watch, codes


def test_without_the_store_there_is_time_to_save_and_leave_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher's death comes with a SIGTERM for its workers; saving may take longer than a beat."""
    watch, codes = orphaned(monkeypatch)
    time.sleep(3 * watching._BEAT_S)
    assert watch._thread.is_alive() and not codes
    watch.close(in_order=True)
    assert not codes


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(watching, "_SILENCE_S", 1.0)
    watch, codes = orphaned(monkeypatch)
    deadline = time.monotonic() + 30
    while not codes and time.monotonic() < deadline:
        time.sleep(0.1)
    assert codes and set(codes) == {1}
    assert "the store that the processes share is gone" in capfd.readouterr().err
    watch.close(in_order=False)
