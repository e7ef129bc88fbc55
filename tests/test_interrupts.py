"""Ctrl-C answers at once, whatever the run is doing at that moment."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from running import start, steps, tiny_config

from inpaint.distributed.signals import StopRequest

# A step that is one long call into a library: Python's own handlers wait until it is over.
LONG_STEP = """
import sys
import torch
from inpaint.training import launch
from inpaint.distributed.signals import StopRequest
from inpaint.training.task import InpaintingTask

def step(*_):
    matrix = torch.ones(9000, 9000)
    print("deep in", flush=True)
    torch.mm(matrix, matrix)
    print("out again", flush=True)

InpaintingTask.step = step
StopRequest.ends_process = True
sys.exit(launch.main(sys.argv[1:]))
"""


def test_in_a_long_step_the_first_is_answered_at_once_and_the_second_leaves_at_once(tmp_path: Path) -> None:
    script = tmp_path / "long_step.py"
    script.write_text(LONG_STEP)
    with start("--config", tiny_config(tmp_path), "--run-dir", tmp_path / "run", script=script) as job:
        job.until(lambda: "deep in" in job.stdout)
        job.processes[0].send_signal(signal.SIGINT)
        job.until(lambda: "saving... (Ctrl-C again leaves at once, without saving)" in job.stderr)
        job.processes[0].send_signal(signal.SIGINT)
        ended = job.wait()
    assert ended.codes == [130]
    assert "out again" not in ended.stdout
    assert "stopped at once; the run can be resumed from its last checkpoint" in ended.stderr
    assert steps(tmp_path / "run") == [0]


def test_other_signals_say_what_they_do_and_afterwards_all_is_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    for is_shown in (True, False):
        stop = StopRequest(is_shown)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.asked == "SIGUSR1"
        stop.restore()
        stop._thread.join()
        assert ("SIGUSR1: saving..." in capfd.readouterr().err) == is_shown
    assert {number: signal.getsignal(number) for number in before} == before
    assert signal.set_wakeup_fd(-1) == wakeup


@pytest.mark.parametrize(("handler", "asked"), [(signal.SIG_DFL, "SIGHUP"), (signal.SIG_IGN, None)])
def test_a_terminal_that_closes_saves_but_under_nohup(handler: signal.Handlers, asked: str | None) -> None:
    before = signal.signal(signal.SIGHUP, handler)
    stop = StopRequest(is_shown=False)
    try:
        assert (signal.getsignal(signal.SIGHUP) == signal.SIG_IGN) == (asked is None)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_DFL:  # else it would end the tests
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.asked == asked
    finally:
        stop.restore()
        assert signal.signal(signal.SIGHUP, before) == handler
