"""train.py as its user meets it: what a run leaves, what the same command does again, and how a mistake is told."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from running import differences, launch, metrics, steps, tiny_config, train, weights

from inpaint import Generator
from inpaint.evaluation.baselines import BASELINES
from inpaint.training.launch import main

LAST = 20


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Decoded images, made once for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INPAINT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ACCELERATE_USE_CPU", "true")
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of two epochs from start to end, with its folder and what it printed; nobody may change it."""
    folder = tmp_path_factory.mktemp("finished")
    ended = train("--config", tiny_config(folder), "--run-dir", folder / "run").ok()
    assert "Traceback" not in ended.stderr
    return folder / "run", ended.stdout


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fails(capsys: pytest.CaptureFixture[str], code: int, *arguments: str | Path) -> str:
    """The one line that a command fails with."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == code
    said = [line for line in capsys.readouterr().err.splitlines() if line]
    assert said[0].startswith("inpaint: ")
    assert not any("Traceback" in line for line in said)
    return "\n".join(said)


# --- compiling


def test_without_a_compiler_the_networks_run_as_they_are(finished: tuple[Path, str], tmp_path: Path) -> None:
    nothing = {"CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    ended = train("--config", tiny_config(tmp_path), "--run-dir", tmp_path / "run", "--training.compile", env=nothing)
    assert "training.compile: not on this machine, so the networks run as they are" in ended.ok().stderr
    assert set(differences(weights(tmp_path / "run", LAST), weights(finished[0], LAST)).values()) == {0.0}


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and none is installed")
def test_compiled_networks_train_alike(tmp_path: Path) -> None:
    runs = tmp_path / "compiled", tmp_path / "plain"
    config = tiny_config(tmp_path, training={"precision": "float64"})
    train("--config", config, "--run-dir", runs[0], "--training.compile").ok()
    train("--config", config, "--run-dir", runs[1]).ok()
    apart = differences(weights(runs[0], LAST), weights(runs[1], LAST))
    assert 0 < max(apart.values()) < 1e-9, apart


# --- what a run leaves


def test_a_run_leaves_the_files_it_promises(finished: tuple[Path, str]) -> None:
    run, _ = finished
    left = {path.name for path in run.iterdir()}
    assert left >= {"config.yaml", "metrics.jsonl", "samples", "checkpoints", "generator", "report.md"}
    assert not left & {"run.lock", "rank0.pid", "PREEMPTED", "debug"}
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["epoch_0001.png", "epoch_0002.png"]
    assert steps(run)[-1] == 20
    assert not [path for path in run.rglob("*") if path.name.startswith(".") or path.suffix in (".bin", ".pt", ".pkl")]


def test_the_metrics_tell_every_step(finished: tuple[Path, str]) -> None:
    lines = metrics(finished[0])
    training = [line for line in lines if any(key.startswith("loss/") for key in line)]
    assert [line["step"] for line in training] == list(range(1, 21))
    assert [line["epoch"] for line in training] == [1] * 10 + [2] * 10
    assert [line["phase"] for line in training] == ([1] * 4 + [2] * 3 + [3] * 3) * 2
    assert [line["images_seen"] for line in training] == list(range(16, 321, 16))
    expected = {1: {"loss/generator/reconstruction"}, 2: {"loss/discriminator/real", "loss/discriminator/fake"}}
    expected[3] = expected[1] | expected[2] | {"loss/generator/adversarial"}
    for line in training:
        assert {key for key in line if key.startswith("loss/")} == expected[line["phase"]]
        assert line["time/images_per_s"] > 0 and 0 <= line["data/wait_s"] < 60
        assert 0.1 < line["memory/peak_gib"] < 16  # torch alone takes as much
    evaluated = [line for line in lines if "evaluation/hole_psnr" in line]
    assert [line["epoch"] for line in evaluated] == [1, 2]
    assert all({"step", "epoch", "phase", "images_seen"} <= line.keys() for line in lines)


def test_the_grids_open_and_show_the_same_images(finished: tuple[Path, str]) -> None:
    grids = [np.asarray(Image.open(finished[0] / "samples" / f"epoch_000{epoch}.png")) for epoch in (1, 2)]
    assert grids[0].shape == grids[1].shape
    assert grids[0].std() > 10
    # Each block's first two columns, originals and masked ones, are the same after every epoch; the outputs are not.
    differing = (grids[0] != grids[1]).any(axis=(0, 2))
    assert not differing[: 2 * 128].any()
    assert differing[2 * 128 + 16 : 4 * 128].any()


def test_the_report_sets_the_generator_beside_the_baselines(finished: tuple[Path, str]) -> None:
    run, printed = finished
    report = (run / "report.md").read_text()
    assert report.strip() in printed
    assert all(f"| {method} " in report for method in [*BASELINES, "generator"])
    assert "On 32 held-out images of 32 px" in report
    assert all(f"- {fact}\n" in report for fact in ("steps: 20", "epochs: 2", "images_seen: 320"))
    assert re.search(r"- images_per_s: [0-9.]+\n- peak_memory_gib: [0-9.]+\n", report)
    linked = re.findall(r"\]\((.*?)\)", report)
    assert linked == ["samples/epoch_0001.png", "samples/epoch_0002.png"]
    assert all((run / link).is_file() for link in linked)
    assert re.search(
        r"the generator \([\d.]+ dB\) is below mean fill \([\d.]+ dB\) and Telea .* after 20 steps", report
    )
    assert "Raise training.epochs (now 2)" in report


def test_the_generators_card_is_that_of_the_run(finished: tuple[Path, str]) -> None:
    card = (finished[0] / "generator" / "README.md").read_text()
    assert "More Information Needed" not in card
    assert all(f"| {method} |" in card for method in [*BASELINES, "generator"])
    assert "image_size: 32" in card and "- inpaint\n" in card


def test_the_saved_generator_is_the_average_of_the_last_checkpoint(finished: tuple[Path, str]) -> None:
    generator = Generator.from_pretrained(finished[0] / "generator")
    averaged = weights(finished[0])["generator_ema"]
    assert generator.state_dict().keys() == averaged.keys()
    assert all(torch.equal(tensor, averaged[name]) for name, tensor in generator.state_dict().items())


# --- the same command again


def test_run_again_it_says_that_it_is_finished_and_changes_nothing(
    finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = finished
    before = files(run)
    assert main(["--config", str(run.parent / "tiny.yaml"), "--run-dir", str(run)]) == 0
    said = capsys.readouterr().err
    assert "this run is finished, at step 20 of 20; a larger training.epochs extends it" in said
    assert files(run) == before


def test_more_epochs_extend_it_and_the_config_it_saved_resumes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = tiny_config(tmp_path, training={"epochs": 1, "max_steps": None}), tmp_path / "run"
    assert main(["--config", str(path), "--run-dir", str(run)]) == 0
    (run / "config.yaml").rename(tmp_path / "saved.yaml")
    (run / "config.yaml").write_bytes((tmp_path / "saved.yaml").read_bytes())
    again = ["--config", str(tmp_path / "saved.yaml"), "--run-dir", str(run), "--training.epochs", "2"]
    assert main(again) == 0
    assert "resuming at step 10 of 20" in capsys.readouterr().err
    assert [line["step"] for line in metrics(run) if "loss/generator/reconstruction" in line][-1] == 20
    assert (run / "samples" / "epoch_0002.png").is_file()
    assert yaml.safe_load((run / "config.yaml").read_text())["training"]["epochs"] == 2


def test_a_start_that_does_not_train_leaves_the_config_alone(
    finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, path = Path(shutil.copytree(finished[0], tmp_path / "run")), finished[0].parent / "tiny.yaml"
    before = (run / "config.yaml").read_bytes()
    arguments = ["--config", str(path), "--run-dir", str(run)]
    assert main([*arguments, "--training.global_batch_size", "512"]) == 2
    assert main([*arguments, "--loss.adversarial_weight", "7"]) == 0
    assert "this run is finished" in capsys.readouterr().err
    assert (run / "config.yaml").read_bytes() == before


def test_no_resume_refuses_and_overwrite_throws_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, run = tiny_config(tmp_path, training={"epochs": 1}), tmp_path / "run"
    arguments = ["--config", path, "--run-dir", run, "--no-resume", "--training.max_steps", "2"]
    assert main([*map(str, arguments)]) == 0
    before = files(run)
    (run / "notes.txt").write_text("mine")
    line = fails(capsys, 2, *arguments)
    assert f"--run-dir {run} holds a run and --no-resume was given" in line
    assert "--overwrite" in line
    assert {**before, "notes.txt": b"mine"} == files(run)
    assert main([*map(str, arguments), "--overwrite", "--training.seed", "1"]) == 0
    assert files(run)["notes.txt"] == b"mine"
    assert files(run)["generator/model.safetensors"] != before["generator/model.safetensors"]
    assert steps(run)[-1] == 2


# --- mistakes


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"precious")
    for more in ([], ["--no-resume", "--overwrite"]):
        line = fails(capsys, 2, "--config", tiny_config(tmp_path), "--run-dir", tmp_path / "photos", *more)
        assert "holds other things and no run" in line
        assert files(tmp_path / "photos") == {"me.jpg": b"precious"}
    line = fails(capsys, 2, "--config", tiny_config(tmp_path), "--run-dir", tmp_path / "photos" / "me.jpg")
    assert "is a file and no run" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="about a folder without the right to write; root may write everywhere")
def test_no_permission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    line = fails(capsys, 1, "--config", tiny_config(tmp_path), "--run-dir", tmp_path / "closed" / "run")
    assert "cannot be written (Permission denied" in line


def test_a_parent_that_is_a_file_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Root meets this one too."""
    (tmp_path / "file").write_text("")
    line = fails(capsys, 1, "--config", tiny_config(tmp_path), "--run-dir", tmp_path / "file" / "run")
    assert "cannot be written (Not a directory" in line


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--training.epcohs", "3"], 2, "--training.epcohs: no such setting; did you mean training.epochs?"),
        (
            ["--data.image_size", "66"],
            2,
            "data.image_size = 66: must be a multiple of 4 for model.generator = dilated",
        ),
        (["--data.hole_max_px", "20"], 2, "the hole (up to 20 px) is larger than its local window (14 px)"),
        (["--training.phases", "0.2", "0.2", "0.2"], 2, "must sum to 1; got 0.2 + 0.2 + 0.2 = 0.6"),
        (["--training.micro_batch_size", "5"], 2, "training.micro_batch_size = 5 does not divide the 16 images"),
        (["--training.global_batch_size", "512"], 2, "512 is larger than the 160 training images"),
        (["--training.precision", "fp16"], 2, "training.precision = fp16 needs a GPU"),
        (["--data.path", "EMPTY"], 1, "EMPTY"),
        (["--data.path", "nowhere/at/all"], 2, "nowhere/at/all"),
        (["--init-from", "EMPTY"], 1, "config.json"),
    ],
)
@pytest.mark.usefixtures("finished")  # which has filled the cache: a bar is a line too
def test_a_mistake_is_one_line_before_anything_is_begun(
    arguments: list[str], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    given = [str(empty) if word == "EMPTY" else word for word in arguments]
    line = fails(capsys, code, "--config", tiny_config(tmp_path), "--run-dir", tmp_path / "run", *given)
    assert words.replace("EMPTY", str(empty)) in line
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert not (tmp_path / "run" / "run.lock").exists()


def test_a_mistake_costs_a_finished_run_nothing(
    finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = finished
    before = files(run)
    path = tiny_config(tmp_path)
    line = fails(capsys, 2, "--config", path, "--run-dir", run, "--model.width", "8")
    assert "model.width: 4 -> 8" in line
    assert files(run) == before


# --- dry run


def dry(text: str) -> dict[str, Any]:
    return yaml.safe_load(text)


def test_a_dry_run_tells_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tiny_config(tmp_path)
    assert main(["--config", str(path), "--dry-run", "--training.max_steps", "15"]) == 0
    facts = dry(capsys.readouterr().out)
    assert facts["config"]["training"]["max_steps"] == 15
    assert (facts["training_pictures"], facts["steps_per_epoch"], facts["steps"]) == (160, 10, 15)
    assert list(facts["steps_per_phase"].values()) == [4, 3, 3]
    assert facts["parameters"]["total"] == facts["parameters"]["generator"] + facts["parameters"]["discriminator"]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_papers_dry_run_under_the_launcher(tmp_path: Path) -> None:
    """`accelerate launch train.py --config paper/original --dry-run`."""
    with launch(None, "--config", "paper/original", "--dry-run", processes=None, launcher=["--cpu"]) as job:
        facts = dry(job.wait().ok().stdout)
    assert facts["parameters"] == {"generator": 6_067_555, "discriminator": 29_594_753, "total": 35_662_308}


def test_train_py_itself_exits_with_2_on_a_misspelt_flag() -> None:
    ended = train("--trianing.epochs", "3")
    assert ended.codes == [2]
    assert ended.said[0] == "inpaint: the configuration has 1 fault(s):"
    assert "--trianing.epochs: no such setting; did you mean training.epochs?" in ended.stderr
    assert "Traceback" not in ended.stderr
