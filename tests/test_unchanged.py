"""Moving the code must not move a number: the weights after 30 steps of four trainings, and what was written before.

The hashes were taken with torch 2.13.0 (CPU build, one thread) on an x86-64 machine with AVX-512; elsewhere arithmetic
rounds otherwise, and the test skips where a plain convolution already does.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from running import metrics, tiny_config, train, weights
from shards import write_shards

from inpaint.training.saved_generator import load_generator

HERE = Path(__file__).parent / "data"
HASHES = json.loads((HERE / "unchanged.json").read_text())
LONG = {"max_steps": 30, "epochs": 9, "global_batch_size": 16, "phases": [0.4, 0.3, 0.3]}


def fingerprint_of_arithmetic() -> str:
    """Tells machines apart whose kernels round otherwise."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(4, 8, 16, 16, generator=generator).to(memory_format=torch.channels_last)
    weight = torch.randn(8, 8, 3, 3, generator=generator).to(memory_format=torch.channels_last)
    values = torch.nn.functional.conv2d(image, weight, padding=1).exp().tanh()
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()[:16]


def digest(run: Path) -> str:
    """Of all weights, averages and moments of the newest checkpoint."""
    whole = hashlib.sha256()
    for file, tensors in weights(run).items():
        for name, tensor in sorted(tensors.items()):
            whole.update(f"{file}/{name}".encode() + tensor.contiguous().numpy().tobytes())
    return whole.hexdigest()[:16]


def trained(name: str, tmp_path: Path) -> str:
    """30 steps of a kind of training, to the hash of its end."""
    sections: dict[str, dict[str, object]] = {"training": LONG}
    processes = 2 if name == "two processes" else 1
    if name == "paper":
        sections |= {"data": {"holes": "stored"}, "model": {"width": 4, "norm": "batch"}}
    if name == "quickstart":
        sections |= {
            "data": {"flip": True},
            "model": {"mask_channel": True, "discriminator_input": "composite", "norm": "batch"},
            "loss": {"reconstruction_weight": 30000.0, "reconstruction_region": "hole"},
            "optimizer": {"schedule": "linear", "beta1": 0.9, "warmup_kimg": 0.1},
        }
    if name == "streamed":
        shards = write_shards(tmp_path / "shards", 32, {"train": 103, "validation": 9, "test": 7})
        sections |= {
            "data": {"path": str(shards), "streaming": True, "stream_window": 64, "holes": "stored", "flip": True},
            "training": {**LONG, "micro_batch_size": 8},
        }
    run = tmp_path / "run"
    config = tiny_config(tmp_path, **sections)
    train("--config", config, "--run-dir", run, processes=processes).ok()
    return digest(run)


@pytest.mark.parametrize("name", ["paper", "quickstart", "streamed", "two processes"])
def test_the_weights_after_thirty_steps(name: str, tmp_path: Path) -> None:
    if torch.__version__ != HASHES["torch"] or fingerprint_of_arithmetic() != HASHES["arithmetic"]:
        pytest.skip(
            "bits are compared, and those on record are of another torch or kind of processor, which round otherwise"
        )
    assert trained(name, tmp_path) == HASHES[name]


def test_a_run_from_before_goes_on(tmp_path: Path) -> None:
    """Its checkpoint, settings and generator were written by revision 800af7f."""
    run = tmp_path / "run"
    shutil.copytree(HERE / "run_before", run)
    before = load_generator(run)
    train("--config", run / "config.yaml", "--run-dir", run, "--training.max_steps", "6").ok()
    assert [line["step"] for line in metrics(run) if "loss/generator/reconstruction" in line] == [1, 2, 4, 5, 6]
    after = load_generator(run)
    assert after.config == before.config and after.state_dict().keys() == before.state_dict().keys()
