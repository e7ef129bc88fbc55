"""Owns the engine: the only file that knows Accelerate and DeepSpeed.

`Runtime.prepare` turns a module into a `Network`, which trains alike on one process, under DDP and under DeepSpeed's
ZeRO 1, 2 and 3. Nobody else asks which of them it is.
"""

from __future__ import annotations

import gc
import logging
import os
import warnings
from copy import deepcopy
from datetime import timedelta
from functools import cache, partial
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import DeepSpeedPlugin, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn

from inpaint.config import Config
from inpaint.distributed.batch_norm import synchronise_batch_norm
from inpaint.distributed.collectives import Collectives, device_type, meet
from inpaint.distributed.launcher import (
    deepspeed_settings,
    divide_batch,
    env_true,
    launcher_precision,
    refuse_contradictions,
    validate_launcher,
)
from inpaint.distributed.network import Network, StepSettings, memory_format
from inpaint.distributed.zero import ZeroNetwork
from inpaint.errors import UsageError
from inpaint.memory import keep_freed_memory
from inpaint.processes import rank_and_world_size

log = logging.getLogger(__name__)


class Runtime(Collectives):
    """The processes and devices of this run, and the one way to them.

    `group` is of `meet`, if they have met; the other arguments are the settings of their names. `dtype` is that of
    weights and of what they are fed, outside autocast.

    Raises:
        UsageError: the launcher, the precision and the batch do not go together.
    """

    def __init__(
        self,
        precision: str = "float32",
        global_batch_size: int = 1,
        micro_batch_size: int | None = None,
        gradient_clip: float | None = None,
        timeout_s: float = 300.0,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.precision = launcher_precision() if precision == "auto" else precision
        self.dtype = torch.float64 if self.precision == "float64" else torch.float32
        rank, world_size = rank_and_world_size()
        self.micro_batch_size, self.accumulation = divide_batch(global_batch_size, micro_batch_size, world_size)
        use_deepspeed = env_true("ACCELERATE_USE_DEEPSPEED")
        kind = device_type(world_size)
        use_cpu = kind == "cpu"
        validate_launcher(self.precision, use_deepspeed, kind)
        refuse_contradictions(self.accumulation, gradient_clip)
        # Told once and for all above; Accelerate would let the first overrule what it is given, and refuse the second.
        for name in ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_CONFIG_DS_FIELDS"):
            os.environ.pop(name, None)
        if not use_cpu and "LOCAL_RANK" in os.environ:
            # Where each process sees GPUs of its own alone (`srun --gpus-per-task=1`), its device is counted among
            # those. Accelerate chooses so too, but hands DDP the rank on the machine, as DeepSpeed takes it.
            num_devices = max(1, torch.accelerator.device_count())
            os.environ["LOCAL_RANK"] = str(int(os.environ["LOCAL_RANK"]) % num_devices)

        super().__init__(group or meet(timeout_s))
        backend = dist.get_default_backend_for_device(kind)
        process_group = InitProcessGroupKwargs(backend=backend, timeout=timedelta(seconds=timeout_s))
        self.zero_stage: int | None = None
        self.deepspeed: Any = None
        if use_deepspeed:
            self.deepspeed = _import_deepspeed(use_cpu)
            batch = (self.micro_batch_size, self.accumulation, world_size)
            settings = deepspeed_settings(self.precision, *batch, gradient_clip)
            if "MASTER_PORT" not in os.environ:
                raise UsageError(
                    "DeepSpeed needs its launcher: accelerate launch --use_deepspeed --num_processes N ..."
                )
            self.zero_stage = settings["zero_optimization"]["stage"]
            first = Accelerator(
                # A copy for each, since a plugin writes into what it is given.
                deepspeed_plugins={
                    name: DeepSpeedPlugin(hf_ds_config=deepcopy(settings)) for name in ("generator", "discriminator")
                },
                # Left open it would be the launcher's, whose bf16 makes the weights bf16; `torch_autocast` does not.
                mixed_precision="no",
                gradient_accumulation_steps=self.accumulation,
                kwargs_handlers=[process_group],
            )
            # The second must be told the accumulation too: a bare one silently resets it for both.
            second = Accelerator(mixed_precision="no", gradient_accumulation_steps=self.accumulation)
            self.accelerators = {"generator": first, "discriminator": second}
        else:
            # Accelerate passes the argument by its old name, which torch 2.13 warns of.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
            handlers = [ddp, process_group] if world_size > 1 else []
            one = Accelerator(cpu=use_cpu, mixed_precision="no", kwargs_handlers=handlers)
            self.accelerators = {"generator": one, "discriminator": one}
        self.accelerator = self.accelerators["generator"]
        self.device = self.accelerator.device
        if self.device.type == "cuda":  # with its number, for threads that have chosen none
            self.device = torch.device("cuda", torch.cuda.current_device())
        if self.device.type == "cpu":
            keep_freed_memory()
        if (self.accelerator.num_processes, self.accelerator.process_index) != (world_size, rank):
            raise UsageError(
                f"the launcher started process {rank} of {world_size}, but Accelerate sees "
                f"{self.accelerator.process_index} of {self.accelerator.num_processes}; start it with `accelerate "
                "launch --config_file accelerate_configs/...`"
            )
        self.step_settings = StepSettings(self.precision, self.accumulation, gradient_clip)
        self.networks: list[Network] = []

    @classmethod
    def of(cls, config: Config, group: dist.ProcessGroup | None = None) -> Runtime:
        training = config.training
        runtime = cls(
            training.precision,
            training.global_batch_size,
            training.micro_batch_size,
            config.optimizer.gradient_clip,
            training.timeout_s,
            group,
        )
        if runtime.zero_stage == 3 and config.loss.penalties:
            raise UsageError(
                f"loss.terms {' and '.join(config.loss.penalties)}: differentiated twice, for which DeepSpeed's ZeRO-3 "
                "has the weights only once; use accelerate_configs/deepspeed_zero2.yaml or multi_gpu.yaml, or leave "
                "the term out"
            )
        return runtime

    def prepare(self, name: str, module: nn.Module, optimizer_settings: dict[str, Any], compiled: bool) -> Network:
        """The network `generator` or `discriminator`, on this device, ready to train."""
        if self.world_size > 1:
            synchronise_batch_norm(module)
        module = module.to(self.device, self.dtype)
        # DeepSpeed sends weights out as the bytes they are and refuses any other order than the plain one.
        if self.zero_stage is None:
            module = module.to(memory_format=memory_format(self.device))  # type: ignore[call-overload]
        if compiled and (lack := why_not_compiled(self.device)) is None:
            module.compile()
        elif compiled and self.is_main and not self.networks:
            log.warning("training.compile: not on this machine, so the networks run as they are (%s)", lack)
        # On CPUs its rounding depends on where a weight lies, so several processes would differ from ZeRO's in bits.
        alone = self.device.type == "cpu" and self.world_size == 1
        fused = self.zero_stage is None and (self.device.type == "cuda" or alone)
        optimizer = torch.optim.Adam(module.parameters(), fused=fused or None, **optimizer_settings)
        if self.zero_stage is not None:
            self.accelerator.state.select_deepspeed_plugin(name)
        kind = Network if self.zero_stage is None else partial(ZeroNetwork, self.deepspeed)
        network = kind(self, self.step_settings, module, optimizer, self.accelerators[name].prepare)
        self.networks.append(network)
        return network

    @property
    def precision_in_words(self) -> str:
        """`precision`, and where float32 is not what is multiplied."""
        is_tf32 = self.precision == "float32" and self.device.type == "cuda" and torch.cuda.is_tf32_supported()
        # NVIDIA's libraries read the variable; torch's own switches, left as they are, allow it in convolutions alone.
        is_forbidden = os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"
        return "float32 (convolutions in TF32)" if is_tf32 and not is_forbidden else self.precision

    def describe(self) -> str:
        """Engine, processes, precision and batch in one line."""
        nodes = max(1, self.world_size // int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size)))
        where, parts, statistics = "one process", [str(self.micro_batch_size)], "the micro batch"
        if self.world_size > 1:
            where = f"{self.world_size} processes on {nodes} machine{'s' * (nodes > 1)}"
            parts, statistics = [*parts, f"{self.world_size} processes"], "all processes"
        if self.zero_stage is not None or self.world_size > 1:
            where = f"{'DDP' if self.zero_stage is None else f'DeepSpeed ZeRO-{self.zero_stage}'}, {where}"
        if self.accumulation > 1:
            parts.append(f"{self.accumulation} accumulated")
        batch = f"batch {self.micro_batch_size * self.world_size * self.accumulation}"
        if len(parts) > 1:
            batch += f" = {' x '.join(parts)}"
        threads = torch.get_num_threads()
        return (
            f"{where}, {self.device.type}, {self.precision_in_words}; {batch}; BatchNorm over {statistics}; "
            f"{threads} CPU thread{'s' * (threads > 1)}{' a process' * (self.world_size > 1)}"
        )

    def hardware(self) -> str:
        """What the run trains on, in words for the model card."""
        kind = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type.upper()
        return f"{self.world_size} x {kind}, {self.precision_in_words}, torch {torch.__version__}"

    def close(self) -> None:
        """Leave together. A process that ends with a live DDP module aborts now and then, so they go first."""
        for network in self.networks:
            network.release()
        self.networks.clear()
        for accelerator in set(self.accelerators.values()):
            accelerator.free_memory()
        gc.collect()
        if self.world_size > 1:
            self.barrier()
            if self._tree is not None:
                self._tree.close()
            dist.destroy_process_group()


@cache
def why_not_compiled(device: torch.device) -> str | None:
    """What torch.compile lacks here, tried on next to nothing; None if it works."""
    try:
        values = torch.ones(16, device=device, requires_grad=True)
        torch.compile(lambda values: (values.relu() + 1).sum())(values).backward()
    except Exception as error:  # noqa: BLE001 - a compiler, Triton, headers, a newer GPU: torch has no one name for it
        return str(error).strip().splitlines()[0][:300]
    return None


def start_tracker(kind: str, project: str, **settings: Any) -> Any:
    """Accelerate's `GeneralTracker` named `kind`, begun; `settings` are of the library's own `init`."""
    tracker = LOGGER_TYPE_TO_CLASS[kind](project, **settings)
    tracker.start()
    return tracker


def _import_deepspeed(use_cpu: bool) -> Any:
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "`torch.distributed.*is deprecated", FutureWarning)
    if use_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    if use_cpu:
        # Its reductions through shared memory would be compiled on first use, for minutes; gloo's are good enough.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
