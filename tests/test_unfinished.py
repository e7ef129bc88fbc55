"""What a run is good for before it is finished: its generator can be used, and `inpaint status` says how it stands."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import steps, tiny_config, weights
from stopping import killed

from inpaint import Generator, cli
from inpaint.training.launch import main
from inpaint.training.saved_generator import load_generator


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unfinished")


@pytest.fixture(scope="module")
def config(folder: Path) -> str:
    return str(tiny_config(folder, checkpointing={"every_steps": 3, "keep": 9}))


@pytest.fixture(scope="module")
def early(config: str, folder: Path) -> Path:
    """Ended in its first epoch; nobody may change it."""
    killed(8, "--config", config, "--run-dir", str(folder / "early"))
    return folder / "early"


@pytest.fixture(scope="module")
def later(config: str, folder: Path) -> Path:
    """Ended in its second epoch; nobody may change it."""
    killed(18, "--config", config, "--run-dir", str(folder / "later"))
    return folder / "later"


def status(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.main(["status", str(run)]) == 0
    return capsys.readouterr().out


def same(generator: Generator, tensors: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, tensors[name]) for name, tensor in generator.state_dict().items())


def test_generator_is_that_of_the_last_epochs_end(later: Path) -> None:
    assert steps(later)[-1] == 15
    assert same(Generator.from_pretrained(later / "generator"), weights(later, 10)["generator_ema"])


def test_before_that_a_run_gives_the_average_of_its_newest_sound_checkpoint(
    early: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(early, tmp_path / "run"))
    assert not (run / "generator").exists() and steps(run)[-1] == 6
    assert same(load_generator(run), weights(run, 6)["generator_ema"])
    said = capsys.readouterr().err
    assert said == f"{run} has no generator/ yet: taking the averaged generator of {run}/checkpoints/step_00000006\n"
    damaged = run / "checkpoints" / "step_00000006" / "generator_ema.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (run / "config.yaml").unlink()
    assert same(load_generator(run), weights(run, 3)["generator_ema"])
    said = capsys.readouterr().err
    assert "step_00000006 is damaged: generator_ema.safetensors has" in said and "step_00000003" in said
    assert damaged.parent.is_dir(), "only who trains sets damaged ones aside"


def test_a_damaged_generator_folder_gives_way_to_the_checkpoint(
    later: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(later, tmp_path / "run"))
    (run / "generator" / "model.safetensors").write_bytes(b"")
    assert same(load_generator(run), weights(run, 15)["generator_ema"])
    assert "model.safetensors is damaged or no safetensors file" in capsys.readouterr().err


def test_a_run_without_any_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    draw(tmp_path)
    assert fill(tmp_path, tmp_path / "run") == 1
    said = capsys.readouterr().err
    assert said == (
        f"inpaint fill: error: {tmp_path}/run has no generator/ yet, and not one sound checkpoint; train on with the "
        "same command, or give another model\n"
    )


def draw(folder: Path) -> None:
    Image.fromarray(np.full((32, 32, 3), 128, np.uint8)).save(folder / "photo.png")
    Image.fromarray(np.pad(np.full((10, 10), 255, np.uint8), 11)).save(folder / "mask.png")


def fill(folder: Path, model: Path) -> int:
    names = [str(folder / name) for name in ("photo.png", "mask.png", "filled.png")]
    return cli.main(["fill", names[0], "--mask", names[1], "-o", names[2], "--model", str(model), "--device", "cpu"])


@pytest.mark.parametrize("which", ["early", "later"])
def test_fill_takes_a_run_directory(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    draw(tmp_path)
    assert fill(tmp_path, request.getfixturevalue(which)) == 0
    assert (tmp_path / "filled.png").is_file()


def test_a_new_run_begins_from_an_unfinished_one(early: Path, config: str, tmp_path: Path) -> None:
    arguments = ["--config", config, "--run-dir", str(tmp_path / "run"), "--training.max_steps", "1"]
    assert main([*arguments, "--init-from", str(early)]) == 0
    begun = weights(tmp_path / "run", 0)["generator"]
    assert all(torch.equal(tensor, begun[name]) for name, tensor in weights(early, 6)["generator_ema"].items())


# --- status


def test_status_says_what_can_be_used(early: Path, later: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = status(early, capsys)
    assert "not running; the same command resumes it" in said
    assert f"usable now: inpaint fill --model {early} uses the generator in step_00000006" in said
    assert f"usable now: inpaint fill --model {later} uses its generator/" in status(later, capsys)


def test_an_extended_run_that_died_is_not_finished(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even in the first step of its extension, when all it has is what the finished one had."""
    run, once, twice = tmp_path / "run", ["--training.epochs", "1"], ["--training.epochs", "2"]
    assert main(["--config", config, "--run-dir", str(run), *once]) == 0
    assert status(run, capsys).startswith("finished\n")
    killed(1, "--config", config, "--run-dir", str(run), *twice)
    assert steps(run)[-1] == 10 and (run / "report.md").is_file()
    assert status(run, capsys).startswith("not running; the same command resumes it\n")
    assert main(["--config", config, "--run-dir", str(run), *twice]) == 0
    assert status(run, capsys).startswith("finished\n")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "config.yaml": lambda path: path.write_bytes(b"\xff"),
    "metrics.jsonl": lambda path: path.write_bytes(b'\xff\nnull\n{}\n{"step": 1, "time/total_s": 2}\n'),
    "checkpoints/best.json": lambda path: path.write_bytes(b"{}"),
    "evaluation.json": lambda path: path.write_bytes(b"[]"),
    "run.lock": lambda path: path.write_bytes(b"\xff"),
}


def test_status_of_a_damaged_run(
    later: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inpaint.training.run_lock.LOOK_S", 0.2)
    run = Path(shutil.copytree(later, tmp_path / "run"))
    for name, act in DAMAGES.items():
        act(run / name)
    said = status(run, capsys)
    assert said.startswith("not running") and f"last intact checkpoint: {run}/checkpoints/step_00000015" in said
    (run / "config.yaml").unlink()
    assert "step_00000015" in status(run, capsys)
