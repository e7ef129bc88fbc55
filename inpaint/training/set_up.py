"""Owns what the launcher asked for, by its environment and its DeepSpeed file, and whether it goes with the config."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from inpaint.errors import UsageError

# What DeepSpeed's file may not hold, and the setting that decides it.
OURS_IN_DEEPSPEED = {
    "train_batch_size": "training.global_batch_size",
    "train_micro_batch_size_per_gpu": "training.micro_batch_size",
    "gradient_accumulation_steps": "training.micro_batch_size",
    "gradient_clipping": "optimizer.gradient_clip",
    "optimizer": "optimizer.*",
    "scheduler": "optimizer.schedule",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "amp": "training.precision",
    "torch_autocast": "training.precision",
}


def env_true(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1", "yes")


def refuse_mixes(precision: str, use_deepspeed: bool, device_type: str) -> None:
    """Unsupported combinations end here, before anything is begun; `device_type` as `torch.device` names it.

    Raises:
        UsageError: with what to change.
    """
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    ours = {"float32": "no", "float64": "no"}.get(precision, precision)
    if asked not in ("no", ours):
        raise UsageError(
            f"the launcher's mixed_precision is {asked}, training.precision is {precision}, which "
            "decides: remove mixed_precision from the launcher's YAML or set the same there"
        )
    if precision == "fp16" and device_type == "cpu":
        raise UsageError("training.precision = fp16 needs a GPU; on a CPU use float32 or bf16")
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


def deepspeed_settings(
    precision: str, micro_batch_size: int, accumulation: int, world_size: int, gradient_clip: float | None
) -> dict[str, Any]:
    """The launcher's DeepSpeed file, with what our config decides filled in.

    Raises:
        UsageError: no such file, not of this kind, or it decides what our config does.
    """
    name = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "")
    if name in ("", "none"):
        raise UsageError(
            "the launcher asks for DeepSpeed without a deepspeed_config_file; start with one of "
            "accelerate_configs/deepspeed_*.yaml"
        )
    path = Path(name)
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


def divide_batch(global_batch_size: int, micro_batch_size: int | None, world_size: int) -> tuple[int, int]:
    """The micro batch and how many of them each process accumulates.

    Raises:
        UsageError: the batch cannot be divided so.
    """
    if global_batch_size % world_size:
        raise UsageError(
            f"training.global_batch_size = {global_batch_size} cannot be divided among {world_size} processes; "
            f"use a multiple of {world_size}"
        )
    share = global_batch_size // world_size
    micro = share if micro_batch_size is None else micro_batch_size
    if share % micro:
        raise UsageError(
            f"training.micro_batch_size = {micro} does not divide the {share} pictures a process has in each step "
            f"(global_batch_size {global_batch_size} / {world_size} processes); use a divisor of {share}"
        )
    return micro, share // micro
