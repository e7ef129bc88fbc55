"""What makes it another run is refused, with the remedy, and nothing is touched; what may change is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from running import tiny_config

from inpaint.arguments import parse_arguments
from inpaint.config import Config
from inpaint.resolve import load_config, settings
from inpaint.tables import DISCRIMINATORS, GENERATORS
from inpaint.training.identity import differences
from inpaint.training.launch import main

# Another value for every setting that makes it another run.
ANOTHER: dict[str, Any] = {
    "data.image_size": 128,
    "data.holes": "resampled",
    "data.local_real": "hole",
    "data.hole_min_px": 10,
    "data.hole_max_px": 24,
    "data.hole_area": [0.1, 0.2],
    "data.window_px": 30,
    "data.synthetic_train": 7,
    "data.synthetic_held_out": 7,
    "data.path": "photos",
    "model.generator": "other",
    "model.discriminator": "other",
    "model.width": 8,
    "model.bottleneck": 3,
    "model.global_average_pooling": True,
    "model.mask_channel": True,
    "model.norm": "group",
    "model.discriminator_input": "composite",
    "loss.reconstruction_region": "hole",
    "training.seed": 1,
}
MAY_CHANGE: dict[str, Any] = {
    "training.global_batch_size": 64,
    "training.micro_batch_size": 2,
    "training.epochs": 11,
    "training.log_every": 1,
    "optimizer.generator_learning_rate": 1e-3,
    "optimizer.schedule": "cosine",
    "loss.adversarial_weight": 2.0,
    "ema.half_life_kimg": None,
    "checkpointing.keep": 9,
    "evaluation.num_pictures": 3,
    "hub.repo_id": "me/mine",
    "training.tracker": "tensorboard",
}


@pytest.fixture(autouse=True)
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GENERATORS, "other", GENERATORS["dilated"])
    monkeypatch.setitem(DISCRIMINATORS, "other", DISCRIMINATORS["fused"])


@pytest.mark.parametrize("key", ANOTHER)
def test_each_of_these_makes_it_another_run(key: str) -> None:
    another, allowed = differences(Config().model_dump(mode="json"), load_config(Config(), {key: ANOTHER[key]}))
    assert [line.partition(":")[0] for line in another] == [key] and not allowed


@pytest.mark.parametrize("key", MAY_CHANGE)
def test_each_of_these_may_change_and_is_said(key: str) -> None:
    another, allowed = differences(Config().model_dump(mode="json"), load_config(Config(), {key: MAY_CHANGE[key]}))
    assert [line.partition(":")[0] for line in allowed] == [key] and not another


def test_every_setting_of_the_networks_is_among_them() -> None:
    assert {key for key, _ in settings() if key.startswith("model.")} <= ANOTHER.keys()


def test_how_many_landscapes_would_be_made_up_is_of_no_matter_to_photographs() -> None:
    flags = {"data.path": "photos", "data.synthetic_train": 7}
    before = load_config("paper/original", {"data.path": "photos"}).model_dump(mode="json")
    assert differences(before, load_config("paper/original", flags)) == ([], [])


# --- as it is met


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def photographs(folder: Path, names: str, seed: int = 0) -> Path:
    """Twenty images for each letter."""
    draw = np.random.default_rng(seed)
    for name in [f"{letter}{number}" for letter in names for number in range(20)]:
        (folder / "sea").mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / "sea" / f"{name}.png")
    return folder


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    config = tiny_config(tmp_path, training={"epochs": 1, "max_steps": 1}, evaluation={"num_pictures": 2})
    return ["--config", str(config), "--run-dir", str(tmp_path / "run")]


def test_a_finished_run_does_not_go_on_with_other_data(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = photographs(tmp_path / "photos", "abc")
    assert main(arguments) == 0
    before = files(tmp_path / "run")
    assert main([*arguments, "--data.path", str(photos)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"inpaint: --run-dir {tmp_path / 'run'} holds another run (data.path: None -> {photos})")
    assert all(remedy in said for remedy in ("--run-dir", "--init-from", "--no-resume --overwrite"))
    assert files(tmp_path / "run") == before


def test_the_same_images_elsewhere_are_the_same_data_and_others_are_not(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = photographs(tmp_path / "photos", "abc")
    assert main([*arguments, "--data.path", str(photos)]) == 0
    before = files(tmp_path / "run" / "checkpoints")
    others = photographs(tmp_path / "others", "xyz")
    assert main([*arguments, "--data.path", str(others)]) == 2
    said = capsys.readouterr().err
    assert f"data.path: {photos} -> {others}, which holds other images" in said
    assert files(tmp_path / "run" / "checkpoints") == before
    assert main([*arguments, "--data.path", f"{photos}/"]) == 0
    assert "changed since" not in capsys.readouterr().err
    photos.rename(tmp_path / "moved")
    assert main([*arguments, "--data.path", str(tmp_path / "moved"), "--training.max_steps", "2"]) == 0
    assert (
        f"changed since this run was last started: data.path: {photos} -> {tmp_path / 'moved'}"
        in capsys.readouterr().err
    )


def test_config_yaml_does_not_decide_whether_it_is_another_run(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bit of its seed flips; each checkpoint knows what it was trained with."""
    assert main(arguments) == 0
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    assert main(arguments) == 0
    assert main([*arguments, "--training.seed", "1"]) == 2
    assert "training.seed: 0 -> 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "run_dir"),
    [
        (["--data.path", "photos/"], "runs/quickstart-photos"),
        (["--data.path", "/data/2020-05"], "runs/quickstart-2020-05"),
        (["--data.path", "ORG/NAME", "--config", "paper/final"], "runs/paper/final-NAME"),
        (["--data.path", "photos", "--config", "FILE"], "runs/mine-photos"),
        (["--data.path", "."], "runs/quickstart-here"),
        (["--data.path", "/"], "runs/quickstart"),
        (["--data.path", "null"], "runs/quickstart"),
        (["--data.path", "photos", "--run-dir", "there"], "there"),
    ],
)
def test_the_data_have_a_part_in_the_name_of_the_run_directory(
    argv: list[str], run_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("mine.yaml").write_text("{}")
    assert parse_arguments(["mine.yaml" if word == "FILE" else word for word in argv])[1].run_dir == Path(run_dir)


def test_a_files_own_data_count_too(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: {path: photos}")
    assert parse_arguments(["--config", str(tmp_path / "mine.yaml")])[1].run_dir == Path("runs/mine-photos")
