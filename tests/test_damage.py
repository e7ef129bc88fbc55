"""What a disk does to a run directory costs no more than the steps since the last sound checkpoint.

Bits that flip, files that are cut, overwritten or gone, no room.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import TRAIN, differences, environment, finish_writing, metrics, steps, tiny_config, weights
from stopping import Killed, at_step

from inpaint.files import read_json_lines
from inpaint.training import run_lock
from inpaint.training.launch import main
from inpaint.training.run_directory import finished_step
from inpaint.training.task import InpaintingTask, Terms

LAST = 20


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_config(tmp_path_factory.mktemp("config"), checkpointing={"every_steps": 3, "keep": 3})


@pytest.fixture(scope="module")
def straight(config: Path) -> Path:
    """A run that nothing disturbed."""
    assert main(["--config", str(config), "--run-dir", str(config.parent / "straight")]) == 0
    return config.parent / "straight"


@pytest.fixture(scope="module")
def interrupted(config: Path) -> Path:
    """A run that was killed in the middle of its second epoch, with all that is left of such a one."""
    run = config.parent / "interrupted"

    def kill() -> None:
        finish_writing()
        shutil.copytree(run, config.parent / "left")
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        at_step(17, kill, patch)
        main(["--config", str(config), "--run-dir", str(run)])
    left = config.parent / "left"
    assert {"config.yaml", "run.lock", "rank0.pid", "generator"} <= {path.name for path in left.iterdir()}
    return left


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the lock is damaged, its holder might be anywhere."""
    monkeypatch.setattr(run_lock, "STALE_S", 0.3)
    monkeypatch.setattr(run_lock, "SETTLE_S", 0.1)


def finish(config: Path, run: Path) -> None:
    assert main(["--config", str(config), "--run-dir", str(run)]) == 0
    assert finished_step(run) == LAST == steps(run)[-1]


def assert_same_weights(run: Path, straight: Path) -> None:
    assert set(differences(weights(run, LAST), weights(straight, LAST)).values()) == {0.0}
    for name in ("model.safetensors", "config.json"):
        assert (run / "generator" / name).read_bytes() == (straight / "generator" / name).read_bytes()


# --- damaged files


def flip(data: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :]


def overwrite(data: bytes, block: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + block[: len(data) - start] + data[start + len(block) :]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "a flipped bit": flip,
    "cut": lambda data, draw: data[: draw.randrange(len(data))],
    "emptied": lambda data, draw: b"",
    "deleted": lambda data, draw: None,
    "a block of zeros": lambda data, draw: overwrite(data, bytes(64), draw),
    "a block of noise": lambda data, draw: overwrite(data, draw.randbytes(64), draw),
    "more at its end": lambda data, draw: data + draw.randbytes(32),
}


def damage(run: Path, draw: random.Random) -> str:
    """One file of a run, small ones as often as large ones; half of the damages are flipped bits."""
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.stat().st_size)
    path = draw.choice(files)
    kind = draw.choice(["a flipped bit"] * 6 + list(DAMAGES)[1:])
    data = DAMAGES[kind](path.read_bytes(), draw)
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    return f"{kind}: {path.relative_to(run)}"


def campaign(config: Path, interrupted: Path, straight: Path, folder: Path, num: int, seed: int) -> list[str]:
    """Damage a copy of a run, resume and finish it, again and again; what was done each time."""
    done = []
    for number in range(num):
        draw = random.Random(f"{seed}-{number}")
        run = folder / f"run_{number}"
        shutil.copytree(interrupted, run)
        done.append(damage(run, draw))
        print(f"--- {number}: {done[-1]}")
        finish(config, run)
        assert_same_weights(run, straight)
        # Of the metrics a flipped bit may cost a line or two, and noise a few; one changed to a value stays one.
        told = {line["step"] for line in metrics(run)}
        lost = set(range(1, LAST + 1)) - told
        at_metrics = done[-1].endswith("metrics.jsonl")
        assert len(lost) <= (LAST if at_metrics and "flipped" not in done[-1] else 2 if at_metrics else 0), done[-1]
        shutil.rmtree(run)
    return done


@pytest.mark.usefixtures("impatient")
def test_single_damages_cost_nothing(config: Path, interrupted: Path, straight: Path, tmp_path: Path) -> None:
    assert len(campaign(config, interrupted, straight, tmp_path, 4, seed=0)) == 4


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("impatient")
def test_a_hundred_single_damages_cost_nothing(config: Path, interrupted: Path, straight: Path, tmp_path: Path) -> None:
    num, seed = (int(os.environ.get(name, given)) for name, given in (("SOAK_DAMAGES", "100"), ("SOAK_SEED", "1")))
    done = campaign(config, interrupted, straight, tmp_path, num, seed)
    print("\n".join(f"{number}: {what}" for number, what in enumerate(done)))


TEXTS = ("config.yaml", "metrics.jsonl", "checkpoints/best.json", "evaluation.json", "environment.json", "rank0.pid")


@pytest.mark.usefixtures("impatient")
def test_no_damage_to_a_small_file_keeps_a_run_from_going_on(
    config: Path, interrupted: Path, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them at once, in ways that their readers do not expect."""
    for number, text in enumerate((b"\xff\xfe", b"null\n", b'{"step": "3"}\n', b"")):
        run = Path(shutil.copytree(interrupted, tmp_path / f"run_{number}"))
        for name in (*TEXTS, "run.lock"):
            if text == b"":
                (run / name).unlink(missing_ok=True)
            else:
                (run / name).write_bytes(text)
        finish(config, run)
        assert_same_weights(run, straight)
        best = json.loads((run / "checkpoints" / "best.json").read_text())
        assert best["step"] == json.loads((straight / "checkpoints" / "best.json").read_text())["step"]
        assert (run / "config.yaml").read_bytes() == (straight / "config.yaml").read_bytes()
        assert "is back from the newest checkpoint" in capsys.readouterr().err


def test_bad_lines_of_the_metrics_are_set_aside_and_counted(
    config: Path, interrupted: Path, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(interrupted, tmp_path / "run"))
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    bad = [lines[4].replace(b"step", b"st\xe5p", 1), b"{}\n", b"null\n", lines[7].replace(b'"epoch"', b'"fpoch"')]
    (run / "metrics.jsonl").write_bytes(b"".join([*lines[:4], *bad, *lines[5:7], *lines[8:], b'{"step": 1']))
    finish(config, run)
    assert (
        "4 line(s) of metrics.jsonl could not be read and are now in metrics.damaged.jsonl" in capsys.readouterr().err
    )
    whole, _ = read_json_lines(straight / "metrics.jsonl")
    told = [line["step"] for line in metrics(run)]
    assert told == [line["step"] for number, line in enumerate(whole) if number not in (4, 7)]
    assert len((run / "metrics.damaged.jsonl").read_bytes().splitlines()) == 4


def test_a_run_of_which_only_the_checkpoints_are_left_goes_on(
    config: Path, interrupted: Path, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(interrupted / "checkpoints", run / "checkpoints")
    assert main(["--config", str(config), "--run-dir", str(run), "--no-resume"]) == 2
    assert "holds a run" in capsys.readouterr().err
    finish(config, run)
    assert_same_weights(run, straight)


# --- a full disk


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
        pytest.skip("mounting a small tmpfs needs root")
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(mount)], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
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
