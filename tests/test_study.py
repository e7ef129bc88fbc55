"""`inpaint study`: several runs by one command, killed and stopped in the middle, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from running import LAST, Ended, Job, assert_same_end, environment, steps, tiny_config
from test_orphans import MARK, alive, assert_gone

from inpaint.cli import main
from inpaint.data.synthetic.landscapes import render
from inpaint.studies import runner
from inpaint.training.run_directory import finished_step

SAID = pytest.CaptureFixture[str]
NUM_TRAINED = 160


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many training images as the tiny run has, and a few held out."""
    folder = tmp_path_factory.mktemp("photos")
    for index, image in enumerate(render(3, np.arange(NUM_TRAINED + 24), 32)):
        split = "train" if index < NUM_TRAINED else ("validation", "test")[index % 2]
        path = folder / split / "hills" / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def study(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Job:
    command = [sys.executable, "-m", "inpaint", "study", *map(str, arguments)]
    return Job([command], [{**environment(), **(env or {})}])


@pytest.fixture(scope="module")
def undisturbed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """The folder of a study of two configs with two seeds each, of which one finds no images, and how it ended."""
    folder = tmp_path_factory.mktemp("undisturbed")
    nowhere = tiny_config(folder, "nowhere", data={"path": str(folder / "nothing")})
    one = tiny_config(folder, "one", data={"path": str(photos)})
    with study(nowhere, one, "--out", folder / "study", "--seeds", 2, "--jobs", 2) as job:
        return folder / "study", job.wait()


def last_step(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b'"total_steps"') if path.exists() else 0


def test_killed_in_the_middle_it_loses_nothing_and_leaves_no_process(
    undisturbed: tuple[Path, Ended], photos: Path, tmp_path: Path
) -> None:
    """kill -9 in the first run and, when it goes on, SIGTERM in the second; the ends are those of undisturbed runs."""
    out, mark = tmp_path / "study", uuid.uuid4().hex
    one = tiny_config(tmp_path, "one", checkpointing={"every_steps": 3})
    # Another setting, but trained as the second seed of `one` is.
    other = tiny_config(tmp_path, "other", training={"seed": 1}, evaluation={"num_samples": 3})
    command = [one, other, "--out", out, "--", "--data.path", photos]
    with study(*command, env={MARK: mark}) as job:
        job.until(lambda: last_step(out / "one") >= 7)
        os.kill(job.processes[0].pid, signal.SIGKILL)
        job.processes[0].wait()
        assert_gone(mark)
    assert 7 <= steps(out / "one")[-1] < LAST
    assert not (out / "other").exists()
    with study(*command, env={MARK: mark}) as job:
        job.until(lambda: last_step(out / "other") >= 4)
        os.kill(job.processes[0].pid, signal.SIGTERM)
        stopped = job.wait()
    assert stopped.codes == [130] and "asked to stop: all runs are saved" in stopped.stderr
    assert not alive(mark)
    assert (out / "other" / "PREEMPTED").exists() and finished_step(out / "one") == LAST
    before = (out / "one" / "generator" / "model.safetensors").stat().st_mtime_ns
    with study(*command) as job:
        ended = job.wait().ok()
    assert "one (1 of 2): finished before, passed over" in ended.stderr
    assert (out / "one" / "generator" / "model.safetensors").stat().st_mtime_ns == before
    for name, straight in (("one", "one"), ("other", "one-seed1")):
        assert_same_end(out / name, undisturbed[0] / straight, LAST)
        evaluation = json.loads((out / name / "evaluation" / "evaluation.json").read_text())
        assert evaluation["data"]["split"] == "test" and evaluation["data"]["num_images"] == 12
    for text in (ended.stdout, (out / "report" / "report.md").read_text()):
        assert "95% intervals" in text and "| one " in text and "| other " in text


def test_one_that_fails_is_named_and_the_others_go_on(undisturbed: tuple[Path, Ended]) -> None:
    out, ended = undisturbed
    assert ended.codes == [1] and "Traceback" not in ended.stderr
    (said,) = [line for line in ended.stderr.splitlines() if line.startswith("inpaint study")]
    assert "2 of 4 runs failed" in said and "nowhere: training ended with code" in said and "nowhere.log" in said
    assert str(out.parent / "nothing") in said
    for name, seed in (("one", 0), ("one-seed1", 1)):
        assert finished_step(out / name) == LAST
        assert yaml.safe_load((out / name / "config.yaml").read_text())["training"]["seed"] == seed
    assert " ± " in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tabel1"], "tabel1 is neither a study nor a preset nor a .yaml file; did you mean table1"),
        (["table1", "--seeds", "0"], "--seeds is 0; it must be at least 1"),
        (["table1", "paper/original"], "paper/original is given twice"),
        (["table1", "--epochs", "2", "--", "--training.epochs", "3"], "--epochs and --training.epochs are the same"),
        (["table1", "--", "--run-dir", "x"], "--run-dir cannot be given here; only settings can"),
        (["table1", "--", "--training.epoch", "3"], "did you mean training.epochs"),
        (["table1", "--width", "3"], "model.width"),
        (["table1", "--", "--hub.repo_id", "me/mine"], "hub.repo_id: the runs of a study cannot share"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_begun(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: SAID
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["study", *arguments]) == 2
    assert told in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_each_job_has_its_share_of_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "num_cores", lambda: 9)
    monkeypatch.setattr(runner, "_devices", lambda: ["4", "7"])
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environments = [runner.Runner(tmp_path, [], 3).environment(slot) for slot in range(3)]
    assert [its["OMP_NUM_THREADS"] for its in environments] == ["3", "3", "3"]
    assert [its["CUDA_VISIBLE_DEVICES"] for its in environments] == ["4", "7", "4"]
    assert not any("RANK" in its for its in environments)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert runner.Runner(tmp_path, [], 3).environment(0)["OMP_NUM_THREADS"] == "2"


def test_another_run_in_its_folder_and_a_second_study_are_refused(
    config: Path, straight: Path, tmp_path: Path, capsys: SAID
) -> None:
    from filelock import FileLock

    out = tmp_path / "study"
    out.mkdir()
    (out / config.stem).symlink_to(straight)
    assert main(["study", str(config), "--out", str(out), "--", "--model.width", "8"]) == 2
    assert "holds another run (model.width: 4 -> 8)" in capsys.readouterr().err
    with FileLock(out / ".study.lock"):
        assert main(["study", str(config), "--out", str(out)]) == 1
    assert "another study is at work in" in capsys.readouterr().err
