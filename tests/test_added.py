"""What somebody adds and gets wrong is told by its name, at the start where that can be, and costs no epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from running import steps, tiny_config
from stepping import Setup, on_the_cpu  # noqa: F401 - the fixture acts here too
from torch import Tensor

from inpaint.errors import InpaintError
from inpaint.evaluation.metrics import Filled, Metric
from inpaint.holes import rectangle
from inpaint.holes.kinds import HoleKind, HoleMixture
from inpaint.holes.spec import HoleSpec
from inpaint.losses.seen import Seen
from inpaint.tables import DISCRIMINATOR_LOSSES, HOLES, LOSSES, METRICS
from inpaint.training.launch import main

# Taken away from, a metric works.
FAULTS = ["oops"]


def faulty(filled: Filled) -> Tensor:
    if FAULTS:
        raise ValueError(FAULTS[0])
    return filled.mean(filled.difference)


def scalar(filled: Filled) -> Tensor:
    return filled.difference.mean()


FAULTY = Metric("faulty", 2, "lower", faulty)
SCALAR = Metric("scalar", 2, "lower", scalar)


def command(folder: Path, *flags: str) -> list[str]:
    config = tiny_config(folder, training={"epochs": 2}, checkpointing={"every_minutes": None})
    return ["--config", str(config), "--run-dir", str(folder / "run"), *flags]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("inpaint: ")]
    return line


# --- metrics


def test_a_metric_that_fails_is_named_and_costs_no_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(METRICS, "faulty", f"{__name__}:FAULTY")
    monkeypatch.setattr(f"{__name__}.FAULTS", ["oops"])
    assert main(command(tmp_path)) == 1
    assert "metric faulty failed: ValueError: oops" in said(capsys)
    assert steps(tmp_path / "run")[-1] == 10, "the epoch that was trained"
    FAULTS.clear()
    assert main(command(tmp_path)) == 0
    assert "resuming at step 10 of 20" in capsys.readouterr().err


def test_a_metric_of_the_wrong_shape_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from inpaint.evaluation.table import metric_sums

    monkeypatch.setitem(METRICS, "scalar", f"{__name__}:SCALAR")
    image = torch.zeros(3, 3, 12, 12, dtype=torch.uint8)
    with pytest.raises(InpaintError, match=r"metric scalar failed: .*returned \[\].*must be \[3\]"):
        metric_sums(Filled(image, image, torch.ones(3, 1, 12, 12), image.float()))


# --- the tables


@pytest.mark.parametrize("flag", ["--dry-run", "--debug=false"])
@pytest.mark.parametrize(
    ("table", "value"),
    [
        (METRICS, f"{__name__}:NOWHERE"),
        (LOSSES, "inpaint.losses.nowhere:nowhere"),
        (DISCRIMINATOR_LOSSES, "no colon or module"),
        (HOLES, f"{__name__}:NOWHERE"),
    ],
)
def test_a_broken_line_of_the_tables_is_told_before_anything_is_done(
    table: dict[str, str],
    value: str,
    flag: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(table, "broken", value)
    setting = ["--data.hole_kinds", "{broken: 1}"] if table is HOLES else ["--loss.terms", "{broken: 1}"]
    assert main(command(tmp_path, flag, *([] if table is METRICS else setting))) == 2
    line = said(capsys)
    assert "inpaint/tables.py" in line and "'broken'" in line and repr(value) in line
    assert not (tmp_path / "run").exists()


# --- losses


def of_each_image(seen: Seen) -> Tensor:
    return seen.output.mean(dim=(1, 2, 3))


def plain_number(seen: Seen) -> float:
    return 1.0


def detached(seen: Seen) -> Tensor:
    return seen.output.mean().detach()


def detached_judgement(seen: Seen) -> Tensor:
    return seen.real.logits.mean().detach()


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (of_each_image, r"loss of_each_image returned \[8\]; it must be a scalar tensor"),
        (plain_number, "loss plain_number returned float; it must be a scalar tensor"),
        (detached, "loss detached has no gradient"),
    ],
)
def test_a_wrong_loss_is_named(loss: object, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = loss.__name__  # type: ignore[attr-defined]
    monkeypatch.setitem(LOSSES, name, f"{__name__}:{name}")
    setup = Setup(model={"norm": "group"}, loss={"terms": {name: 1.0}})
    with pytest.raises(InpaintError, match=words):
        setup(1)


def test_so_is_the_discriminators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DISCRIMINATOR_LOSSES, "detached_judgement", f"{__name__}:detached_judgement")
    setup = Setup(model={"norm": "group"}, loss={"terms": {"detached_judgement": 1.0}})
    with pytest.raises(InpaintError, match="loss detached_judgement has no gradient"):
        setup(2)


# --- kinds of holes

RECTANGLES = rectangle.RECTANGLE
FLAT = HoleKind(6, rectangle.draw, lambda holes, size: rectangle.rasterise(holes, size)[:, 0])
LARGE = HoleKind(6, rectangle.draw, lambda holes, size: rectangle.rasterise(holes, size + 1))
GREEDY = HoleKind(2, rectangle.draw, rectangle.rasterise)
WINDOWLESS = HoleKind(6, lambda *given: (rectangle.draw(*given)[0], np.zeros((1, 2), np.int32)), rectangle.rasterise)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("FLAT", r"hole kind FLAT: .*mask of \[2, 32, 32\].*must be \[2, 1, 32, 32\]"),
        ("LARGE", r"hole kind LARGE: .*mask of \[2, 1, 33, 33\].*must be \[2, 1, 32, 32\]"),
        ("GREEDY", r"hole kind GREEDY, .*num_uniforms = 2: ValueError"),
        ("WINDOWLESS", r"hole kind WINDOWLESS: .*windows of \[1, 2\].*must be \[2, 2\]"),
    ],
)
def test_a_wrong_kind_of_hole_is_named(kind: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HOLES, kind, f"{__name__}:{kind}")
    with pytest.raises(InpaintError, match=words):
        HoleMixture({"rectangle": 1.0, kind: 1.0}, HoleSpec.scaled(32))


def broken(seen: Seen) -> Tensor:
    return (seen.output * torch.nan).mean()


def test_a_run_whose_every_step_was_skipped_has_not_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(LOSSES, "broken", f"{__name__}:broken")
    assert main(command(tmp_path, "--loss.terms", "{broken: 1}", "--training.max_steps", "2")) == 1
    assert "all 2 steps were skipped" in said(capsys)
    assert not (tmp_path / "run" / "report.md").exists()
