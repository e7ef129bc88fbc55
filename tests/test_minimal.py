"""examples/minimal.py is the tutorial and a second reading of the method: its losses must be the trainer's."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from inpaint.training import launch
from tests.running import ROOT

NAMES = {
    "reconstruction": "loss/generator/reconstruction",
    "adversarial": "loss/generator/adversarial",
    "real": "loss/discriminator/real",
    "fake": "loss/discriminator/fake",
}
SIZE, WIDTH, PICTURES, BATCH, PHASES = 32, 8, 80, 8, (0.4, 0.3, 0.3)


def example():  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location("minimal", ROOT / "examples" / "minimal.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_computes_the_losses_of_the_trainer_bit_for_bit(tmp_path: Path) -> None:
    minimal = example()
    data = minimal.Landscapes(PICTURES, SIZE, seed=0)
    trainer = minimal.Trainer(SIZE, WIDTH, "cpu")
    phases = minimal.phase_steps(PHASES, PICTURES // BATCH)
    ours = [
        {NAMES[name]: value.item() for name, value in trainer.step(minimal.phase_at(position, phases), *batch).items()}
        for epoch in (1, 2)
        for position, batch in enumerate(data.batches(epoch, BATCH))
    ]
    flags = {
        "data.synthetic_train": PICTURES,
        "data.synthetic_held_out": 16,
        "data.image_size": SIZE,
        "model.width": WIDTH,
        "training.epochs": 2,
        "training.global_batch_size": BATCH,
        "training.log_every": 1,
        "training.num_threads": torch.get_num_threads(),  # others would round otherwise
        "evaluation.num_pictures": 8,
        "evaluation.num_samples": 2,
    }
    argv = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    argv += ["--training.phases", *map(str, PHASES), "--config", "paper/original", "--run-dir", str(tmp_path / "run")]
    assert launch.main(argv) == 0
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    theirs = [{key: line[key] for key in NAMES.values() if key in line} for line in lines if "phase" in line]
    theirs = [line for line in theirs if line]
    assert len(ours) == 20
    assert theirs == ours


def test_the_example_runs_as_its_docstring_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"images": 64, "image-size": 32, "width": 4, "epochs": 1, "batch-size": 16, "out": tmp_path}
    argv = ["minimal.py", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    monkeypatch.setattr("sys.argv", argv)
    example().main()
    assert (tmp_path / "epoch_0001.png").is_file()
    assert (tmp_path / "generator" / "model.safetensors").is_file()
