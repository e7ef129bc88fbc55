"""`inpaint report`: what it says of one run and of several, against figures worked out by hand, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from running import LAST

from inpaint.cli import main
from inpaint.config import Config
from inpaint.evaluation.grid import COLUMNS, cells, sample_grid
from inpaint.rating.answers import Answer, Answers, Fill
from inpaint.reports.figures import _spans
from inpaint.resolve import load_config
from inpaint.studies.published import load_study

SAID = pytest.CaptureFixture[str]


@pytest.fixture
def finished(straight: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(straight, tmp_path / "run"))


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run directory as a finished run leaves it, with figures that the test decides."""

    def make(name: str, config: Config, psnr: float, interval: list[float] | None = None, **facts: Any) -> Path:
        run = tmp_path / "runs" / name
        for folder in ("generator", "checkpoints/step_00000004", "evaluation"):
            (run / folder).mkdir(parents=True)
        (run / "generator" / "model.safetensors").write_bytes(b"")
        (run / "config.yaml").write_text(config.to_yaml())
        rows = {"generator": {"hole_psnr": 1.0}, "Telea": {"hole_psnr": 2.0}}
        facts = {"steps": 4, "images_seen": 64, "training_seconds": 7200.0, "finished": 4, "rows": rows, **facts}
        (run / "evaluation.json").write_text(json.dumps(facts))
        line = {"step": 4, "epoch": 1, "phase": 3, "images_seen": 64, "loss/generator/reconstruction": 0.1}
        (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        if interval is not None:
            write_measured(run, psnr, interval)
        return run

    return make


def write_measured(run: Path, psnr: float, interval: list[float], holes: str = "one") -> None:
    methods = {
        name: {"figures": {"hole_psnr": value, "sharpness": None}, "intervals": {"hole_psnr": ends, "sharpness": None}}
        for name, value, ends in ((str(run), psnr, interval), ("Telea", 19.5, [19.0, 20.0]))
    }
    facts = {"data": {"sha256": "x", "split": "test"}, "holes": {"sha256": holes, "given": holes}}
    content = {**facts, "models": {str(run): {}}, "methods": methods}
    (run / "evaluation" / "evaluation.json").write_text(json.dumps(content))


def table_of(text: str, first: str) -> dict[str, dict[str, str]]:
    """The rows of the Markdown table whose first heading is `first`, by their first cell."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    starts = [number for number, cells in enumerate(lines) if cells[0] == first]
    rows = {}
    for line in lines[starts[0] + 2 :]:
        if len(line) != len(lines[starts[0]]) or line[0].startswith(("95%", "---")):
            break
        rows[line[0]] = dict(zip(lines[starts[0]], line, strict=True))
    return rows


def test_one_run_keeps_what_training_wrote_and_gets_curves_and_samples(finished: Path, capsys: SAID) -> None:
    before = (finished / "report.md").read_text().partition("\nHeld-out images;")[0]
    assert main(["report", str(finished)]) == 0
    out = capsys.readouterr().out
    assert "finished" in out and f"step {LAST} of {LAST}" in out and f"written: {finished / 'report.md'}" in out
    text = (finished / "report.md").read_text()
    assert text.partition("\n")[2].startswith(before.partition("\n")[2])
    names = ["losses.png", "validation.png", "scores.png", "throughput.png", "samples.png"]
    assert [line.split("](plots/")[1][:-1] for line in text.splitlines() if line.startswith("![")] == names
    for name in names:
        assert np.asarray(Image.open(finished / "plots" / name)).std() > 5, name


def test_the_same_run_makes_the_same_report(finished: Path) -> None:
    contents = []
    for _ in range(2):
        assert main(["report", str(finished)]) == 0
        contents.append([path.read_bytes() for path in [*sorted(finished.glob("plots/*")), finished / "report.md"]])
    assert contents[0] == contents[1]


def test_phases_are_marked_from_the_line_before() -> None:
    rows = [{"phase": phase, "images_seen": seen} for phase, seen in ((1, 10), (1, 20), (3, 25), (1, 45))]
    assert _spans(rows) == {1: [(0.0, 20.0), (25, 20)], 3: [(20, 5)]}


@pytest.mark.parametrize(("size", "num"), [(32, 5), (64, 30), (512, 7)])
def test_images_are_read_back_from_a_sample_grid(size: int, num: int) -> None:
    """In four colours, one a column, and brighter with each image."""
    images = [np.zeros((num, size, size, 3), np.uint8) for _ in COLUMNS]
    for column, its in enumerate(images):
        its[..., :] = (np.arange(num)[:, None, None, None] * 8 + np.eye(4, 3, -column, int)[0] * 7).astype(np.uint8)
    found = cells(sample_grid(*images), size, COLUMNS, 3)
    rows = min(3, -(-num // 3))
    for column, name in enumerate(COLUMNS):
        assert np.array_equal(found[name][:, 3, 3], images[column][:rows, 3, 3])
        assert (found[name] == found[name][:, :1, :1]).all(), "a gap or a neighbour is in it"


def test_a_line_is_the_mean_over_seeds_beside_the_papers_scores(made: Callable[..., Path], capsys: SAID) -> None:
    """Of three seeds 20.0, 20.5 and 21.5: mean 20.667, standard deviation sqrt((0.444 + 0.028 + 0.694) / 2) = 0.764."""
    for number, psnr in enumerate((20.0, 20.5, 21.5)):
        config = load_config("paper/mse-adv-10", {"training.seed": number, "model.width": 16})
        made(
            f"best{f'-seed{number}' * (number > 0)}",
            config,
            psnr,
            [psnr - 1, psnr + 2],
            training_seconds=60 * (1 + number),
            weights_step=4 - number,
        )
    before = {"weights": "step 3, the best epoch's by hole PSNR on validation images"}  # there was no number then
    made("base", load_config("paper/original", {"model.width": 16}), 19.0, [18.0, 20.0], **before)
    other = made("mine", load_config("quickstart", {"data.synthetic_train": 16384}), 25.0, [24.0, 26.0])
    assert main(["report", str(other.parent)]) == 0
    out = capsys.readouterr().out
    rows = table_of(out, "setting")
    assert [*rows] == [*(row.label for row in load_study("table1").rows), "mine", "Telea"]
    best = rows["MSE:ADV = 10:1"]
    assert (best["runs"], best["hole PSNR"], best["wall time"]) == ("3", "20.67 ± 0.76", "2 min")
    assert (best["weights of step"], rows["Original"]["weights of step"]) == ("2 to 4 of 4", "- of 4")
    assert "- base: the step that its judged weights are of is unknown (no weights_step in its evaluation.json" in out
    assert [best[f"paper: {name}"] for name in ("local", "global", "average")] == ["4.67", "6.33", "5.50"]
    assert (rows["Original"]["hole PSNR"], rows["Original"]["wall time"]) == ("19.00", "2.0 h")
    assert rows["Bottleneck = 3"] | {"runs": "0", "hole PSNR": "-", "paper: global": "4.33"} == rows["Bottleneck = 3"]
    assert (rows["mine"]["paper: local"], rows["mine"]["hole PSNR"], rows["Telea"]["hole PSNR"]) == (
        "-",
        "25.00",
        "19.50",
    )
    intervals = table_of(out, "95% intervals over the images")
    assert intervals["MSE:ADV = 10:1"]["hole PSNR"] == "19.67 to 22.67"
    assert (other.parent / "report" / "report.md").read_text().count("MSE:ADV = 10:1") == 2


def test_peoples_scores_stand_beside_the_papers(made: Callable[..., Path], tmp_path: Path, capsys: SAID) -> None:
    """Of two raters: 4 and 6 of the hole, 5 and 7 of the whole; and of a model that is not in the table."""
    runs = [made(row.preset.partition("/")[2], load_config(row.preset), 20.0) for row in load_study("table1").rows[:2]]
    models = [str(runs[0] / "generator"), "another"]
    with Answers(tmp_path / "ratings.sqlite", do_create=True) as file:
        file.begin({}, dict.fromkeys(models, "0"), [Fill(model, "image", "hole", {}) for model in models])
        for rater, of_hole, of_whole in (("anna", 4, 5), ("ben", 6, 7)):
            for model in models:
                file.add(Answer("score", rater, model, "image", of_hole, of_whole))
    assert main(["report", *map(str, runs), "--ratings", str(tmp_path / "ratings.sqlite")]) == 0
    out, err = capsys.readouterr()
    names = [f"rated: {name}" for name in ("local", "global", "average")]
    rows = table_of(out, "setting")
    assert [rows["Original"][name] for name in names] == ["5.00", "6.00", "5.50"]
    assert [rows["Phases: 0.2-0.5-0.3"][name] for name in names] == ["-", "-", "-"]
    assert "scores of what is no run here are left out: another" in err
    assert main(["report", *map(str, runs), "--ratings", str(tmp_path / "nothing")]) == 1
    assert "there is no file" in capsys.readouterr().err


def test_ranks_are_compared_with_the_papers(made: Callable[..., Path], capsys: SAID) -> None:
    """The averages 4.5, 4.83, 3.67, 5.5 rank 2, 3, 1, 4; ours 1, 2, 3, 4: 1 - 6 * (1 + 1 + 4 + 0) / 60 = 0.4."""
    for number, row in enumerate(load_study("table1").rows[:4]):
        run = made(row.preset.partition("/")[2], load_config(row.preset), 20.0 + number, [19.0, 24.0])
    assert main(["report", str(run.parent)]) == 0
    assert "over 4 settings: hole PSNR +0.40." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"data.image_size": 32}, "data.image_size is 64 and 32"),
        ({"data.path": "photos"}, "data.path is None and photos"),
        ({"data.synthetic_train": 512}, "data.synthetic_train is 16384 and 512"),
    ],
)
def test_runs_of_different_data_are_refused(
    changed: Mapping[str, Any], told: str, made: Callable[..., Path], capsys: SAID
) -> None:
    runs = [
        made("one", load_config("paper/original"), 20.0),
        made("other", load_config("paper/original", changed), 21.0),
    ]
    assert main(["report", *map(str, runs)]) == 1
    err = capsys.readouterr().err
    assert f"{runs[0]} and {runs[1]} are of different data" in err and told in err and err.count("\n") == 1


def test_figures_on_other_holes_are_refused(made: Callable[..., Path], capsys: SAID) -> None:
    runs = [made(name, load_config("paper/original", {"training.seed": seed}), 20.0) for seed, name in enumerate("ab")]
    for run, holes in zip(runs, ("stored", "strokes:7"), strict=True):
        write_measured(run, 20.0, [19.0, 21.0], holes)
    assert main(["report", *map(str, runs)]) == 1
    assert "different holes (given stored; given strokes:7)" in capsys.readouterr().err


CUT = "metrics.jsonl ends within a line, which is left out"
GAP = f"has no line after step {LAST - 1}, while the run is finished at step {LAST}"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda lines: [*lines, b'{"step": 21, "epo'], CUT),
        (lambda lines: [*lines[:-2], lines[-2][:30]], f"{CUT}; it {GAP}"),
        (lambda lines: lines[:-2], f"metrics.jsonl {GAP}"),
        (lambda its: [*its[:2], its[2][:30] + b"\n", *its[3:]], "metrics.jsonl: 1 damaged line(s) are left out: 3"),
        (lambda lines: [], f"metrics.jsonl has no line, while the run is finished at step {LAST}"),
    ],
    ids=["torn", "torn in its last step", "without its last step", "damaged within", "empty"],
)
def test_what_is_missing_of_the_metrics_is_said(
    damage: Callable[[list[bytes]], list[bytes]], told: str, finished: Path, capsys: SAID
) -> None:
    """Its last lines are those of the last step: of training, and of the evaluation."""
    metrics = finished / "metrics.jsonl"
    metrics.write_bytes(b"".join(damage(metrics.read_bytes().splitlines(keepends=True))))
    assert main(["report", str(finished)]) == 0
    out = capsys.readouterr().out
    assert f"\n- run: {told}\n" in out and f"\n- run: {told}\n" in (finished / "report.md").read_text()
    assert f"step {LAST} of {LAST}, epoch 2, {16 * LAST} images seen" in out
    assert main(["status", str(finished)]) == 0
    out = capsys.readouterr().out
    assert f"\n{told}\n" in out and f"step {LAST} of {LAST}, " in out


def test_what_is_not_there_yet_is_said(made: Callable[..., Path], finished: Path, capsys: SAID) -> None:
    base = made("base", load_config("paper/original"), 19.0, [18.0, 20.0])
    begun, stale = (
        made(name, load_config("paper/original", {"training.seed": 1 + seed}), 20.0) for seed, name in enumerate("ab")
    )
    (begun / "metrics.jsonl").unlink()
    (begun / "evaluation.json").unlink()
    write_measured(stale, 30.0, [29.0, 31.0])
    os.utime(stale / "evaluation" / "evaluation.json", (1, 1))
    assert main(["report", str(base.parent), str(finished.parent / "nothing")]) == 0
    out, err = capsys.readouterr()
    assert f"no runs, passed over: {finished.parent / 'nothing'}" in err
    assert "- a: no step is in its metrics yet (not running; the same command resumes it)" in out
    assert "- b: no intervals; inpaint evaluate" in out
    assert (
        table_of(out, "setting")["Original"] | {"runs": "2 of 3", "hole PSNR": "19.00"}
        == table_of(out, "setting")["Original"]
    )
    assert main(["report", str(begun)]) == 0
    assert "No figures on test images yet: no step is in its metrics" in (begun / "report.md").read_text()


def test_no_run_and_a_damaged_config_are_errors_of_one_line(finished: Path, capsys: SAID) -> None:
    assert main(["report", str(finished / "samples")]) == 2
    assert "no run in" in capsys.readouterr().err
    (finished / "config.yaml").write_text("data: [")
    assert main(["report", str(finished)]) == 1
    assert "config.yaml is missing or damaged" in capsys.readouterr().err


def test_the_papers_table_is_as_printed() -> None:
    """Its averages are those of its scores, rounded; its presets exist and each is found again by its settings."""
    study = load_study("table1")
    assert len(study.rows) == 8
    for row in study.rows:
        local, overall, average = (row.scores[name] for name in ("local", "global", "average"))
        assert abs((local + overall) / 2 - average) < 0.011
        trained = load_config(row.preset, {"model.width": 8, "training.epochs": 1, "training.seed": 3})
        assert study.row_of(yaml.safe_load(trained.to_yaml())) == row
    assert study.row_of(load_config("quickstart").model_dump(mode="json")) is None
