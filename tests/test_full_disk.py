"""Training goes on while the disk is full, and saves as soon as there is room."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import LAST, TRAIN, environment, finish_writing, metrics, steps, tiny_config
from stopping import assert_same_weights, at_step, finish

from inpaint.training.launch import main
from inpaint.training.run_directory import finished_step
from inpaint.training.task import InpaintingTask, Terms


class SmallDisk:
    """A file system of a few megabytes, that `fill` fills up to the last byte and `clear` gives back."""

    def __init__(self, mount: Path) -> None:
        self.mount, self._filler = mount, mount / "filler"

    def fill(self) -> None:
        with self._filler.open("ab", buffering=0) as file:
            for size in (2**16, 2**12):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError:
                    continue

    def clear(self) -> None:
        self._filler.unlink(missing_ok=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    if os.geteuid() != 0:
        pytest.skip("a full disk is a small tmpfs here, and mounting one needs root")
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(mount)], capture_output=True).returncode:
        pytest.skip(
            "a full disk is a small tmpfs here, and this machine lets not even root mount one, as in most containers"
        )
    yield SmallDisk(mount)
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


@pytest.fixture
def full_for_a_while(
    config: Path, straight: Path, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """A run on a disk that is full from the middle of one step to that of another ends as if nothing had been."""

    def train(first: int, last: int, name: str = "run", config: Path = config) -> Path:
        run = small_disk.mount / name
        original, count = InpaintingTask.step, iter(range(1, 10_000))

        def step(self: InpaintingTask, *arguments: Any) -> Terms:
            number = next(count)
            if number == first:
                small_disk.fill()
            elif number == last:
                finish_writing()
                small_disk.clear()
            return original(self, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(InpaintingTask, "step", step)
            finish(config, run)
        assert_same_weights(run, straight)
        told = [(line["step"], "evaluation/hole_psnr" in line) for line in metrics(run)]
        assert told == [(line["step"], "evaluation/hole_psnr" in line) for line in metrics(straight)]
        assert (run / "report.md").is_file() and (run / "samples" / "epoch_0002.png").is_file()
        assert not list(run.rglob(".*"))
        return run

    return train


@pytest.mark.parametrize(("first", "last"), [(2, 12), (8, 20)])
def test_training_goes_on_while_the_disk_is_full_and_saves_when_there_is_room(
    first: int, last: int, full_for_a_while: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    full_for_a_while(first, last)
    said = capsys.readouterr().err
    assert "A CHECKPOINT COULD NOT BE SAVED" in said and "metrics.jsonl cannot be written (No space left" in said


@pytest.mark.soak
def test_ten_full_disks(full_for_a_while: Callable[..., Path]) -> None:
    draw = random.Random(int(os.environ.get("SOAK_SEED", "1")))
    for number in range(int(os.environ.get("SOAK_DISKS", "10"))):
        first = draw.randrange(2, LAST)
        last = draw.randrange(first + 1, LAST + 1)
        print(f"{number}: full from step {first} to step {last}")
        shutil.rmtree(full_for_a_while(first, last, f"run_{number}"))


def test_a_save_that_failed_is_tried_again_as_soon_as_there_is_room(
    full_for_a_while: Callable[..., Path], tmp_path: Path
) -> None:
    """Not only when the next one would have been due."""
    config = tiny_config(tmp_path, checkpointing={"every_steps": 4, "keep": 9})
    # Wished for at step 5, agreed upon by all at 7.
    assert steps(full_for_a_while(3, 5, config=config)) == [0, 7, 8, 10, 12, 16, LAST]


def test_if_there_is_no_room_until_the_end_it_says_so_and_the_same_command_finishes_it(
    config: Path,
    straight: Path,
    small_disk: SmallDisk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = small_disk.mount / "run"
    with monkeypatch.context() as patch:
        at_step(8, small_disk.fill, patch)
        assert main(["--config", str(config), "--run-dir", str(run)]) == 1
    said = capsys.readouterr().err
    assert "report.md cannot be written" in said and "generator/ cannot be written" in said
    (line,) = [line for line in said.splitlines() if line.startswith("inpaint: ")]
    assert "could not be saved (" in line and line.endswith("the same command goes on from the one before")
    assert finished_step(run) is None
    small_disk.clear()
    finish(config, run)
    assert_same_weights(run, straight)


def test_a_log_on_a_full_disk_ends_no_run(config: Path, small_disk: SmallDisk, tmp_path: Path) -> None:
    small_disk.fill()
    command = [sys.executable, str(TRAIN), "--config", str(config), "--run-dir", str(tmp_path / "run")]
    with (small_disk.mount / "log").open("ab") as log:
        ended = subprocess.run(command, stdout=log, stderr=log, env=environment(), check=False)
    assert ended.returncode == 0
    assert finished_step(tmp_path / "run") == LAST
