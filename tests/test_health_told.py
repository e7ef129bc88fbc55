"""What evaluations measure for the verdicts on a run's health, and where these are told while it trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import TINY, metrics, tiny_config

from inpaint.data.decoded import DecodedSplit, SyntheticSpec, open_images
from inpaint.evaluation.baselines import mean_fill
from inpaint.evaluation.metrics import VARIETY, Filled
from inpaint.evaluation.table import means, metric_sums
from inpaint.holes.spec import HoleSpec
from inpaint.training import run_directory
from inpaint.training.health import BLURRED, COLLAPSED, CONVERGING, EARLY, Verdict
from inpaint.training.launch import main


def test_variety_by_hand() -> None:
    """Of three images and their fills; the one without a hole does not count, and batches change nothing."""
    truth, fills = torch.tensor([100, 200, 0]), torch.tensor([140, 160, 255])
    image, composite = (values.byte()[:, None, None, None].expand(3, 3, 8, 8) for values in (truth, fills))
    mask = torch.zeros(3, 1, 8, 8)
    mask[:2, :, 2:5, 1:4] = 1
    states = [
        VARIETY.rows(Filled(composite[part], image[part], mask[part], composite[part] / 255)).sum(0)
        for part in (slice(1), slice(1, 3))
    ]
    assert VARIETY.compute(states[0] + states[1]).item() == pytest.approx(20 / 100)
    assert VARIETY.compute(torch.zeros(VARIETY.state_size)).isnan()


def test_evaluations_have_the_figures_that_the_verdicts_need(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["--config", str(tiny_config(tmp_path)), "--run-dir", str(run)]) == 0
    first, second = (line for line in metrics(run) if "evaluation/hole_psnr" in line)
    assert {*first} >= {"evaluation/sharpness", "evaluation/variety", "evaluation/mean_fill_hole_psnr", "health"}
    split = validation()
    chosen = np.linspace(0, len(split) - 1, 16).round().astype(np.int64)
    filled = Filled.by(mean_fill, split.pixels[chosen], split.masks(chosen))
    by_hand = means(metric_sums(filled))["hole_psnr"]
    assert first["evaluation/mean_fill_hole_psnr"] == second["evaluation/mean_fill_hole_psnr"] == pytest.approx(by_hand)


def validation() -> DecodedSplit:
    spec, num = HoleSpec.scaled(TINY["data"]["image_size"]), TINY["data"]["synthetic_train"]
    synthetic = SyntheticSpec(num, 32, 32, seed=0)
    splits = open_images(None, spec, cache_dir=None, max_bad_fraction=0, synthetic=synthetic, show_progress=False)
    return splits["validation"]


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "trackio"])
def test_it_is_told_when_it_changes_and_not_again_after_a_resume(
    tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip(tracker, reason=f"{tracker}, a tracker of the extras, is not installed: pip install it")
    said = [[EARLY], [BLURRED], [BLURRED], [BLURRED, COLLAPSED], [CONVERGING], [CONVERGING]]

    def judged(lines: list[dict[str, Any]]) -> list[Verdict]:
        return [Verdict(name, f"evidence of {name}") for name in said[lines[-1]["epoch"] - 1]]

    monkeypatch.setattr(run_directory, "judge", judged)
    config, run = tiny_config(tmp_path), tmp_path / "run"
    told = []
    for epochs in (2, 6):
        flags = ["--training.epochs", str(epochs), "--training.tracker", tracker]
        assert main(["--config", str(config), "--run-dir", str(run), *flags]) == 0
        told += [line for line in capsys.readouterr().err.splitlines() if "evidence of" in line]
        assert f"Health: {said[epochs - 1][-1]}: evidence of" in (run / "report.md").read_text()
        assert json.loads((run / "evaluation.json").read_text())["health"] == said[epochs - 1]
    assert [line.partition(", ")[::2] for line in told] == [
        ("epoch 2", "blurred: evidence of blurred"),
        ("epoch 4", "blurred: evidence of blurred"),
        ("epoch 4", "collapsed: evidence of collapsed"),
        ("epoch 5", "converging: evidence of converging"),
    ]
    assert [line["health"] for line in metrics(run) if "health" in line] == said
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and tracker in str(path))
    assert kept.count(b"evidence of blurred") == kept.count(b"evidence of collapsed") == 1
    assert b"evidence of converging" not in kept
    if tracker == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        shown = EventAccumulator(str(run / tracker)).Reload()
        assert [event.step for event in shown.Tensors("health/text_summary")] == [20, 40]
