"""A run that trains by reconstruction first and with the adversary afterwards gives both ends, and what lies between.

The runs here have 20 steps, of which the first 8 are phase 1, and a checkpoint every fourth step.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_server import LoopbackHub
from PIL import Image
from running import LAST, tiny_config, train, weights
from safetensors.torch import load_file, save_file
from stopping import at_step, killed
from torch import Tensor

from inpaint import Generator, InpaintError, InpaintingPipeline, cli
from inpaint.errors import UsageError
from inpaint.fidelity import RECONSTRUCTION_FILE
from inpaint.hub.queue import PushQueue
from inpaint.models.generator import GeneratorConfig
from inpaint.training import evaluator
from inpaint.training.launch import main
from inpaint.training.saved_generator import load_generator

SWITCH, SIZE = 8, 32
AVERAGE, RECONSTRUCTION = "generator_ema", "generator_reconstruction"
DIAL = {"phases": [0.4, 0.0, 0.6], "phases_per": "run", "num_threads": 1}
HAS_ONE = "these weights have no second end"


def config(folder: Path, name: str = "dial", training: Any = None, **sections: Any) -> Path:
    sections = {"model": {"width": 4, "norm": "batch"}, "checkpointing": {"every_steps": 4, "keep": 99}} | sections
    return tiny_config(folder, name, training=DIAL | (training or {}), **sections)


def run_of(path: Path) -> Path:
    """Trained to its end, or on to it."""
    run = path.parent / path.stem
    assert main(["--config", str(path), "--run-dir", str(run)]) == 0
    return run


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed; nobody may change it."""
    return run_of(config(tmp_path_factory.mktemp("fidelity")))


@pytest.fixture(scope="module")
def one_end(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one_end")
    Generator(GeneratorConfig(width=4, image_size=SIZE)).save_pretrained(folder)
    return folder


@pytest.fixture
def saved(straight: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(straight / "generator", tmp_path / "generator"))


def ends(run: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What lies in generator/: of fidelity 0 and of fidelity 1."""
    return load_file(run / "generator" / "model.safetensors"), load_file(run / "generator" / RECONSTRUCTION_FILE)


def is_same(one: dict[str, Tensor] | None, other: dict[str, Tensor] | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def half_filled(size: int = 12) -> tuple[Image.Image, Image.Image]:
    """An image of noise, and a mask whose left half is white."""
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    mask = np.zeros((size, size), np.uint8)
    mask[:, : size // 2] = 255
    return Image.fromarray(image), Image.fromarray(mask)


def is_alike(one: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))


# --- what a run keeps


def test_a_run_gives_both_ends_and_the_first_is_that_of_a_run_stopped_there(straight: Path, tmp_path: Path) -> None:
    stopped = run_of(config(tmp_path, "stopped", training={"phases": [1.0, 0.0, 0.0], "max_steps": SWITCH}))
    adversarial, reconstruction = ends(straight)
    assert is_same(adversarial, weights(straight, LAST)[AVERAGE])
    assert is_same(reconstruction, weights(stopped, SWITCH)[AVERAGE])
    assert is_same(reconstruction, weights(straight, LAST)[RECONSTRUCTION])
    assert not is_same(reconstruction, adversarial)
    assert RECONSTRUCTION not in weights(straight, SWITCH), "nothing but the adversary's turn has come to an end there"
    assert not (stopped / "generator" / RECONSTRUCTION_FILE).exists()
    card = (straight / "generator" / "README.md").read_text()
    assert f"`{RECONSTRUCTION_FILE}` is from the end of the training by reconstruction alone" in card
    assert RECONSTRUCTION_FILE not in (stopped / "generator" / "README.md").read_text()


def test_without_an_average_it_is_the_generator_and_of_phases_in_every_epoch_nothing(tmp_path: Path) -> None:
    plain = run_of(config(tmp_path, "plain", ema={"half_life_kimg": None}))
    assert is_same(ends(plain)[1], weights(plain, SWITCH)["generator"])
    of_epochs = run_of(config(tmp_path, "of_epochs", training={"phases_per": "epoch"}))
    assert RECONSTRUCTION not in weights(of_epochs, LAST)
    assert not (of_epochs / "generator" / RECONSTRUCTION_FILE).exists()


@pytest.mark.parametrize("how", ["killed", "preempted"])
@pytest.mark.parametrize("number", [SWITCH - 2, SWITCH, SWITCH + 1, SWITCH + 6])
def test_however_it_is_interrupted_both_ends_are_the_same(
    how: str, number: int, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config(tmp_path)
    if how == "killed":
        killed(number, "--config", str(path), "--run-dir", str(tmp_path / "dial"))
    else:
        with monkeypatch.context() as patch:
            at_step(number, lambda: os.kill(os.getpid(), signal.SIGTERM), patch)
            assert (run_of(path) / "PREEMPTED").exists()
    run = run_of(path)
    for here, there in zip(ends(run), ends(straight), strict=True):
        assert is_same(here, there)
    here, there = weights(run, LAST), weights(straight, LAST)
    assert here.keys() == there.keys() and all(is_same(here[name], there[name]) for name in there)


def test_an_unfinished_run_gives_both_from_its_folder_and_from_its_checkpoint(straight: Path, tmp_path: Path) -> None:
    path, run = config(tmp_path), tmp_path / "dial"
    killed(SWITCH + 8, "--config", str(path), "--run-dir", str(run))
    assert is_same(ends(run)[1], ends(straight)[1]), "the first epoch ends after the switch"
    shutil.rmtree(run / "generator")
    loaded = load_generator(run)
    assert is_same(loaded.state_dict(), weights(straight, 12)[AVERAGE])
    assert is_same(loaded.reconstruction, ends(straight)[1])
    assert is_same(load_generator(run, fidelity=1).state_dict(), ends(straight)[1])


def test_a_longer_run_comes_to_its_switch_anew(straight: Path, tmp_path: Path) -> None:
    """Of 60 steps the first 24 are phase 1: the 20 that are done count among them."""
    shutil.copytree(straight, tmp_path / "dial")
    run = run_of(config(tmp_path, training={"epochs": 6}))
    assert RECONSTRUCTION not in weights(run, 24)
    assert is_same(ends(run)[1], weights(run, 24)[AVERAGE]) and not is_same(ends(run)[1], ends(straight)[1])


@pytest.mark.parametrize("is_past", [True, False])
def test_the_best_epochs_second_end_is_its_own(is_past: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[..., Any] = evaluator.Evaluator.validate
    figures = iter([30.0, 20.0])
    monkeypatch.setattr(evaluator.Evaluator, "validate", lambda *args: original(*args) | {"hole_psnr": next(figures)})
    phases = DIAL["phases"] if is_past else [0.6, 0.0, 0.4]
    best_by = {"num_pictures": 16, "num_samples": 4, "best_by": "hole_psnr"}
    run = run_of(config(tmp_path, training={"phases": phases}, evaluation=best_by))
    loaded = Generator.from_pretrained(run / "generator")
    assert is_same(loaded.state_dict(), weights(run, 10)[AVERAGE])
    assert is_same(loaded.reconstruction, weights(run, SWITCH)[AVERAGE] if is_past else None)


def test_two_processes_keep_what_one_does_and_one_goes_on_from_it(tmp_path: Path) -> None:
    path = config(tmp_path, training={"precision": "float64"})
    stop = ["--training.max_steps", str(SWITCH + 2), "--training.phases", "0.8", "0", "0.2"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["--config", str(path), "--run-dir", str(one)]) == 0
    train("--config", path, "--run-dir", two, *stop, processes=2).ok()
    kept = weights(two, SWITCH + 2)[RECONSTRUCTION]
    assert is_same(kept, weights(two, SWITCH)[AVERAGE])
    assert all(tensor.dtype in (torch.float64, torch.int64) for tensor in kept.values())
    assert main(["--config", str(path), "--run-dir", str(two)]) == 0
    assert is_same(weights(two, LAST)[RECONSTRUCTION], kept), "another engine changed it"
    for name in (RECONSTRUCTION, AVERAGE):
        for key, tensor in weights(one, LAST)[name].items():
            torch.testing.assert_close(weights(two, LAST)[name][key], tensor, rtol=0, atol=1e-9)
    assert is_same(
        ends(two)[1], {key: value.float() if value.is_floating_point() else value for key, value in kept.items()}
    )


# --- what lies between


def test_weights_are_interpolated_and_the_ends_are_themselves(saved: Path) -> None:
    (adversarial, reconstruction), generator = ends(saved.parent), Generator.from_pretrained(saved)
    assert is_same(generator.at_fidelity(0).state_dict(), adversarial)
    assert is_same(generator.at_fidelity(1).state_dict(), reconstruction)
    assert any("running_var" in name for name in adversarial)
    for fidelity in (0.25, 0.5, np.float32(0.75)):
        for name, tensor in generator.at_fidelity(fidelity).state_dict().items():
            if tensor.is_floating_point():
                expected = (1 - float(fidelity)) * adversarial[name] + float(fidelity) * reconstruction[name]
                torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-7)
    assert is_same(generator.state_dict(), adversarial) and is_same(generator.reconstruction, reconstruction)


def test_a_pipeline_fills_at_the_fidelity_asked_for(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []
    original = Generator.at_fidelity
    monkeypatch.setattr(
        Generator, "at_fidelity", lambda self, fidelity: (made.append(fidelity), original(self, fidelity))[1]
    )
    pipe, inputs = InpaintingPipeline.from_pretrained(saved, device="cpu"), half_filled()
    plain = pipe(*inputs)
    assert is_alike(pipe(*inputs, fidelity=0), plain)
    for fidelity in (1, 0.5):
        other = InpaintingPipeline(original(pipe.generator, fidelity), "cpu")(*inputs)
        assert is_alike(pipe(*inputs, fidelity=fidelity), other) and not is_alike(other, plain)
        assert np.array_equal(pipe.fill(*inputs, fidelity=fidelity).pixels, np.asarray(other))
    assert made == [0, 1, 0.5], "the last one is kept"
    assert is_alike(pipe(*inputs), plain), "the base is spoilt"
    pipe.generator = original(pipe.generator, 1)
    with pytest.raises(InpaintError, match=HAS_ONE):
        pipe(*inputs, fidelity=0.5)


def test_both_are_saved_again_and_go_with_the_generator(saved: Path, one_end: Path, tmp_path: Path) -> None:
    InpaintingPipeline.from_pretrained(saved, device="cpu").save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors", RECONSTRUCTION_FILE):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()
    assert RECONSTRUCTION_FILE in (tmp_path / "again" / "README.md").read_text()
    Generator.from_pretrained(one_end).save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / RECONSTRUCTION_FILE).exists()
    assert Generator.from_pretrained(tmp_path / "again").reconstruction is None


def test_both_are_on_the_hub_and_come_back(hub: LoopbackHub, straight: Path, tmp_path: Path) -> None:
    pipe = InpaintingPipeline.from_pretrained(straight / "generator", device="cpu")
    pipe.push_to_hub("alice/pipeline")
    run = Path(shutil.copytree(straight, tmp_path / "run"))
    assert cli.main(["push", str(run), "--repo-id", "alice/run"]) == 0
    for repo in ("alice/pipeline", "alice/run"):
        there = Generator.from_pretrained(repo)
        assert is_same(there.reconstruction, ends(straight)[1]) and is_same(there.state_dict(), ends(straight)[0])
        assert RECONSTRUCTION_FILE.encode() in hub.head(repo).files["README.md"].content
    (run / "generator" / RECONSTRUCTION_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=f"holds no {RECONSTRUCTION_FILE}"):
        PushQueue(run).add("late", "alice/run", private=False)
    shutil.rmtree(run)
    Generator(GeneratorConfig(width=2)).save_pretrained(run / "generator")
    assert cli.main(["push", str(run), "--repo-id", "alice/run"]) == 0
    assert RECONSTRUCTION_FILE not in hub.head("alice/run").files


# --- the commands, and what is refused


def fill(folder: Path, model: Path, *arguments: str) -> int:
    for name, image in zip(("photo.png", "mask.png"), half_filled(), strict=True):
        image.save(folder / name)
    paths = [str(folder / "photo.png"), "--mask", str(folder / "mask.png"), "-o", str(folder / "filled.png")]
    return cli.main(["fill", *paths, "--model", str(model), "--device", "cpu", *arguments])


def evaluate(out: Path, model: Path, *arguments: str) -> int:
    how = ["--device", "cpu", "--limit", "8", "--out", str(out)]
    return cli.main(["evaluate", "--model", str(model), *how, *arguments])


def test_the_commands_take_it(straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = InpaintingPipeline.from_pretrained(straight / "generator", device="cpu")
    for fidelity in (None, 0.5, 1):
        assert fill(tmp_path, straight, *([] if fidelity is None else ["--fidelity", str(fidelity)])) == 0
        assert is_alike(Image.open(tmp_path / "filled.png"), pipe(*half_filled(), fidelity=fidelity))
    judged = []
    for arguments in ([], ["--fidelity", "1"]):
        assert evaluate(tmp_path / "out", straight, *arguments) == 0
        judged.append(json.loads((tmp_path / "out" / "evaluation.json").read_text()))
    assert f"{straight} at fidelity 1" in capsys.readouterr().out
    (plain,), (other,) = (its["methods"].values() for its in judged)
    assert plain["figures"]["hole_psnr"] != other["figures"]["hole_psnr"]


@pytest.mark.parametrize("fidelity", [-0.1, 1.5, float("nan"), "0.5", True, [0.5]])
def test_what_is_no_fidelity_is_refused(fidelity: Any, straight: Path) -> None:
    pipe = InpaintingPipeline.from_pretrained(straight / "generator", device="cpu")
    with pytest.raises(UsageError, match=r"^fidelity is .*; give a number from 0 .* to 1 "):
        pipe(*half_filled(), fidelity=fidelity)


@pytest.mark.parametrize("command", [fill, evaluate])
def test_the_commands_refuse_in_one_line(
    command: Callable[..., int], straight: Path, one_end: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path, straight, "--fidelity", "1.5") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"inpaint {command.__name__}: error: fidelity is 1.5; give a number from 0" in line
    with pytest.raises(SystemExit) as ended:
        command(tmp_path, straight, "--fidelity", "much")
    assert ended.value.code == 2 and "--fidelity: invalid float value: 'much'" in capsys.readouterr().err
    for fidelity in ("0", "0.5"):
        assert command(tmp_path, one_end, "--fidelity", fidelity) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{one_end}: {HAS_ONE}" in line and "leave it out, or train with training.phases_per: run" in line


def damages(path: Path) -> Iterator[tuple[Callable[[], object], str]]:
    whole, tensors = path.read_bytes(), load_file(path)
    name = "layers.0.0.weight"
    tensor = tensors[name]
    yield path.unlink, f"holds no {RECONSTRUCTION_FILE}"
    yield lambda: path.write_bytes(whole[:-1]), f"{RECONSTRUCTION_FILE} is damaged or no safetensors file"
    for changed, fault in (
        ({key: value for key, value in tensors.items() if key != name}, f"{name} is missing"),
        (tensors | {"extra": torch.zeros(1)}, "'extra' is unknown"),
        (tensors | {name: torch.zeros(3)}, f"{name} is float [3], not float {list(tensor.shape)}"),
        (tensors | {name: tensor.int()}, f"{name} is I32 "),
    ):
        words = f"{RECONSTRUCTION_FILE} does not fit its config: {fault}"
        yield lambda changed=changed: save_file(changed, path), words
    config = json.loads((path.parent / "config.json").read_text()) | {"has_reconstruction": "yes"}
    yield lambda: (path.parent / "config.json").write_text(json.dumps(config)), "has_reconstruction is 'yes'; allowed"


@pytest.mark.parametrize("which", range(7))
def test_a_damaged_second_file_is_named(which: int, saved: Path) -> None:
    damage, words = [*damages(saved / RECONSTRUCTION_FILE)][which]
    damage()
    with pytest.raises(InpaintError) as caught:
        Generator.from_pretrained(saved)
    assert words in str(caught.value) and "\n" not in str(caught.value)
