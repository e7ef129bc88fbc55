"""The same run on any machine: world size, engine, accumulation; who pays for gradients; ranks that die; bad set-ups.

Two starts of two processes serve most tests: tests/distributed_worker.py trains several small runs in each.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from running import (
    CONFIGS,
    ROOT,
    TINY,
    Ended,
    Job,
    differences,
    environment,
    launch,
    metrics,
    start,
    tiny_config,
    train,
    weights,
)
from torch import Tensor

from inpaint.errors import UsageError
from inpaint.training import runtime
from inpaint.training.networks import Network
from inpaint.training.runtime import OURS_IN_DEEPSPEED, Runtime, divide_batch

WORKER = ROOT / "tests" / "distributed_worker.py"
ENGINES = ("zero1", "zero2", "zero3")
NUM_STEPS = 20

FLOAT64 = {"training.precision": "float64"}
BATCH_NORM = {"model.norm": "batch"}
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

ONE_PROCESS = [
    {"name": "one", "flags": FLOAT64},
    {"name": "one_accumulated", "flags": FLOAT64 | {"training.micro_batch_size": 8}},
    {"name": "one_batch_norm", "flags": FLOAT64 | BATCH_NORM},
]
DDP = [
    {"name": "two", "flags": FLOAT64},
    {"name": "two_batch_norm", "flags": FLOAT64 | BATCH_NORM},
    {"name": "ddp", "flags": BATCH_NORM},
    {"name": "ddp_bf16", "flags": BF16},
    {"name": "ddp_accumulated", "flags": ACCUMULATED},
]
ZERO = [
    {"name": f"{engine}{suffix}", "engine": str(CONFIGS / f"deepspeed_{engine}.json"), "flags": flags}
    for engine in ENGINES
    for suffix, flags in (("", BATCH_NORM), ("_bf16", BF16), ("_accumulated", ACCUMULATED))
]


@dataclass(frozen=True)
class Recorded:
    """What the ranks of one run wrote down."""

    folder: Path
    name: str

    @property
    def ranks(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob(f"{self.name}.rank*.json"))]

    @property
    def steps(self) -> list[tuple[dict[str, Any], ...]]:
        """By step, what each rank saw of it."""
        return list(zip(*(rank["steps"] for rank in self.ranks), strict=True))

    @property
    def losses(self) -> list[dict[str, float]]:
        """By step, the mean over ranks of each loss and score; the norm of a gradient is the same on all."""
        return [
            {name: sum(rank["terms"][name] for rank in ranks) / len(ranks) for name in ranks[0]["terms"]}
            for ranks in self.steps
        ]

    @property
    def weights(self) -> dict[str, dict[str, Tensor]]:
        return weights(self.folder / self.name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


def record(folder: Path, scenarios: list[dict[str, Any]], processes: int, engine: str | None = None) -> Path:
    how = {"processes": processes, "engine": engine, "script": WORKER, "timeout_s": 550}
    train("record", folder, tiny_config(folder), json.dumps(scenarios), **how).ok()
    return folder


@pytest.fixture(scope="module")
def one_process(folder: Path) -> Path:
    return record(folder, ONE_PROCESS, processes=1)


@pytest.fixture(scope="module")
def ddp(folder: Path) -> Path:
    return record(folder, DDP, processes=2)


@pytest.fixture(scope="module")
def zero(folder: Path) -> Path:
    # Networks so narrow would be kept whole by the file as it is; here all of their weights are divided.
    divided = json.loads((CONFIGS / "deepspeed_zero3.json").read_text())
    divided["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    (folder / "deepspeed_zero3.json").write_text(json.dumps(divided))
    scenarios = [
        scenario
        | {"engine": scenario["engine"].replace(str(CONFIGS / "deepspeed_zero3"), str(folder / "deepspeed_zero3"))}
        for scenario in ZERO
    ]
    return record(folder, scenarios, processes=2, engine="zero1")


# --- the run does not depend on the machine


@pytest.mark.parametrize(
    ("one", "other"), [("one", "two"), ("one", "one_accumulated"), ("one_batch_norm", "two_batch_norm")]
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
    # Batches of the same pictures, cut in the same places, have the same holes whatever else differs.
    ddp_steps = Recorded(ddp, "ddp").steps
    assert [[rank["holes"] for rank in step] for step in ddp_steps] == [
        [rank["holes"] for rank in step] for step in two
    ]


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_are_bit_identical(ddp: Path, zero: Path, engine: str) -> None:
    plain, other = Recorded(ddp, "ddp"), Recorded(zero, engine)
    assert f"ZeRO-{engine[-1]}" in other.ranks[0]["describe"]
    assert "DDP, 2 process(es) on 1 machine(s), cpu, float32; batch 16 = 8 x 2" in plain.ranks[0]["describe"]
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
    assert sum(losses[9:]) < 0.95 * sum(losses[:9]), (
        "the second epoch, of the same pictures, is no better than the first"
    )
    assert all(tensor.dtype == torch.float32 for tensor in run.weights["generator"].values())
    exact = Recorded(ddp, "ddp_accumulated").losses[0]["loss/generator/reconstruction"]
    assert losses[0] != pytest.approx(exact, rel=1e-6), "it ran in float32"
    assert losses[0] == pytest.approx(exact, rel=1e-2)


@pytest.mark.parametrize("name", ["two_batch_norm", "ddp", *ENGINES])
def test_buffers_and_averages_are_equal_on_all_ranks(ddp: Path, zero: Path, name: str) -> None:
    first, second = Recorded(ddp, name).ranks
    assert first["buffers"] == second["buffers"]
    assert first["ema"] == second["ema"]


def test_evaluation_counts_each_picture_once(one_process: Path, ddp: Path) -> None:
    one, two = (json.loads((ddp / name / "evaluation.json").read_text()) for name in ("one", "two"))
    assert one["num_pictures"] == two["num_pictures"] == TINY["data"]["synthetic_held_out"]
    for method, figures in one["rows"].items():
        assert figures == pytest.approx(two["rows"][method], abs=1e-6), method
    lines = [[line for line in metrics(ddp / name) if "evaluation/hole_psnr" in line] for name in ("one", "two")]
    assert len(lines[0]) == len(lines[1]) == 2
    for here, there in zip(*lines, strict=True):
        assert here == pytest.approx(there, abs=1e-6)


# --- only the network being trained pays


@pytest.mark.parametrize(("name", "micro_batches"), [("two", 1), ("ddp", 1), ("ddp_accumulated", 2)])
def test_each_step_reduces_the_trained_networks_once(ddp: Path, name: str, micro_batches: int) -> None:
    run = Recorded(ddp, name)
    trained = {1: ["generator"], 2: ["discriminator"], 3: ["generator", "discriminator"]}
    for rank in run.ranks:
        assert {step["phase"] for step in rank["steps"]} == {1, 2, 3}
        for step in rank["steps"]:
            for network, events in step["bytes"].items():
                paid = network in trained[step["phase"]]
                assert events[:micro_batches] == ["micro batch"] * micro_batches * paid
                assert sum(events[micro_batches:]) == rank["num_bytes"][network] * paid, step


@pytest.mark.parametrize("name", ["one", "two", "ddp_accumulated", *ENGINES, *(f"{e}_accumulated" for e in ENGINES)])
def test_a_step_of_one_network_leaves_the_other_alone(one_process: Path, ddp: Path, zero: Path, name: str) -> None:
    trained = {1: ["generator"], 2: ["discriminator"], 3: ["generator", "discriminator"]}
    for ranks in Recorded(ddp, name).steps:
        for rank in ranks:
            assert rank["left_over"] == {"generator": 0.0, "discriminator": 0.0}
            assert rank["other_gradient_moved"] == 0.0
            assert rank["moved"] == trained[rank["phase"]]  # weights and statistics


def test_an_overflow_under_fp16_is_left_out() -> None:
    """It is how the loss scale finds its size: no update, no norm that is not finite, and the next one counts."""
    stand_in = SimpleNamespace(
        precision="fp16", device=torch.device("cpu"), gradient_clip=1.0, accumulation=1, autocast=nullcontext
    )
    module = torch.nn.Linear(2, 1)
    before = module.weight.detach().clone()
    accelerator = SimpleNamespace(prepare=lambda module, optimizer: (module, SimpleNamespace(optimizer=optimizer)))
    network = Network(stand_in, accelerator, module, torch.optim.Adam(module.parameters()))  # type: ignore[arg-type]
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


# --- dead, stopped and failing ranks


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    return tiny_config(tmp_path, training={"epochs": 500, "timeout_s": 10}, evaluation={"every_epochs": 1000})


def under_way(run_dir: Path) -> Any:
    lines = run_dir / "metrics.jsonl"
    return lambda: lines.exists() and lines.read_text().count("\n") >= 3


def workers(launcher: int) -> list[int]:
    """The launcher's own children that run train.py."""
    tasks = Path(f"/proc/{launcher}/task").glob("*/children")
    pids = [int(pid) for task in tasks for pid in task.read_text().split()]
    return [pid for pid in pids if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_killed_rank_is_named_and_the_job_over_in_seconds(endless: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with launch("cpu", "--config", endless, "--run-dir", run_dir, "--training.timeout_s", "1000") as job:
        job.until(under_way(run_dir))
        first = int((run_dir / "rank0.pid").read_text())
        (victim,) = (pid for pid in workers(job.processes[0].pid) if pid != first)
        os.kill(victim, signal.SIGKILL)
        ended = job.wait(60)
    assert ended.codes == [1]
    (line,) = ended.said
    assert f"rank 1 (process {victim} on " in line
    assert ended.stderr.index(line) < ended.stderr.index("Traceback"), "the launcher's own noise comes after it"


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_a_stopped_rank_is_named_within_the_timeout(endless: Path, tmp_path: Path, rank: int) -> None:
    """It is this process's child, as it would be the launcher's: the other one kills it, since no SIGTERM would."""
    run_dir = tmp_path / "run"
    with start("--config", endless, "--run-dir", run_dir, processes=2) as job:
        job.until(under_way(run_dir))
        os.kill(job.processes[rank].pid, signal.SIGSTOP)
        ended = job.wait(60)
    assert ended.codes[rank] == -signal.SIGKILL
    assert ended.codes[1 - rank] == 1
    (line,) = ended.said
    assert f"rank {rank} (process {job.processes[rank].pid} on " in line
    assert "silent for" in line


def test_a_failing_rank_says_its_rank_and_error_in_one_line(endless: Path, tmp_path: Path) -> None:
    ended = train(
        "fault", "raise", 1, 5, "--config", endless, "--run-dir", tmp_path / "run", processes=2, script=WORKER
    )
    assert ended.codes == [1, 1]
    mine = [line for line in ended.said if line.startswith("inpaint: rank 1: ValueError: the dog ate the batch")]
    assert len(mine) == 1
    assert "Traceback" not in ended.stderr
    (other,) = (line for line in ended.said if line not in mine)
    assert "rank 1 (process" in other


def test_a_restart_by_torchrun_resumes(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, checkpointing={"every_steps": 4})
    run_dir, straight = tmp_path / "restarted", tmp_path / "straight"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--max_restarts", "1"]
    command = [sys.executable, *torchrun, WORKER, "fault", "exit", 1, 15, "--config", config, "--run-dir", run_dir]
    with Job([list(map(str, command))], [environment()]) as job:
        ended = job.wait(200).ok()
    assert re.search(r"resuming at step (8|12) of 20", ended.stderr)
    train("--config", config, "--run-dir", straight, processes=2).ok()
    assert set(differences(weights(run_dir), weights(straight)).values()) == {0.0}
    assert [line["step"] for line in metrics(run_dir) if "time/total_s" in line] == list(range(1, NUM_STEPS + 1))


# --- what cannot be run says so, once


def only_line(ended: Ended) -> str:
    """Our one line of a job that failed in every process."""
    assert all(code != 0 for code in ended.codes), ended.codes
    (line,) = ended.said
    assert "Traceback" not in ended.stderr.partition(line)[0]
    return line


def test_bad_set_ups_are_told_once_and_end_all_processes(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    run = ("--config", config, "--run-dir", tmp_path / "run")
    line = only_line(train(*run, "--training.global_batch_size", "15", processes=2))
    assert "training.global_batch_size = 15 cannot be divided among 2 processes; use a multiple of 2" in line
    line = only_line(train(*run, processes=2, own_arguments=[(), ("--training.seed", "7")]))
    assert "rank(s) 1 have other settings than rank 0" in line
    overruling = tmp_path / "overruling.json"
    overruling.write_text(json.dumps({"zero_optimization": {"stage": 2}, "train_batch_size": 32, "bf16": {}}))
    line = only_line(train(*run, processes=2, engine=str(overruling)))
    assert "train_batch_size (set training.global_batch_size instead)" in line
    assert "bf16 (set training.precision instead)" in line
    assert not (tmp_path / "run").exists()


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Nothing of a launcher's in the environment."""
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)
    yield monkeypatch


@pytest.mark.parametrize(
    ("variables", "precision", "words"),
    [
        ({"ACCELERATE_USE_CPU": "true"}, "fp16", "fp16 needs a GPU; on a CPU use float32 or bf16"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "bf16", "mixed_precision is fp16, training.precision is bf16, which"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "float64", "remove mixed_precision from the launcher's YAML"),
        ({"ACCELERATE_USE_FSDP": "true"}, "bf16", "FSDP is not supported"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "float64", "float64 does not go with DeepSpeed"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "bf16", "DeepSpeed without a deepspeed_config_file; start with"),
    ],
)
def test_mixes_are_refused(bare: pytest.MonkeyPatch, variables: dict[str, str], precision: str, words: str) -> None:
    for name, value in {"ACCELERATE_USE_CPU": "true", **variables}.items():
        bare.setenv(name, value)
    with pytest.raises(UsageError, match=re.escape(words)):
        Runtime(precision)


@pytest.mark.parametrize("missing", ["deepspeed", "transformers"])
def test_deepspeed_not_installed(bare: pytest.MonkeyPatch, missing: str) -> None:
    import importlib.util

    find = importlib.util.find_spec
    bare.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == missing else find(name, *rest))
    bare.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UsageError, match=re.escape(f"{missing} is not installed: pip install 'inpaint[deepspeed]'")):
        Runtime("bf16")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        *(
            (json.dumps({"zero_optimization": {"stage": 1}, key: {}}), f"{key} (set {ours} instead)")
            for key, ours in OURS_IN_DEEPSPEED.items()
        ),
        ("{}", "zero_optimization.stage is None; allowed: 1, 2, 3 (without ZeRO use DDP)"),
        ('{"zero_optimization": {"stage": "auto"}}', "zero_optimization.stage is 'auto'; allowed: 1, 2, 3"),
        ('{"zero_optimization": 3}', 'must hold a JSON object with a "zero_optimization" object in it'),
        ("[]", "must hold a JSON object"),
        ("{", "cannot be read (Expecting"),
    ],
)
def test_deepspeed_files_that_overrule_or_are_wrong(
    bare: pytest.MonkeyPatch, tmp_path: Path, content: str, words: str
) -> None:
    path = tmp_path / "deepspeed.json"
    path.write_text(content)
    bare.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    bare.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(path))
    bare.setattr(runtime, "_import_deepspeed", lambda use_cpu: None)
    with pytest.raises(UsageError, match=re.escape(words)):
        Runtime("bf16")


def test_batches_are_divided_or_refused() -> None:
    assert divide_batch(16, None, 2) == (8, 1)
    assert divide_batch(16, 2, 2) == (2, 4)
    for batch, micro, world in [(16, None, 3), (16, 3, 2), (16, 16, 2)]:
        with pytest.raises(UsageError, match="use a"):
            divide_batch(batch, micro, world)


# --- every launcher config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_launcher_configs_leave_the_rest_to_ours(path: Path) -> None:
    text = path.read_text()
    values = yaml.safe_load(text)
    assert text.startswith("# "), "when to choose it"
    assert values.get("mixed_precision", "no") == ("fp16" if path.stem == "fp16" else "no")
    if "deepspeed_config" in values:
        assert values["deepspeed_config"].keys() == {"deepspeed_config_file", "deepspeed_multinode_launcher"}
        settings = json.loads((ROOT / values["deepspeed_config"]["deepspeed_config_file"]).read_text())
        assert not settings.keys() & OURS_IN_DEEPSPEED.keys()


LAUNCHED = ["cpu", "multi_gpu", "single_gpu", *(f"deepspeed_{name}" for name in (*ENGINES, "zero2_offload"))]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "deepspeed_zero3" else pytest.mark.soak) for name in LAUNCHED]
)
def test_launcher_config_trains_here(name: str, tmp_path: Path) -> None:
    processes = {"single_gpu": 1, "cpu": None}.get(name, 2)
    run = ("--config", tiny_config(tmp_path), "--run-dir", tmp_path / "run", "--training.max_steps", "4")
    with launch(name, *run, processes=processes) as job:
        ended = job.wait(200).ok()
    engine = {"single_gpu": "one process, 1"}.get(name, "DDP, 2")
    if name.startswith("deepspeed"):
        engine = f"DeepSpeed ZeRO-{name[14]}, 2"
    assert f"{engine} process(es) on 1 machine(s), cpu, float32; batch 16 = " in ended.stderr
    assert (tmp_path / "run" / "generator" / "model.safetensors").exists()


@pytest.mark.soak
def test_several_machines_as_launchers_on_loopback(tmp_path: Path) -> None:
    run = ("--config", tiny_config(tmp_path), "--run-dir", tmp_path / "run")
    where = ("--num_machines", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", "29731")
    with (
        launch("multi_node", *run, launcher=(*where, "--machine_rank", "0")) as first,
        launch("multi_node", *run, launcher=(*where, "--machine_rank", "1")) as second,
    ):
        ended, other = first.wait(200).ok(), second.wait(60).ok()
    assert "DDP, 2 process(es) on 2 machine(s)" in ended.stderr
    assert "process(es)" not in other.stderr, "only the main process prints"
    assert len(weights(tmp_path / "run")) == 5


@pytest.mark.soak
@pytest.mark.skipif(torch.cuda.is_available(), reason="there it trains")
def test_fp16_config_refuses_on_a_cpu(tmp_path: Path) -> None:
    run = ("--config", tiny_config(tmp_path), "--run-dir", tmp_path / "run", "--training.precision", "fp16")
    with launch("fp16", *run, processes=1) as job:
        assert "fp16 needs a GPU" in only_line(job.wait())


@pytest.mark.soak
@pytest.mark.timeout(4000)
def test_a_hundred_runs_in_a_row_end_in_order(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    for number in range(int(os.environ.get("INPAINT_SOAK_RUNS", "100"))):
        with launch("cpu", "--config", config, "--run-dir", tmp_path / str(number), "--training.max_steps", "4") as job:
            ended = job.wait(300)
        assert ended.codes == [0], (number, ended.stderr)
