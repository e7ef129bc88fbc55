"""The same command resumes exactly: after any end, at any step, under any engine, with whatever the disk has left."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from running import LAST, PATIENCE_S, assert_same_end, differences, launch, metrics, start, steps, weights
from stopping import at_step, killed

from inpaint import Generator
from inpaint.distributed import stop_sync
from inpaint.errors import InpaintError
from inpaint.training import checkpoint, trainer
from inpaint.training.launch import main
from inpaint.training.saved_generator import init_generator


def test_an_end_at_any_step_is_resumed_to_the_same_bytes(config: Path, straight: Path, tmp_path: Path) -> None:
    """Phases 1, 2 and 3, both epochs, right after and right before a save, and before the first."""
    for number in (1, 4, 5, 7, 10, 11, 13, 17, 20):
        run = tmp_path / f"run_{number}"
        killed(number, "--config", str(config), "--run-dir", str(run))
        assert LAST not in steps(run)
        assert main(["--config", str(config), "--run-dir", str(run)]) == 0
        assert_same_end(run, straight, LAST)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_in_any_phase_saves_and_leaves_a_marker(
    name: str, config: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (2, 6, 9):
        run = tmp_path / f"run_{number}"
        with monkeypatch.context() as patch:
            at_step(number, lambda: os.kill(os.getpid(), getattr(signal, name)), patch)
            assert main(["--config", str(config), "--run-dir", str(run)]) == 0
        assert (run / "PREEMPTED").exists() and not (run / "run.lock").exists()
        assert number <= steps(run)[-1] <= number + stop_sync.LAG
        assert main(["--config", str(config), "--run-dir", str(run)]) == 0
        assert not (run / "PREEMPTED").exists()
        assert_same_end(run, straight, LAST)


def test_a_signal_during_validation_is_heard_there(
    config: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inpaint.training import evaluator

    original = evaluator.metric_sums
    with monkeypatch.context() as patch:
        patch.setattr(
            evaluator, "metric_sums", lambda *args: (os.kill(os.getpid(), signal.SIGTERM), original(*args))[1]
        )
        patch.setattr(evaluator, "_PIXELS_AT_ONCE", 8 * 32**2)
        assert main(["--config", str(config), "--run-dir", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "PREEMPTED").exists() and steps(tmp_path / "run")[-1] == LAST // 2
    assert main(["--config", str(config), "--run-dir", str(tmp_path / "run")]) == 0
    evaluated = [line["epoch"] for line in metrics(tmp_path / "run") if "evaluation/hole_psnr" in line]
    assert evaluated == [1, 2]
    assert_same_end(tmp_path / "run", straight, LAST)


@pytest.mark.parametrize(("batches", "last"), [((16, 32), 15), ((32, 16), 15), ((16, 80), 12)])
def test_another_batch_goes_on_to_the_end_of_the_last_epoch(
    batches: tuple[int, int], last: int, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Epochs of 160 images: one with the first batch, the other with the second."""
    flags = ["--config", str(config), "--run-dir", str(tmp_path / "run"), "--training.global_batch_size"]
    assert main([*flags, str(batches[0]), "--training.epochs", "1"]) == 0
    assert main([*flags, str(batches[1]), "--training.epochs", "2"]) == 0
    assert steps(tmp_path / "run")[-1] == last
    lines = [line for line in metrics(tmp_path / "run") if "learning_rate_factor" in line]
    assert lines[-1]["images_seen"] == 320
    assert main([*flags, str(batches[1]), "--training.epochs", "2", "--training.max_steps", "4"]) == 0
    assert f"finished, at step {last} of {last}" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    config: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    assert main(["--config", str(config), "--run-dir", str(run), "--training.max_steps", "15"]) == 0
    assert steps(run)[-2:] == [12, 15]
    file = run / "checkpoints" / "step_00000015" / "optimizer_generator.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert main(["--config", str(config), "--run-dir", str(run)]) == 0
    assert "step_00000015 is damaged: optimizer_generator.safetensors" in caplog.text
    assert_same_end(run, straight, LAST)


def poison(monkeypatch: pytest.MonkeyPatch, epoch: int, position: int) -> None:
    """One batch of the run makes the loss not finite, and with it the weights, whenever it is met."""
    original = trainer.Trainer._step

    def step(self: trainer.Trainer, batches: Any) -> int:
        here = (self.progress.epoch, self.progress.position)
        if here == (epoch, position) and [epoch, position] not in self.progress.skipped:
            with torch.no_grad():
                next(self.task.generator.module.parameters()).fill_(float("nan"))
        return original(self, batches)

    monkeypatch.setattr(trainer.Trainer, "_step", step)


def test_a_batch_that_breaks_the_loss_is_left_out_and_never_reaches_a_checkpoint(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    poison(monkeypatch, 1, 7)
    arguments = ["--config", str(config), "--run-dir", str(run), "--training.log_every", "20"]
    assert main(arguments) == 0
    assert "back to the last checkpoint" in capsys.readouterr().err
    state = json.loads((run / "checkpoints" / f"step_{LAST:08d}" / "state.json").read_text())
    assert state["skipped"] == [[1, 7]] and state["rollbacks"] == 1
    for step in steps(run):
        for tensors in weights(run, step).values():
            assert all(tensor.double().isfinite().all() for tensor in tensors.values())
    facts = json.loads((run / "debug" / "step_00000008" / "error.json").read_text())
    assert facts["place"] == {"step": 8, "epoch": 1, "position": 7, "phase": 3} and len(facts["sources"]) == 16


def test_a_run_that_breaks_again_and_again_ends_with_one_line(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(monkeypatch, 1, 7)
    flags = ["--training.max_rollbacks", "0"]
    assert main(["--config", str(config), "--run-dir", str(tmp_path / "run"), *flags]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("inpaint: ")]
    assert len(said) == 1 and "not finite at step 8" in said[0] and "debug" in said[0]


def fail_saves(monkeypatch: pytest.MonkeyPatch, failing: set[int]) -> None:
    original = checkpoint.CheckpointStore._write

    def write(self: Any, step: int, *rest: Any) -> None:
        if step in failing:
            raise OSError(28, "No space left on device")
        original(self, step, *rest)

    monkeypatch.setattr(checkpoint.CheckpointStore, "_write", write)


def test_a_save_that_fails_is_shouted_and_costs_nothing(
    tmp_path: Path, config: Path, straight: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_saves(monkeypatch, {3, 6, 15})
    assert main(["--config", str(config), "--run-dir", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err.count("A CHECKPOINT COULD NOT BE SAVED") == 3
    assert_same_end(tmp_path / "run", straight, LAST)


def test_if_the_last_state_cannot_be_saved_the_exit_code_says_so_and_the_run_can_be_finished(
    tmp_path: Path, config: Path, straight: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        fail_saves(patch, {LAST})
        assert main(["--config", str(config), "--run-dir", str(run)]) == 1
    assert "COULD NOT BE SAVED" in capsys.readouterr().err and steps(run)[-1] == 18
    assert main(["--config", str(config), "--run-dir", str(run)]) == 0
    assert_same_end(run, straight, LAST)


def test_if_the_first_checkpoint_cannot_be_saved_nothing_is_trained(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_saves(monkeypatch, {0})
    assert main(["--config", str(config), "--run-dir", str(tmp_path / "run")]) == 1
    assert "nothing was trained" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_another_model_is_refused_and_another_schedule_is_said(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--config", str(config), "--run-dir", str(tmp_path / "run")]
    assert main([*run, "--training.max_steps", "6"]) == 0
    before = weights(tmp_path / "run")
    assert main([*run, "--model.width", "6"]) == 2
    assert "model.width: 4 -> 6" in capsys.readouterr().err
    assert set(differences(before, weights(tmp_path / "run")).values()) == {0.0}
    assert main([*run, "--training.max_steps", "7", "--optimizer.generator_learning_rate", "1e-3"]) == 0
    said = capsys.readouterr().err
    assert "optimizer.generator_learning_rate: 0.0002 -> 0.001" in said and "training.max_steps: 6 -> 7" in said


def test_init_from_takes_the_weights_into_a_new_run(
    tmp_path: Path, config: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = [
        "--config",
        str(config),
        "--run-dir",
        str(run),
        "--init-from",
        str(straight),
        "--training.max_steps",
        "1",
    ]
    assert main(arguments) == 0
    published = weights(straight, LAST)["generator_ema"]
    assert all(torch.equal(tensor, published[name]) for name, tensor in weights(run, 0)["generator"].items())
    again = [str(tmp_path / "gone") if word == str(straight) else word for word in arguments]
    assert main([*again[:-1], "2"]) == 0, "it is not even looked at by a run that goes on"
    assert "--init-from is for a new run and not used" in capsys.readouterr().err
    with pytest.raises(InpaintError, match="config"):
        init_generator(Generator(), str(tmp_path))


def test_a_second_run_on_the_same_folder_is_refused_and_the_first_goes_on(config: Path, tmp_path: Path) -> None:
    flags = ["--config", config, "--run-dir", tmp_path / "run", "--training.epochs", "200"]
    with start(*flags) as first:
        first.until(lambda: steps(tmp_path / "run")[-1:] > [3])
        assert main([str(flag) for flag in flags]) == 1
        first.processes[0].send_signal(signal.SIGINT)
        ended = first.wait().ok()
    assert "asked to stop" in ended.stderr
    assert (tmp_path / "run" / "PREEMPTED").exists()


def test_no_worker_outlives_its_launcher(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with launch("cpu", "--config", config, "--run-dir", run, "--training.epochs", "500") as job:
        job.until(lambda: steps(run)[-1:] > [3])
        rank0 = int((run / "rank0.pid").read_text())
        job.processes[0].kill()
        deadline = time.monotonic() + PATIENCE_S
        while Path(f"/proc/{rank0}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not Path(f"/proc/{rank0}").exists(), "rank 0 goes on without its launcher"
    assert not (run / "run.lock").exists() and (run / "PREEMPTED").exists()


def test_a_folder_that_vanishes_while_training_costs_the_past_not_the_run(
    config: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    at_step(11, lambda: run.rename(tmp_path / "elsewhere"), monkeypatch)
    assert main(["--config", str(config), "--run-dir", str(run)]) in (0, 1)
    assert "sample grid cannot be written" in capsys.readouterr().err
    assert set(differences(weights(run, LAST), weights(straight, LAST)).values()) == {0.0}
