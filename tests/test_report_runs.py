"""Which real runs `inpaint report` takes together: unfinished ones by what they say of their data, and no run twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import steps, tiny_config
from stopping import killed

from inpaint.cli import main as inpaint
from inpaint.training.launch import main as train

SAID = pytest.CaptureFixture[str]
# The step in which a run of the fixture is killed: before it has logged any, before and after its first evaluation.
NO_LINE, NOT_JUDGED, JUDGED = 1, 2, 5


def photographs(folder: Path, letters: str, seed: int = 0) -> Path:
    """Twenty images for each letter, which begins their names."""
    draw = np.random.default_rng(seed)
    folder.mkdir()
    for name in [f"{letter}{number}" for letter in letters for number in range(20)]:
        Image.fromarray(draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def photos(folder: Path) -> Path:
    return photographs(folder / "photos", "abc")


@pytest.fixture(scope="module")
def arguments(folder: Path) -> Callable[..., list[str]]:
    config = tiny_config(folder, training={"num_threads": 1}, evaluation={"num_pictures": 4, "num_samples": 2})

    def make(run: Path, data: Path, seed: int) -> list[str]:
        return [
            *("--config", str(config), "--run-dir", str(run)),
            *("--data.path", str(data), "--training.seed", str(seed)),
        ]

    return make


@pytest.fixture(scope="module")
def finished(folder: Path, photos: Path, arguments: Callable[..., list[str]]) -> Path:
    """Nobody may change it."""
    assert train(arguments(folder / "finished", photos, 0)) == 0
    return folder / "finished"


def row(out: str, first: str) -> dict[str, str]:
    """The row of the report's first table that begins with `first`, by its headings."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line[:1] == "|"]
    return next(dict(zip(lines[0], line, strict=True)) for line in lines if line[0] == first)


def report(capsys: SAID, *runs: Path, out: Path) -> str:
    capsys.readouterr()
    assert inpaint(["report", *map(str, runs), "--out", str(out)]) == 0
    return capsys.readouterr().out


def test_an_unfinished_run_of_other_images_is_in_no_line_with_a_finished_one(
    finished: Path, arguments: Callable[..., list[str]], tmp_path: Path, capsys: SAID
) -> None:
    """Before its first line it only has a line of its own; with figures it is refused, as a finished one is."""
    data, run = photographs(tmp_path / "others", "xyz"), tmp_path / "other"
    killed(NO_LINE, *arguments(run, data, 1))
    told = f"not with finished: the validation images of {data} and {finished.parent / 'photos'} differ"
    for runs in ([finished, run], [run, finished]):
        out = report(capsys, *runs, out=tmp_path)
        assert row(out, "finished")["runs"] == "1" and row(out, "other")["runs"] == "0 of 1"
        assert f"- other: in a line of its own, {told}\n" in out
    killed(NOT_JUDGED, *arguments(run, data, 1))
    assert inpaint(["report", str(finished), str(run), "--out", str(tmp_path)]) == 1
    assert f"{finished} and {run} are of different data" in capsys.readouterr().err


def test_other_images_of_the_same_names_are_kept_apart_until_they_are_judged_and_then_known(
    finished: Path, photos: Path, arguments: Callable[..., list[str]], tmp_path: Path, capsys: SAID
) -> None:
    data, run = photographs(tmp_path / "repainted", "abc", seed=1), tmp_path / "repainted-run"
    killed(NOT_JUDGED, *arguments(run, data, 1))
    out = report(capsys, finished, run, out=tmp_path)
    assert row(out, "finished")["runs"] == "1" and row(out, "repainted-run")["runs"] == "0 of 1"
    told = f"data.path is {data} and {photos}, and no evaluation shows, for their names alone agree, that the images"
    assert f"- repainted-run: in a line of its own, not with finished: {told} are the same\n" in out
    killed(JUDGED, *arguments(run, data, 1))
    assert inpaint(["report", str(finished), str(run), "--out", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert f"{finished} and {run} are of different data" in err and "one plain colour has a hole PSNR of" in err


def test_the_same_images_elsewhere_are_one_line_once_that_is_known(
    finished: Path, photos: Path, arguments: Callable[..., list[str]], tmp_path: Path, capsys: SAID
) -> None:
    """It is not before the first evaluation, nor where no checkpoint and no evaluation is left to tell."""
    data, run = Path(shutil.copytree(photos, tmp_path / "moved")), tmp_path / "run"
    killed(NOT_JUDGED, *arguments(run, data, 1))
    assert row(report(capsys, finished, run, out=tmp_path), "run")["runs"] == "0 of 1"
    shutil.copytree(run, tmp_path / "bare", ignore=shutil.ignore_patterns("checkpoints"))
    out = report(capsys, finished, tmp_path / "bare", out=tmp_path)
    assert "and no checkpoint says that the images are the same" in out and row(out, "bare")["runs"] == "0 of 1"
    killed(JUDGED, *arguments(run, data, 1))
    out = report(capsys, finished, run, out=tmp_path)
    assert row(out, "finished, run")["runs"] == "1 of 2" and "in a line of its own" not in out


def test_a_copy_of_a_run_is_no_other_seed(
    finished: Path, photos: Path, arguments: Callable[..., list[str]], tmp_path: Path, capsys: SAID
) -> None:
    """Of an earlier copy and the finished run, the latter counts, whichever is given first."""
    early = Path(shutil.copytree(finished, tmp_path / "early"))
    (early / "evaluation.json").unlink()
    shutil.rmtree(early / "checkpoints" / f"step_{steps(early)[-1]:08d}")
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    other = tmp_path / "other"
    killed(NOT_JUDGED, *arguments(other, photos, 1))
    out = report(capsys, early, finished, copy, other, out=tmp_path / "out")
    its = row(out, "finished, other")
    assert its["runs"] == "1 of 2" and "±" not in its["hole PSNR"] and its["hole PSNR"] != "-"
    for name in ("early", "copy"):
        told = f"- {name}: left out, for its settings, data and seed (0) are those of finished: one run counts once"
        assert told in out.splitlines() and told in (tmp_path / "out" / "report.md").read_text().splitlines()
    assert (tmp_path / "out" / "report.md").read_text().startswith("# 2 runs\n")
    assert report(capsys, finished, copy, out=tmp_path / "out").count("left out") == 1
    assert (tmp_path / "out" / "report.md").read_text().startswith("# 1 run\n")
