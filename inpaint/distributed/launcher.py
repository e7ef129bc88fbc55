"""Owns what the launcher asked for, by its environment and its DeepSpeed file, and whether it goes with the config."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import yaml

from inpaint.config import Config, TrainingConfig
from inpaint.errors import UsageError
from inpaint.processes import num_cores, num_threads_here

# What DeepSpeed's file may not hold, and the setting that decides it.
OURS_IN_DEEPSPEED = {
    "train_batch_size": "training.global_batch_size",
    "train_micro_batch_size_per_gpu": "training.micro_batch_size",
    "gradient_accumulation_steps": "training.micro_batch_size",
    "gradient_clipping": "optimizer.gradient_clip",
    "optimizer": "optimizer.*",
    "scheduler": "optimizer.schedule",
    **dict.fromkeys(("bf16", "fp16", "amp", "torch_autocast"), "training.precision"),
}

PRECISIONS = [name for name in get_args(TrainingConfig.model_fields["precision"].annotation) if name != "auto"]
# How schedulers and users say which GPUs a process may use, and what means none.
_NO_GPUS = {
    "CUDA_VISIBLE_DEVICES": ("", "-1", "NoDevFiles"),
    "ROCR_VISIBLE_DEVICES": ("", "-1"),
    "SLURM_GPUS_ON_NODE": ("", "0"),
}


def env_true(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1", "yes")


def launcher_precision() -> str:
    """What the launcher says of precision, in our words; float32 if it says nothing."""
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if asked not in ("no", "bf16", "fp16"):
        raise UsageError(f"the launcher's mixed_precision is {asked!r}; allowed: no, bf16, fp16")
    return "float32" if asked == "no" else asked


def start_notes(num_threads: int, world_size: int) -> list[str]:
    """What a start on this machine should know, a sentence each."""
    notes = []
    if num_threads > (num := num_cores()):
        notes.append(
            f"{num_threads} CPU threads a process on {num} core(s) are slow: set or kept from this run's start, since "
            f"--training.num_threads {num} would change the last bits from here on"
        )
    if world_size == 1 and (num := _processes_asked_for()) > 1:
        notes.append(
            f"accelerate launch was told to start {num} processes and started one, as it does without GPUs; for more "
            f"on CPUs: accelerate launch --config_file accelerate_configs/cpu.yaml --num_processes {num} ..."
        )
    return notes


def _processes_asked_for() -> int:
    """The number in the command line of `accelerate launch`, or in the YAML that it names; 0 if nobody says."""
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_text().split("\0")
        own = " ".join(words[: words.index(sys.argv[0])]).replace("=", " ").split()
        said = {name.lstrip("-").replace("-", "_"): value for name, value in pairwise(own)}
        if "num_processes" not in said and "config_file" in said:
            said = yaml.safe_load(Path(said["config_file"]).read_text())
        return int(said.get("num_processes", 0))
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        return 0  # no launcher above, or not Linux


def settle(config: Config, kept: Mapping[str, Any]) -> Config:
    """`config` with a precision for `auto` and a number of threads for null.

    They stay those of `kept`, the section `training` of the run that goes on; it is empty for a new one.
    """
    training = config.training
    precision, num_threads = kept.get("precision"), kept.get("num_threads")
    settled: dict[str, Any] = {}
    if training.precision == "auto":
        settled["precision"] = precision if precision in PRECISIONS else launcher_precision()
    if training.num_threads is None:
        settled["num_threads"] = num_threads if type(num_threads) is int and num_threads > 0 else num_threads_here()
    return config.model_copy(update={"training": training.model_copy(update=settled)})


def validate_launcher(precision: str, use_deepspeed: bool, device_type: str) -> None:
    """Unsupported combinations end here in a UsageError, before anything is begun; `device_type` as torch names it."""
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    ours = {"float32": "no", "float64": "no"}.get(precision, precision)
    if asked not in ("no", ours):
        raise UsageError(
            f"the launcher's mixed_precision is {asked}, training.precision is {precision} (as set, or as the run "
            "began): leave out --mixed_precision and mixed_precision in the launcher's YAML, or give "
            f"--training.precision {asked}"
        )
    if precision == "fp16" and device_type == "cpu":
        whose = "the launcher's mixed_precision" if asked == "fp16" else "training.precision"
        raise UsageError(f"{whose} = fp16 needs a GPU; on a CPU use float32 or bf16")
    on_the_cpu = "or train on the CPU, with ACCELERATE_USE_CPU=true in the environment"
    if precision == "float64" and device_type == "mps":
        raise UsageError(f"training.precision = float64: Apple's GPUs have none; use float32 or bf16, {on_the_cpu}")
    if use_deepspeed and device_type == "mps":
        raise UsageError(f"DeepSpeed does not run on Apple's GPUs; start without it, {on_the_cpu}")
    if env_true("ACCELERATE_USE_FSDP"):
        raise UsageError("FSDP is not supported (one network per prepare); use DDP or DeepSpeed ZeRO")
    if not use_deepspeed:
        return
    if precision in ("fp16", "float64"):
        raise UsageError(f"training.precision = {precision} does not go with DeepSpeed here; use bf16 or float32")
    for package in ("deepspeed", "transformers"):
        if find_spec(package) is None:
            raise UsageError(
                f"the launcher asks for DeepSpeed, but {package} is not installed: pip install 'inpaint[deepspeed]'"
            )


def refuse_contradictions(accumulation: int, gradient_clip: float | None) -> None:
    """Raise UsageError where the launcher says otherwise of what only our config decides."""
    for word, ours, setting in (
        ("gradient_accumulation_steps", accumulation, "training.micro_batch_size"),
        ("gradient_clipping", gradient_clip, "optimizer.gradient_clip"),
    ):
        asked = os.environ.get(f"ACCELERATE_{word.upper()}", "none")
        # 1 stands in every YAML that `accelerate config` writes.
        if asked not in ("none", "auto", str(ours), "1" if word.endswith("steps") else "none"):
            raise UsageError(
                f"the launcher's {word} is {asked}, this run's {ours or 'none'}, as {setting} says: set that instead, "
                f"and leave {word} out of the launcher's flags and YAML"
            )


def refuse_lost_gpus(torch_version: str, built_for: str | None) -> None:
    """Where torch finds no GPU: raise UsageError if this job was given some, or it would crawl on its CPUs, unasked.

    Torch was `built_for` a version of CUDA or ROCm, or None.
    """
    given = {name: value for name in _NO_GPUS if (value := os.environ.get(name, "")) not in _NO_GPUS[name]}
    if not given:
        return
    number = torch_version.partition("+")[0]
    wheel = f"pip install --force-reinstall torch=={number} --index-url https://pypi.org/simple"
    older = "(older drivers need another wheel: pytorch.org/get-started/previous-versions)"
    why = f"was built without CUDA: {wheel} {older}"
    if built_for is not None:
        why = f"was built for {built_for} and finds none that answers: look at nvidia-smi and the driver {older}"
    said = ", ".join(f"{name}={value}" for name, value in given.items())
    raise UsageError(
        f"this job was given GPUs ({said}), but torch {torch_version} {why}; to train on CPUs use "
        "accelerate_configs/cpu.yaml"
    )


def deepspeed_settings(
    precision: str, micro_batch_size: int, accumulation: int, world_size: int, gradient_clip: float | None
) -> dict[str, Any]:
    """The launcher's DeepSpeed file, or its own few words without one, with what our config decides filled in."""
    name = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    settings = _deepspeed_words() if name == "none" else _deepspeed_file(Path(name))
    # DeepSpeed clips at 1.0 unless it is told a number, and guesses batch sizes wrongly for two engines.
    settings |= {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": micro_batch_size * accumulation * world_size,
        "gradient_clipping": gradient_clip or 0.0,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }
    if precision == "bf16":
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return settings


def _deepspeed_words() -> dict[str, Any]:
    """What `accelerate launch --use_deepspeed --zero_stage 2` and its like say, as DeepSpeed's file would."""
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage not in ("1", "2", "3"):
        raise UsageError(f"the launcher's zero_stage is {stage!r}; allowed: 1, 2, 3 (without ZeRO use DDP)")
    zero: dict[str, Any] = {"stage": int(stage)}
    for part in ("optimizer", "param"):
        device = os.environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{part.upper()}_DEVICE", "none")
        if device not in ("none", "cpu"):
            raise UsageError(
                f"the launcher's offload_{part}_device is {device!r}; allowed: none, cpu (for others name a DeepSpeed "
                "file: --deepspeed_config_file)"
            )
        if device == "cpu":
            zero[f"offload_{part}"] = {"device": device}
    return {"zero_optimization": zero}


def _deepspeed_file(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the launcher's deepspeed_config_file {str(path)!r} cannot be read ({error}); it must name a JSON "
            f"file, absolute or relative to {Path.cwd()}"
        ) from error
    if not isinstance(settings, dict) or not isinstance(zero := settings.get("zero_optimization", {}), dict):
        raise UsageError(f'{path}: must hold a JSON object with a "zero_optimization" object in it')
    taken = [f"{key} (set {ours} instead)" for key, ours in OURS_IN_DEEPSPEED.items() if key in settings]
    if taken:
        raise UsageError(f"{path}: {', '.join(taken)}: our config decides these; the file may set the rest")
    if zero.get("stage") not in (1, 2, 3):
        raise UsageError(
            f"{path}: zero_optimization.stage is {zero.get('stage')!r}; allowed: 1, 2, 3 (without ZeRO use DDP)"
        )
    return settings


def divide_batch(global_batch_size: int, micro_batch_size: int | None, world_size: int) -> tuple[int, int]:
    """The micro batch and how many of them each process accumulates; UsageError if there is no such division."""
    if global_batch_size % world_size:
        raise UsageError(
            f"training.global_batch_size = {global_batch_size} cannot be divided among {world_size} processes; "
            f"use a multiple of {world_size}"
        )
    share = global_batch_size // world_size
    micro = share if micro_batch_size is None else micro_batch_size
    if share % micro:
        raise UsageError(
            f"training.micro_batch_size = {micro} does not divide the {share} images a process has in each step "
            f"(global_batch_size {global_batch_size} / {world_size} processes); use a divisor of {share}"
        )
    return micro, share // micro
