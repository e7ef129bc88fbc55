"""What a dry run says a run will take: operations and memory by hand, hours from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from running import tiny_config
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from inpaint.resolve import load_config, preset_names
from inpaint.training import launch
from inpaint.training.estimate import _measured, estimate


def test_a_convolution_by_hand() -> None:
    """Forward 2 x 3 x 9 x 4 operations a pixel, as many for the weight's gradient; the image is kept for that."""
    with FakeTensorMode():
        measured = _measured(nn.Conv2d(3, 4, 3, padding=1, bias=False), torch.empty(2, 3, 8, 8))
    forward = 2 * 3 * 9 * 4 * 64
    assert measured == (forward, 2 * forward, 3 * 64)


def test_hours_follow_from_images_and_processes() -> None:
    config = load_config("paper/final")
    one = estimate(config, 10_000, 1000, {1: 1, 2: 0, 3: 0}, 96, 1)
    many = estimate(config, 10_000, 1000, {1: 1, 2: 0, 3: 0}, 12, 8)
    images = 1000 * config.training.global_batch_size
    exact = images * one["gflop_per_image"][1] / 100 / 3600
    assert one["hours"]["0.1_tflops"] == pytest.approx(exact, rel=1e-2)
    assert many["hours"]["0.1_tflops"] == pytest.approx(one["hours"]["0.1_tflops"] / 8, rel=1e-2)
    assert many["memory_gib"]["activations"] == pytest.approx(one["memory_gib"]["activations"] / 8, rel=1e-2)
    assert one["gflop_per_image"][3] > max(one["gflop_per_image"][1], one["gflop_per_image"][2])


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_can_be_estimated(preset: str) -> None:
    told = estimate(load_config(preset), 10_000, 1000, {1: 300, 2: 200, 3: 500}, 16, 1)
    assert all(value > 0 for value in told["gflop_per_image"].values())


def test_a_dry_run_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", str(tiny_config(tmp_path)), "--run-dir", str(tmp_path / "run"), "--dry-run"]
    assert launch.main(arguments) == 0
    told = yaml.safe_load(capsys.readouterr().out)["estimate"]
    assert set(told) == {"gflop_per_image", "memory_gib", "hours"}
    assert all(value > 0 for value in told["gflop_per_image"].values())
