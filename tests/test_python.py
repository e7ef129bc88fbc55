"""Training from Python or a notebook: `inpaint.train`, which train.py calls too."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from running import differences, metrics, steps, tiny_config, train, weights

import inpaint
from inpaint.config import Config
from inpaint.distributed import launcher as set_up
from inpaint.distributed.heartbeat import Heartbeat
from inpaint.distributed.signals import STOPPING
from inpaint.errors import UsageError
from inpaint.resolve import load_config
from inpaint.training import launch
from inpaint.training.trainer import Trainer

SHORT = {"training.max_steps": 4, "training.phases": [0.5, 0.0, 0.5]}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tiny_config(tmp_path)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in STOPPING]


@pytest.fixture
def own_handlers() -> Iterator[list[Any]]:
    """Handlers of the caller's, for every signal that a run listens to."""
    before = handlers()
    for number in STOPPING:
        signal.signal(number, lambda *_: None)
    yield handlers()
    for number, handler in zip(STOPPING, before, strict=True):
        signal.signal(number, handler)


def test_it_trains_resumes_and_trains_another_run_in_one_process(
    config: Path, tmp_path: Path, own_handlers: list[Any]
) -> None:
    first = inpaint.train(config, tmp_path / "first", SHORT)
    assert first == launch.TrainingResult(tmp_path / "first", "finished")
    assert inpaint.Generator.from_pretrained(first.run_dir / "generator").config.width == 4
    inpaint.train(str(config), str(first.run_dir), SHORT | {"training.max_steps": 6})
    assert [line["step"] for line in metrics(first.run_dir) if "loss/generator/reconstruction" in line][-1] == 6
    # Another precision, and settings in the place of a file.
    other = load_config(str(config), SHORT | {"training.precision": "float64"})
    assert inpaint.train(other, tmp_path / "other").outcome == "finished"
    assert {tensor.dtype for tensor in weights(tmp_path / "other")["generator"].values()} == {torch.float64}
    assert handlers() == own_handlers


def test_several_processes_train_again_too(config: Path, tmp_path: Path) -> None:
    script = tmp_path / "sweep.py"
    script.write_text(
        "import sys, inpaint\nfor name in ('first', 'second'):\n"
        f"    inpaint.train(sys.argv[1], f'{{sys.argv[2]}}/{{name}}', {SHORT})\n"
    )
    train(config, tmp_path, processes=2, script=script).ok()
    assert set(differences(weights(tmp_path / "first"), weights(tmp_path / "second")).values()) == {0.0}


def test_train_py_calls_it(config: Path, tmp_path: Path) -> None:
    inpaint.train(config, tmp_path / "python", SHORT)
    arguments = ["--training.max_steps", "4", "--training.phases", "0.5", "0", "0.5"]
    assert launch.main(["--config", str(config), "--run-dir", str(tmp_path / "flags"), *arguments]) == 0
    assert set(differences(weights(tmp_path / "python"), weights(tmp_path / "flags")).values()) == {0.0}


def test_it_trains_off_the_main_thread(config: Path, tmp_path: Path, own_handlers: list[Any]) -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(inpaint.train(config, tmp_path / "run", SHORT)))
    thread.start()
    thread.join()
    assert [result.outcome for result in results] == ["finished"]
    assert handlers() == own_handlers


def test_a_signal_saves_and_stops_it_and_a_second_interrupt_is_pythons_own(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_handlers: list[Any]
) -> None:
    inner, number = Trainer._step, 1

    def interrupted(self: Trainer, batches: Any) -> int:
        if self.progress.step == 3:
            for _ in range(number):
                os.kill(os.getpid(), signal.SIGINT)
        return inner(self, batches)

    monkeypatch.setattr(Trainer, "_step", interrupted)
    assert inpaint.train(config, tmp_path / "once").outcome == "preempted"
    assert (tmp_path / "once" / "PREEMPTED").exists() and steps(tmp_path / "once")[-1] < 20
    number = 2
    with pytest.raises(KeyboardInterrupt):
        inpaint.train(config, tmp_path / "twice")
    assert not (tmp_path / "twice" / "run.lock").exists()
    assert handlers() == own_handlers


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"overrides": {"training.epcohs": 3}}, "did you mean training.epochs?"),
        ({"overrides": {"training.epochs": 0}}, "training.epochs = 0"),
        ({"overrides": {7: 0}}, "7: no such setting"),
        ({"overwrite": True}, "overwrite=True goes with resume=False"),
        ({"config": "quickstrat"}, "did you mean quickstart?"),
        ({"config": {"training": {}}}, "a config is a preset's name, a .yaml file or a Config; got {'training': {}}"),
        ({"overrides": {"training.precision": "fp16"}}, "fp16 needs a GPU"),
        ({"run_dir": Path(__file__)}, "is a file"),
    ],
)
def test_a_mistake_is_an_inpaint_error_and_leaves_the_handlers(
    arguments: dict[str, Any], words: str, config: Path, tmp_path: Path, own_handlers: list[Any]
) -> None:
    with pytest.raises(inpaint.InpaintError) as caught:
        inpaint.train(**{"config": config, "run_dir": tmp_path / "run", **arguments})
    assert isinstance(caught.value, UsageError) and words in str(caught.value)
    assert handlers() == own_handlers


def test_a_state_that_cannot_be_saved_is_an_error(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "run", lambda self: "unsaved")
    with pytest.raises(inpaint.InpaintError, match=r"last state of .* could not be saved"):
        inpaint.train(config, tmp_path / "run")


def test_without_a_run_directory_it_is_the_one_of_train_py(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: Path
) -> None:
    seen: list[tuple[Config, Path]] = []
    monkeypatch.setattr(launch, "_train", lambda config, options: seen.append((config, options.run_dir)) or "finished")
    for given in (None, "paper/final", config, Config()):
        inpaint.train(given)
    folders = [folder.as_posix() for _, folder in seen]
    assert folders == ["runs/quickstart", "runs/paper/final", "runs/tiny", "runs/quickstart"]
    assert [config for config, _ in seen] == [*map(load_config, (None, "paper/final", str(config))), Config()]


def test_what_is_public_is_there() -> None:
    assert all(getattr(inpaint, name) is not None for name in inpaint.__all__)
    assert inpaint.__version__.count(".") == 2


def test_a_run_keeps_its_number_of_threads_and_gives_the_callers_back(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_num_threads()
    for number, stop in (("2", 2), ("3", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", number)
        inpaint.train(config, tmp_path / "resumed", SHORT | {"training.max_steps": stop})
        assert "; BatchNorm over the micro batch; 2 CPU threads; " in capsys.readouterr().err
    inpaint.train(config, tmp_path / "straight", SHORT | {"training.num_threads": 2})
    assert set(differences(weights(tmp_path / "resumed"), weights(tmp_path / "straight")).values()) == {0.0}
    capsys.readouterr()
    monkeypatch.setattr(set_up, "num_cores", lambda: 1)
    inpaint.train(config, tmp_path / "resumed", SHORT | {"training.num_threads": 3, "training.max_steps": 5})
    told = capsys.readouterr().err
    assert "changed since this run was last started: training.num_threads: 2 -> 3" in told
    assert "3 CPU threads a process on 1 core(s) are slow" in told
    assert torch.get_num_threads() == before


def test_a_compiler_may_take_longer_than_timeout_s_where_a_part_of_training_runs_first(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, list[str]] = {"at": [], "busy": []}
    for name in told:
        monkeypatch.setattr(Heartbeat, name, lambda self, where, name=name: told[name].append(where))
    # As where there is no compiler: what is tested is what the heartbeat is told.
    monkeypatch.setattr("inpaint.distributed.runtime.why_not_compiled", lambda device: "not here")
    for compiles in (False, True):
        told["at"].clear(), told["busy"].clear()
        inpaint.train(
            config, tmp_path / f"{compiles}", SHORT | {"training.compile": compiles, "training.max_steps": 10}
        )
        unhurried = {where.partition(", ")[2]: where for where in told["busy"] if ", phase" in where}
        assert unhurried == ({"phase 1": "step 1, phase 1", "phase 3": "step 6, phase 3"} if compiles else {})
        assert sum(", phase" in where for where in told["at"]) == 10 - len(unhurried)


@pytest.mark.parametrize(
    ("batch", "words"), [(16, ""), (64, "an epoch has 2 step(s), none of them left for phase 3 (")]
)
def test_images_too_few_for_a_phase_are_said(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], batch: int, words: str
) -> None:
    """A small folder would train the generator alone, silently."""
    inpaint.train(config, tmp_path / "run", {"training.global_batch_size": batch, "training.max_steps": 1})
    said = capfd.readouterr().err
    assert words in said and ("none of them left" in said) == bool(words)


def test_a_generator_to_begin_from_that_is_not_there_is_told_before_anything_is_prepared(
    config: Path, tmp_path: Path
) -> None:
    with pytest.raises(inpaint.InpaintError, match="there is no folder nothing"):
        inpaint.train(config, tmp_path / "run", init_from="nothing")
    assert not (tmp_path / "run").exists()
