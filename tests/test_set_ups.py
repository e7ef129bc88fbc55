"""What cannot be run says so, once, in one line, and ends all processes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from running import (
    environment,
    tiny_config,
    train,
)

from inpaint import processes
from inpaint.config import Config
from inpaint.distributed import runtime
from inpaint.distributed.launcher import OURS_IN_DEEPSPEED, deepspeed_settings, divide_batch, refuse_lost_gpus, settle
from inpaint.distributed.runtime import Runtime
from inpaint.errors import UsageError
from inpaint.training.launch import main


def test_bad_set_ups_are_told_once_and_end_all_processes(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    run = ("--config", config, "--run-dir", tmp_path / "run")
    line = train(*run, "--training.global_batch_size", "15", processes=2).only_line()
    assert "training.global_batch_size = 15 cannot be divided among 2 processes; use a multiple of 2" in line
    line = train(*run, processes=2, own_arguments=[(), ("--training.seed", "7")]).only_line()
    assert "rank(s) 1 have other settings than rank 0" in line
    overruling = tmp_path / "overruling.json"
    overruling.write_text(json.dumps({"zero_optimization": {"stage": 2}, "train_batch_size": 32, "bf16": {}}))
    line = train(*run, processes=2, engine=str(overruling)).only_line()
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
    ("variables", "words"),
    [
        ({"RANK": "abc"}, "RANK='abc' in the environment is not a whole number"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE='-2' in the environment is not a whole number"),
        ({"LOCAL_WORLD_SIZE": ""}, "LOCAL_WORLD_SIZE='' in the environment"),
        ({"MASTER_PORT": "²"}, "MASTER_PORT='²' in the environment"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 in the environment must be less than WORLD_SIZE=2"),
        ({"WORLD_SIZE": "0"}, "must be less than WORLD_SIZE=0"),
        ({"WORLD_SIZE": "2"}, "needs RANK, MASTER_ADDR and MASTER_PORT"),
    ],
)
def test_a_launchers_variables_that_make_no_sense(
    variables: dict[str, str], words: str, bare: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        bare.setenv(name, value)
    assert main(["--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("inpaint: ") and words in line and "accelerate launch" in line


WORDS = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": "none"}


@pytest.mark.parametrize(
    ("variables", "precision", "words"),
    [
        ({"ACCELERATE_USE_CPU": "true"}, "fp16", "fp16 needs a GPU; on a CPU use float32 or bf16"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "bf16", "mixed_precision is fp16, training.precision is bf16 (as"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "float64", "leave out --mixed_precision and mixed_precision in"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "float32", "or give --training.precision bf16"),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "auto", "the launcher's mixed_precision is 'fp8'; allowed: no, bf16"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "auto", "the launcher's mixed_precision = fp16 needs a GPU"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "auto", "gradient_accumulation_steps is 4, this run's 1, as"),
        ({"ACCELERATE_GRADIENT_CLIPPING": "1.0"}, "auto", "gradient_clipping is 1.0, this run's none, as optimizer."),
        ({"ACCELERATE_USE_FSDP": "true"}, "bf16", "FSDP is not supported"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "float64", "float64 does not go with DeepSpeed"),
        (WORDS, "bf16", "DeepSpeed needs its launcher: accelerate launch --use_deepspeed"),
        (WORDS | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"}, "bf16", "zero_stage is '0'; allowed: 1, 2, 3"),
        (
            WORDS | {"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "nvme"},
            "auto",
            "offload_param_device is 'nvme'; allow",
        ),
    ],
)
def test_mixes_are_refused(bare: pytest.MonkeyPatch, variables: dict[str, str], precision: str, words: str) -> None:
    for name, value in {"ACCELERATE_USE_CPU": "true", **variables}.items():
        bare.setenv(name, value)
    with pytest.raises(UsageError, match=re.escape(words)):
        Runtime(precision)


def test_the_launchers_words_are_a_deepspeed_file(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    bare.setenv("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu")
    settings = deepspeed_settings("bf16", 4, 2, 2, None)
    assert settings["zero_optimization"] == {"stage": 3, "offload_optimizer": {"device": "cpu"}}
    assert (settings["train_batch_size"], settings["gradient_clipping"]) == (16, 0.0)
    assert settings["torch_autocast"]["enabled"] and "bf16" not in settings


AUTO, BF16 = {"precision": "auto"}, {"precision": "bf16"}


@pytest.mark.parametrize(
    ("training", "kept", "variables", "expected"),
    [
        (AUTO, {}, {}, "float32"),
        (AUTO, {}, {"ACCELERATE_MIXED_PRECISION": "bf16"}, "bf16"),
        (AUTO, {"precision": "float64"}, {"ACCELERATE_MIXED_PRECISION": "bf16"}, "float64"),
        (AUTO, {"precision": "auto"}, {}, "float32"),
        (AUTO, {"precision": ["bf16"]}, {}, "float32"),
        (BF16, {"precision": "float32"}, {}, "bf16"),
    ],
)
def test_auto_is_what_the_run_began_with_or_the_launchers_word(
    training: dict[str, Any], kept: dict[str, Any], variables: dict[str, str], expected: str, bare: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        bare.setenv(name, value)
    config = Config.model_validate({"training": training})
    assert settle(config, kept).training.precision == expected


LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no"}


@pytest.mark.parametrize(
    ("num_threads", "kept", "variables", "expected"),
    [
        (None, {}, {}, 12),
        (None, {}, {"LOCAL_WORLD_SIZE": "5"}, 2),
        (None, {}, {"WORLD_SIZE": "32"}, 1),
        (None, {}, {"OMP_NUM_THREADS": "1"}, 1),
        (None, {}, {"OMP_NUM_THREADS": "1"} | LAUNCHED, 12),
        (None, {}, {"OMP_NUM_THREADS": "3"} | LAUNCHED, 3),
        (None, {}, {"OMP_NUM_THREADS": "0"}, 12),
        (None, {}, {"OMP_NUM_THREADS": "4,2"}, 12),
        (None, {"num_threads": 7}, {"OMP_NUM_THREADS": "3"}, 7),
        (None, {"num_threads": None}, {}, 12),
        (None, {"num_threads": "7"}, {}, 12),
        (2, {"num_threads": 7}, {}, 2),
    ],
)
def test_threads_are_those_that_the_run_began_with_or_this_process_share_of_the_machine(
    num_threads: int | None, kept: dict[str, Any], variables: dict[str, str], expected: int, bare: pytest.MonkeyPatch
) -> None:
    bare.setattr(processes, "num_cores", lambda pid=0: 12)
    bare.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in variables.items():
        bare.setenv(name, value)
    config = Config.model_validate({"training": {"num_threads": num_threads}})
    assert settle(config, kept).training.num_threads == expected


@pytest.mark.parametrize(
    ("quota", "expected"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 12), ("", 12), ("9000000 1", 12)]
)
def test_a_containers_quota_counts(quota: str, expected: int, bare: pytest.MonkeyPatch) -> None:
    bare.setattr(os, "sched_getaffinity", lambda pid: range(12), raising=False)
    bare.setattr(Path, "read_text", lambda self: quota)
    assert processes.num_cores() == expected


@pytest.mark.parametrize(
    ("mine", "parents", "num_here", "expected"),
    [
        (64, 64, 8, 8),
        (8, 64, 8, 8),
        (4, 64, 8, 4),
        (32, 64, 8, 8),
        (8, 8, 8, 1),
        (8, 2, 1, 8),
        (3, 2, 2, 1),
        (64, None, 8, 8),
    ],
)
def test_cores_that_each_process_is_bound_to_are_its_own(
    mine: int, parents: int | None, num_here: int, expected: int, bare: pytest.MonkeyPatch
) -> None:
    def bound(pid: int) -> range:
        if pid and parents is None:
            raise ProcessLookupError
        return range((pid and parents) or mine)

    bare.setattr(os, "sched_getaffinity", bound, raising=False)
    bare.setattr(Path, "read_text", lambda self: "max 100000")
    bare.setenv("LOCAL_WORLD_SIZE", str(num_here))
    assert processes.num_cores_each() == expected


@pytest.mark.parametrize("missing", ["deepspeed", "transformers"])
def test_deepspeed_not_installed(bare: pytest.MonkeyPatch, missing: str) -> None:
    bare.setattr("inpaint.distributed.launcher.find_spec", lambda name: None if name == missing else object())
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


@pytest.mark.parametrize(
    ("variables", "built_for", "words"),
    [
        (
            {"CUDA_VISIBLE_DEVICES": "0"},
            None,
            ("CUDA_VISIBLE_DEVICES=0", "built without CUDA", "torch==2.13.0 --index"),
        ),
        ({"SLURM_GPUS_ON_NODE": "8"}, "12.6", ("SLURM_GPUS_ON_NODE=8", "was built for 12.6", "nvidia-smi")),
        ({"CUDA_VISIBLE_DEVICES": "", "SLURM_GPUS_ON_NODE": "0", "ROCR_VISIBLE_DEVICES": "-1"}, None, ()),
        ({}, None, ()),
    ],
)
def test_gpus_that_torch_does_not_find_are_not_given_up_silently(
    variables: dict[str, str], built_for: str | None, words: tuple[str, ...], bare: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "SLURM_GPUS_ON_NODE"):
        bare.delenv(name, raising=False)
    for name, value in variables.items():
        bare.setenv(name, value)
    if not words:
        refuse_lost_gpus("2.13.0+cpu", built_for)
        return
    with pytest.raises(UsageError) as caught:
        refuse_lost_gpus("2.13.0+cpu", built_for)
    assert all(word in str(caught.value) for word in (*words, "accelerate_configs/cpu.yaml"))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="about GPUs that torch does not find; here it finds one")
def test_a_job_that_was_given_gpus_does_not_train_on_its_cpus(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UsageError, match=r"this job was given GPUs \(CUDA_VISIBLE_DEVICES=0,1\)"):
        Runtime()
    bare.setenv("ACCELERATE_USE_CPU", "true")
    assert Runtime().device.type == "cpu"
