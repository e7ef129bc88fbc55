"""What a disk does to a run directory costs no more than the steps since the last sound checkpoint.

Bits that flip, files that are cut, overwritten or gone.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from running import LAST, metrics
from stopping import assert_same_weights, finish, killed

from inpaint.files import read_json_lines
from inpaint.training import run_lock
from inpaint.training.launch import main


@pytest.fixture(scope="module")
def interrupted(config: Path) -> Path:
    """A run that was killed in the middle of its second epoch, with all that is left of such a one."""
    run, left = config.parent / "interrupted", config.parent / "left"

    killed(17, "--config", str(config), "--run-dir", str(run), at_last=lambda: shutil.copytree(run, left))
    assert {"config.yaml", "run.lock", "rank0.pid", "generator"} <= {path.name for path in left.iterdir()}
    return left


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the lock is damaged, its holder might be anywhere."""
    monkeypatch.setattr(run_lock, "STALE_S", 0.3)
    monkeypatch.setattr(run_lock, "SETTLE_S", 0.1)


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
