"""The SLURM scripts on a real SLURM of two nodes: what they start is trained, as it would be without SLURM."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from slurm_cluster import ENDED
from slurm_site import NUM_STEPS, REPOSITORY, Site, assert_back_and_equal, on_slurm, write_image

SCRIPTS = sorted((REPOSITORY / "slurm").glob("*.sbatch"))


def test_table_of_runs_has_the_best_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "slurm")
    from summary import main

    for name, psnr in {"worse": 20.0, "better": 21.5, "unfinished": None}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
        if psnr is not None:
            ours = {"hole_psnr": psnr, "hole_ssim": 0.5, "hole_l1": 0.1}
            facts = {"rows": {"generator": ours}, "epochs": 3, "images_seen": 96}
            (tmp_path / name / "evaluation.json").write_text(json.dumps(facts))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.yaml").touch()
    (tmp_path / "damaged" / "evaluation.json").write_text('{"rows": {"gene')
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "table.md").read_text().splitlines()[2:] == [
        "| better | 3 | 96 | 21.50 | 0.5000 | 0.1000 |",
        "| worse | 3 | 96 | 20.00 | 0.5000 | 0.1000 |",
        "| damaged | - | - | - | - | - |",
        "| unfinished | - | - | - | - | - |",
    ]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck reads the job scripts: apt-get install it")
def test_scripts_pass_shellcheck() -> None:
    done = subprocess.run(["shellcheck", *map(str, SCRIPTS)], capture_output=True, text=True)
    assert len(SCRIPTS) == 3 and done.returncode == 0, done.stdout


@on_slurm
def test_two_nodes_train_what_two_processes_train(site: Site, undisturbed: dict[str, bytes]) -> None:
    job = site.train("plain", PREFLIGHT="full", TABLE_DIR=str(site.runs))
    assert site.cluster.wait(job, ENDED)["JobState"] == "COMPLETED", site.cluster.log(job)
    assert site.weights("plain") == undisturbed
    log = site.cluster.log(job)
    rows = [line.split()[:2] for line in log.splitlines() if line.startswith("node")]
    assert rows == [["node", "ranks"], ["node1", "0"], ["node2", "1"]]
    assert "2 processes on 2 machines" in log and "all-reduce of 16 MiB over 2 processes on cpu" in log
    assert "\n| plain | 2 | 512 | " in (site.runs / "table.md").read_text()
    assert sorted(path.name for path in site.runs.glob("plain*")) == ["plain"], "something is left beside the run"
    assert not list((site.runs / "plain").glob(".*"))


@on_slurm
def test_warned_before_its_time_limit_it_saves_and_comes_back(site: Site, undisturbed: dict[str, bytes]) -> None:
    job = site.train("warned")
    site.wait_for_step("warned")
    site.cluster.call("scancel", "--batch", "--signal=USR1", job)
    assert_back_and_equal(site, job, "warned", undisturbed)
    log = site.cluster.log(job)
    assert "rank 0 (process" in log and "requeued (restart 1 of at most 100)" in log
    resumed = int(log.partition("resuming at step ")[2].split()[0])
    assert 4 <= resumed < NUM_STEPS, "it did not go on from where it was asked to stop"


@on_slurm
def test_one_that_always_fails_is_given_up(site: Site) -> None:
    photos = site.runs.parent / "too few"
    photos.mkdir()
    write_image(photos / "one.png")
    job = site.train("failing", "--data.path", str(photos), options=("--nodes=1",), MAX_FAILURES="2")
    facts = site.cluster.wait(job, ENDED)
    log = site.cluster.log(job)
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", "1:0", "1"), log
    *_, end = log.strip().splitlines()
    given_up = "given up after 2 failure(s) without a new checkpoint (MAX_FAILURES; newest: none): "
    assert given_up + "the training failed (exit code 1): the " in end and " split of " in end
    assert [path.name for path in site.runs.glob("failing*")] == ["failing"], "something is left beside the run"


@on_slurm
def test_wrong_usage_that_only_training_finds_is_not_tried_again(site: Site) -> None:
    flags = ("--data.synthetic_train", "16", "--training.global_batch_size", "32")
    job = site.train("usage", *flags, options=("--nodes=1",))
    facts = site.cluster.wait(job, ENDED)
    log = site.cluster.log(job)
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", "2:0", "0"), log
    end = log.strip().splitlines()[-1]
    assert "not requeued" in end and "training.global_batch_size = 32 is larger than the 16 training images" in end


@on_slurm
@pytest.mark.soak
def test_a_real_time_limit(site: Site) -> None:
    """Set in the middle of a training that lasts longer than SLURM takes to look at its limits, every half minute."""
    epochs = ("--training.epochs", "120", "--evaluation.every_epochs", "60")
    job = site.train("limit", *epochs, options=("--signal=B:USR1@110",))
    site.wait_for_step("limit")
    hours, minutes, _ = map(int, site.cluster.facts(job)["RunTime"].split(":"))
    site.cluster.call("scontrol", "update", f"jobid={job}", f"TimeLimit={60 * hours + minutes + 2}")
    assert site.cluster.wait(job, {"PENDING", *ENDED})["JobState"] == "PENDING", site.cluster.log(job)
    site.cluster.call("scontrol", "update", f"jobid={job}", "TimeLimit=60")
    undisturbed = site.train("no-limit", *epochs)
    assert site.cluster.wait(job, ENDED, 1200)["JobState"] == "COMPLETED", site.cluster.log(job)
    log = site.cluster.log(job)
    assert site.cluster.facts(job)["Restarts"] == "1" and "is told" in log and "resuming at step" in log, log
    site.cluster.wait(undisturbed, {"COMPLETED"}, 1200)
    assert site.weights("limit", 60 * NUM_STEPS) == site.weights("no-limit", 60 * NUM_STEPS)


@on_slurm
@pytest.mark.soak
def test_table1_runs_all_eight(site: Site) -> None:
    smaller = (
        *("--training.epochs", "1", "--training.global_batch_size", "16", "--data.synthetic_train", "64"),
        *("--data.synthetic_held_out", "32", "--data.image_size", "32", "--model.width", "4"),
    )
    job = site.cluster.submit(
        site.repository / "slurm/table1.sbatch", *smaller, settings=site.settings | {"TABLE_DIR": str(site.runs / "t1")}
    )
    most = 0
    deadline = time.monotonic() + 1200
    while listed := site.cluster.call("squeue", "--noheader", "--format=%T", f"--jobs={job}").split():
        most = max(most, listed.count("RUNNING"))
        assert time.monotonic() < deadline
        time.sleep(1)
    assert most == 2
    lines = (site.runs / "t1/table.md").read_text().splitlines()[2:]
    presets = {path.stem for path in (REPOSITORY / "inpaint/presets/paper").glob("*.yaml")} - {"final"}
    assert len(presets) == 8
    assert {line.split()[1] for line in lines} == presets
    for line in lines:
        _, _, epochs, _, psnr, ssim, l1, _ = (cell.strip() for cell in line.split("|"))
        assert epochs == "1" and float(psnr) > 0 and 0 < float(l1) < 1 and -1 < float(ssim) < 1


@on_slurm
@pytest.mark.soak
def test_staged_images_are_read_from_the_nodes_own_disk(site: Site, undisturbed: dict[str, bytes]) -> None:
    scratch = site.runs.parent / "scratch"
    job = site.train("staged", STAGE_DIR=str(scratch))
    assert site.cluster.wait(job, ENDED)["JobState"] == "COMPLETED", site.cluster.log(job)
    assert site.weights("staged") == undisturbed
    entries = {path.name for path in scratch.iterdir() if path.is_dir()}
    assert len(entries) == 1 and entries <= {path.name for path in (site.runs.parent / "cache").iterdir()}


@on_slurm
@pytest.mark.soak
@pytest.mark.parametrize("kind", ["--nodes=2", "--array=0-3"])
def test_prepare_on_two_nodes_and_as_an_array(site: Site, kind: str) -> None:
    source, out = site.runs.parent / "source", site.runs.parent / f"prepared{kind}"
    for number in range(40):
        write_image(source / f"class{number % 2}" / f"{number}.png", seed=number)
    job = site.cluster.submit(
        site.repository / "slurm/prepare.sbatch",
        *("--source", str(source), "--out", str(out), "--chunk-images", "4", "--workers", "1"),
        options=(kind, "--cpus-per-task=1"),
        settings=site.settings,
    )
    deadline = time.monotonic() + 900
    while site.cluster.call("squeue", "--noheader", f"--jobs={job}"):
        assert time.monotonic() < deadline
        time.sleep(1)
    for task in [f"{job}_{index}" for index in range(4)] if "array" in kind else [job]:
        log = site.cluster.log(task)
        assert "images kept" in log or "there is nothing left to do" in log or "run the same command again" in log
    assert len((out / "holes.csv").read_text().splitlines()) == 41
