"""The same run on any machine: world size, engine, accumulation; who pays for gradients.

Two starts of two processes serve most tests: tests/distributed_worker.py trains several small runs in each.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from recording import Recorded, divided_zero3, record
from running import CONFIGS, ENGINES, TINY, differences, metrics, tiny_config

from inpaint.distributed.collectives import Collectives
from inpaint.distributed.network import Network, StepSettings

NUM_STEPS = 20

FLOAT64 = {"training.precision": "float64"}
BATCH_NORM = {"model.norm": "batch"}
PENALTY = {"model.discriminator": "patch", "loss.terms": {"r1": 0.5, "r2": 0.5}, "loss.penalty_every": 4}
BF16 = {
    "training.precision": "bf16",
    "training.phases": [0.8, 0.1, 0.1],
    "optimizer.generator_learning_rate": 0.005,
    "loss.adversarial_weight": 0.001,
    "evaluation.every_epochs": 3,
}
ACCUMULATED = {
    "training.micro_batch_size": 4,
    "training.max_steps": 8,
    "optimizer.gradient_clip": 0.02,
    "evaluation.every_epochs": 3,
}

# The second process has no image left in the last chunk of 17.
UNEVEN = {"training.epochs": 1, "ema.half_life_kimg": None, "evaluation.num_pictures": 17}

ONE_PROCESS = [
    {"name": "one", "flags": FLOAT64},
    {"name": "one_accumulated", "flags": FLOAT64 | {"training.micro_batch_size": 8}},
    {"name": "one_batch_norm", "flags": FLOAT64 | BATCH_NORM},
    {"name": "one_penalty", "flags": FLOAT64 | PENALTY},
]
DDP = [
    {"name": "two", "flags": FLOAT64},
    {"name": "two_batch_norm", "flags": FLOAT64 | BATCH_NORM},
    {"name": "two_penalty", "flags": FLOAT64 | PENALTY},
    {"name": "ddp", "flags": BATCH_NORM},
    {"name": "ddp_bf16", "flags": BF16},
    {"name": "ddp_accumulated", "flags": ACCUMULATED},
    {"name": "ddp_uneven", "flags": UNEVEN},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def one_process(folder: Path) -> Path:
    return record(folder, tiny_config(folder), ONE_PROCESS, processes=1)


@pytest.fixture(scope="module")
def ddp(folder: Path) -> Path:
    return record(folder, tiny_config(folder), DDP, processes=2)


@pytest.fixture(scope="module")
def zero(folder: Path) -> Path:
    files = {engine: str(CONFIGS / f"deepspeed_{engine}.json") for engine in ENGINES} | {"zero3": divided_zero3(folder)}
    scenarios = [
        {"name": f"{engine}{suffix}", "engine": file, "flags": flags}
        for engine, file in files.items()
        for suffix, flags in (("", BATCH_NORM), ("_bf16", BF16), ("_accumulated", ACCUMULATED))
    ]
    # And here each weight is let go of as soon as a layer has used it.
    released = divided_zero3(folder, stage3_prefetch_bucket_size=0, stage3_max_reuse_distance=0)
    scenarios.append({"name": "zero3_uneven", "engine": released, "flags": UNEVEN})
    return record(folder, tiny_config(folder), scenarios, processes=2)


# --- the run does not depend on the machine


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("one", "two"),
        ("one", "one_accumulated"),
        ("one_batch_norm", "two_batch_norm"),
        ("one_penalty", "two_penalty"),
    ],
)
def test_world_size_and_accumulation_change_nothing(one_process: Path, ddp: Path, one: str, other: str) -> None:
    first, second = Recorded(ddp, one), Recorded(ddp, other)
    assert len(first.steps) == len(second.steps) == NUM_STEPS
    assert {ranks[0]["phase"] for ranks in first.steps} == {1, 2, 3}
    for step, (here, there) in enumerate(zip(first.losses, second.losses, strict=True)):
        names = [name for name in here if name.startswith(("loss/", "gradient_norm/"))]
        assert names
        assert all(abs(here[name] - there[name]) < 1e-9 for name in names), (step, here, there)
    mine, theirs = first.weights, second.weights
    assert mine["generator"]["layers.0.0.weight"].dtype == torch.float64
    for file, tensors in mine.items():
        for name, value in tensors.items():
            assert (value - theirs[file][name]).abs().max() < 1e-9, (file, name)


def test_the_samples_and_holes_are_those_of_one_process(one_process: Path, ddp: Path) -> None:
    one, two = Recorded(ddp, "one").steps, Recorded(ddp, "two").steps
    for (alone,), (first, second) in zip(one, two, strict=True):
        assert len(first["indices"]) == len(second["indices"]) == 8
        assert not set(first["indices"]) & set(second["indices"])
        assert alone["indices"] == first["indices"] + second["indices"]
    num = TINY["data"]["synthetic_train"]
    for epoch in (one[: NUM_STEPS // 2], one[NUM_STEPS // 2 :]):
        assert sorted(index for (alone,) in epoch for index in alone["indices"]) == list(range(num))
    assert one[0][0]["indices"] != one[NUM_STEPS // 2][0]["indices"]
    accumulated = Recorded(ddp, "one_accumulated").steps
    assert [step["indices"] for (step,) in accumulated] == [step["indices"] for (step,) in one]
    # Batches of the same images, cut in the same places, have the same holes whatever else differs.
    ddp_steps = Recorded(ddp, "ddp").steps
    assert [[rank["holes"] for rank in step] for step in ddp_steps] == [
        [rank["holes"] for rank in step] for step in two
    ]


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_are_bit_identical(ddp: Path, zero: Path, engine: str) -> None:
    plain, other = Recorded(ddp, "ddp"), Recorded(zero, engine)
    assert f"ZeRO-{engine[-1]}" in other.ranks[0]["describe"]
    assert "DDP, 2 processes on 1 machine, cpu, float32; batch 16 = 8 x 2 processes;" in plain.ranks[0]["describe"]
    apart = differences(plain.weights, other.weights)
    assert set(apart) == {
        "generator",
        "generator_ema",
        "discriminator",
        "optimizer_generator",
        "optimizer_discriminator",
    }
    assert set(apart.values()) == {0.0}, apart
    for here, there in zip(plain.losses, other.losses, strict=True):
        assert here == pytest.approx(there, rel=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_accumulation_and_clipping_are_alike_under_every_engine(ddp: Path, zero: Path, engine: str) -> None:
    """The order of the sums differs, so float32 agrees only as far as the first steps have not amplified it."""
    plain, other = Recorded(ddp, "ddp_accumulated").losses, Recorded(zero, f"{engine}_accumulated").losses
    assert len(plain) == len(other) == 8
    assert all(losses["gradient_norm/generator"] > 0.02 for losses in plain[:4]), "nothing was clipped"
    for here, there in zip(plain, other, strict=True):
        assert here == pytest.approx(there, rel=0.02)
    assert plain[0] == pytest.approx(other[0], rel=1e-5)


@pytest.mark.parametrize("engine", ["ddp", *ENGINES])
def test_bf16_runs_and_learns(ddp: Path, zero: Path, engine: str) -> None:
    run = Recorded(ddp, f"{engine}_bf16")
    assert ", bf16;" in run.ranks[0]["describe"]
    losses = [step["loss/generator/reconstruction"] for step in run.losses if "loss/generator/reconstruction" in step]
    assert len(losses) == 18
    assert sum(losses[9:]) < 0.95 * sum(losses[:9]), "the second epoch, of the same images, is no better than the first"
    assert all(tensor.dtype == torch.float32 for tensor in run.weights["generator"].values())
    exact = Recorded(ddp, "ddp_accumulated").losses[0]["loss/generator/reconstruction"]
    assert losses[0] != pytest.approx(exact, rel=1e-6), "it ran in float32"
    assert losses[0] == pytest.approx(exact, rel=1e-2)


@pytest.mark.parametrize("name", ["two_batch_norm", "ddp", *ENGINES])
def test_buffers_and_averages_are_equal_on_all_ranks(ddp: Path, zero: Path, name: str) -> None:
    first, second = Recorded(ddp, name).ranks
    assert first["buffers"] == second["buffers"]
    assert first["ema"] == second["ema"]


def test_evaluation_counts_each_image_once(one_process: Path, ddp: Path) -> None:
    one, two = (json.loads((ddp / name / "evaluation.json").read_text()) for name in ("one", "two"))
    assert one["num_pictures"] == two["num_pictures"] == TINY["data"]["synthetic_held_out"]
    for method, figures in one["rows"].items():
        assert figures == pytest.approx(two["rows"][method], abs=1e-6), method
    lines = [[line for line in metrics(ddp / name) if "evaluation/hole_psnr" in line] for name in ("one", "two")]
    assert len(lines[0]) == len(lines[1]) == 2
    for here, there in zip(*lines, strict=True):
        assert here.pop("health") == there.pop("health")
        assert here == pytest.approx(there, abs=1e-6)


def test_a_process_without_images_does_not_keep_the_others_from_gathering_weights(ddp: Path, zero: Path) -> None:
    """ZeRO-3 gathers the judged weights in each call; without an average they are those in training."""
    assert "ZeRO-3" in Recorded(zero, "zero3_uneven").ranks[0]["describe"]
    figures = []
    for folder, name in ((ddp, "ddp_uneven"), (zero, "zero3_uneven")):
        (line,) = (line for line in metrics(folder / name) if "evaluation/hole_psnr" in line)
        figures.append({key: value for key, value in line.items() if key.startswith("evaluation/")})
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)


# --- only the network being trained pays


@pytest.mark.parametrize(("name", "micro_batches"), [("two", 1), ("ddp", 1), ("ddp_accumulated", 2)])
def test_each_step_reduces_the_trained_networks_once(ddp: Path, name: str, micro_batches: int) -> None:
    run = Recorded(ddp, name)
    assert {step["phase"] for rank in run.ranks for step in rank["steps"]} == {1, 2, 3}
    assert run.reduced_otherwise(micro_batches) == []


@pytest.mark.parametrize("name", ["one", "two", "ddp_accumulated", *ENGINES, *(f"{e}_accumulated" for e in ENGINES)])
def test_a_step_of_one_network_leaves_the_other_alone(one_process: Path, ddp: Path, zero: Path, name: str) -> None:
    assert Recorded(ddp, name).moved_another() == []


def test_an_overflow_under_fp16_is_left_out() -> None:
    """It is how the loss scale finds its size: no update, no norm that is not finite, and the next one counts."""
    module = torch.nn.Linear(2, 1)
    before = module.weight.detach().clone()
    network = Network(
        Collectives(None),
        StepSettings("fp16", gradient_clip=1.0),
        module,
        torch.optim.Adam(module.parameters()),
        lambda module, optimizer: (module, SimpleNamespace(optimizer=optimizer)),
    )
    scale = network.scaler.get_scale()
    network.backward(module(torch.ones(1, 2)).sum() * 1e38)
    assert network.step(0.1) == 0
    assert torch.equal(module.weight, before)
    assert network.num_updates() == 0
    assert network.scaler.get_scale() < scale
    network.backward(module(torch.ones(1, 2)).sum())
    assert network.step(0.1) == pytest.approx(3**0.5, rel=1e-3)
    assert network.num_updates() == 1
    assert not torch.equal(module.weight, before)
