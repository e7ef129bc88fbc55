"""Owns a network in training: forward, backward, step, and its full state out and in, alike under every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

MOMENTS = ("exp_avg", "exp_avg_sq")


class Network:
    """One network in training on one process or under DDP; every process calls every method alike.

    Attributes:
        module: the raw network, for forward passes that no gradient reduction may follow.
        parameters: all of it, in order.
        buffers: all of it, in order, by type.
        shapes: of all parameters and buffers by name, as `weights` hands them out.
        span: around each `forward`, `backward` and `optimizer`; a profiler sets it to see them.
    """

    span: Callable[[str], AbstractContextManager] = nullcontext

    def __init__(self, runtime: Any, accelerator: Any, module: nn.Module, optimizer: Optimizer) -> None:
        self.runtime, self.module = runtime, module
        self.shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        self.clip = runtime.gradient_clip
        self.engine, wrapped = accelerator.prepare(module, optimizer)
        self.optimizer = wrapped.optimizer
        # Kept, since to walk the tree of modules takes as long as some layers; only now, for DDP replaces the buffers.
        self.parameters: list[Tensor] = list(module.parameters())
        self.buffers = by_dtype(module.buffers())
        self._with_statistics = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.precision == "fp16")

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Forward, for a backward that will reduce this network's gradients."""
        with self.span("forward"), self.runtime.autocast():
            return self.engine(*inputs)

    def micro_step(self, last: bool) -> AbstractContextManager:
        """Around the forward and backward of one micro batch: only the last one reduces over the processes."""
        reduces = last or not isinstance(self.engine, DistributedDataParallel)
        return nullcontext() if reduces else self.engine.no_sync()

    def backward(self, loss: Tensor) -> None:
        """Add this micro batch's gradient; the mean over micro batches and processes is what counts in the end."""
        with self.span("backward"):
            self.scaler.scale(loss / self.runtime.accumulation).backward()

    def step(self, learning_rate: float) -> Tensor:
        """Clip, update, clear; returns the norm of the gradient before clipping (scalar, on the device)."""
        parameters = [p for p in self.parameters if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        # Under fp16 an overflow is how the loss scale finds its size: the scaler left the step out, nothing is lost.
        return norm.nan_to_num(0.0, 0.0) if self.scaler.is_enabled() else norm

    def num_updates(self) -> int:
        """Optimizer steps taken; those the loss scale left out do not count."""
        return max((int(state["step"]) for state in self.optimizer.state.values()), default=0)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Around a forward pass of `module` that passes gradients through, but gathers none and moves no statistics."""
        try:
            self._set_live(False)
            with self.span("forward"):
                yield
        finally:
            self._set_live(True)

    def _set_live(self, live: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad = live
        for layer in self._with_statistics:
            layer.training = live

    @contextmanager
    def full_parameters(self) -> Iterator[None]:
        """Within, `parameters` hold all their values on every process."""
        yield

    def weights(self) -> dict[str, Tensor]:
        """Copies of all parameters and buffers by name, on the CPU; empty on all processes but the main one."""
        return self.runtime.on_main(self.module.state_dict().items())

    def load_weights(self, tensors: dict[str, Tensor]) -> None:
        self.module.load_state_dict(tensors)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Adam's moments as `<parameter>/exp_avg[_sq]` and the number of updates, as `weights` are handed out."""
        moments = (
            (f"{name}/{moment}", self.optimizer.state[parameter][moment])
            for name, parameter in self.module.named_parameters()
            if parameter in self.optimizer.state
            for moment in MOMENTS
        )
        return self.runtime.on_main(moments) | self.runtime.on_main(self._scalars())

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        self._load_loss_scale(tensors)
        # A fused optimizer walks through memory: moments that lie in another order than their weight go wrong silently.
        state = {
            index: {moment: torch.empty_like(p).copy_(tensors[f"{name}/{moment}"]) for moment in MOMENTS}
            | {"step": tensors["num_updates"].to(torch.float32, copy=True)}
            for index, (name, p) in enumerate(self.module.named_parameters())
            if f"{name}/{MOMENTS[0]}" in tensors
        }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _scalars(self) -> Iterator[tuple[str, Tensor]]:
        yield "num_updates", torch.tensor(self.num_updates())
        if self.scaler.is_enabled():
            state = self.scaler.state_dict()
            yield "loss_scale", torch.tensor([state["scale"], state["_growth_tracker"]], dtype=torch.float64)

    def _load_loss_scale(self, tensors: dict[str, Tensor]) -> None:
        if self.scaler.is_enabled() and "loss_scale" in tensors:
            scale, tracker = tensors["loss_scale"].tolist()
            self.scaler.load_state_dict(self.scaler.state_dict() | {"scale": scale, "_growth_tracker": int(tracker)})

    def initialise_state(self, *inputs: Tensor) -> None:
        """Make the optimizer's state exist before it is loaded into, where the engine asks for that."""

    def release(self) -> None:
        del self.engine, self.optimizer, self.module, self.parameters, self.buffers, self._with_statistics


class ZeroNetwork(Network):
    """One network under its own DeepSpeed engine, with full float32 weights and state in ZeRO's partitions."""

    def __init__(self, runtime: Any, accelerator: Any, module: nn.Module, optimizer: Optimizer) -> None:
        super().__init__(runtime, accelerator, module, optimizer)
        self.module = self.engine.module
        self.stage = self.engine.zero_optimization_stage()
        self._num_updates = 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        with self.span("forward"):
            return self.engine(*inputs)

    @contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        yield
        if not last:
            self.engine.step()  # counts the micro batch; the engine updates only after the last one

    def backward(self, loss: Tensor) -> None:
        with self.span("backward"):
            self.engine.backward(loss)

    def step(self, learning_rate: float) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.engine.step()
        self._num_updates += 1
        return torch.as_tensor(self.engine.get_global_grad_norm(), device=self.runtime.device)

    def num_updates(self) -> int:
        return self._num_updates

    @contextmanager
    def full_parameters(self) -> Iterator[None]:
        with self.runtime.deepspeed.zero.GatheredParameters(self.parameters, enabled=self.stage == 3):
            yield

    def weights(self) -> dict[str, Tensor]:
        gathered = (
            (name, self.runtime.deepspeed.utils.safe_get_full_fp32_param(p))
            for name, p in self.module.named_parameters()
        )
        return self.runtime.on_main(gathered) | self.runtime.on_main(self.module.named_buffers())

    def load_weights(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.module.named_parameters():
            value = tensors[name].to(self.runtime.device)
            self._set_master(parameter, value)
            # The module's own copy is refreshed only by the next gather, or never under stages 1 and 2.
            with self.runtime.deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=self.stage == 3):
                if self.stage != 3 or self.runtime.is_main:
                    parameter.data.copy_(value)
        for name, buffer in self.module.named_buffers():
            buffer.copy_(tensors[name])

    def optimizer_state(self) -> dict[str, Tensor]:
        moments: Iterator = iter(())
        if self._num_updates:
            moments = (
                (f"{name}/{moment}", self.runtime.deepspeed.utils.safe_get_full_optimizer_state(parameter, moment))
                for name, parameter in self.module.named_parameters()
                for moment in MOMENTS
            )
        return self.runtime.on_main(moments) | self.runtime.on_main(self._scalars())

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        self._num_updates = int(tensors["num_updates"])
        if not self._num_updates:
            return
        for name, parameter in self.module.named_parameters():
            for moment in MOMENTS:
                self._set_master(parameter, tensors[f"{name}/{moment}"].to(self.runtime.device), moment)
        for state in self.engine.optimizer.optimizer.state.values():
            if "step" in state:
                state["step"] = torch.full_like(torch.as_tensor(state["step"]), float(self._num_updates))

    def _set_master(self, parameter: nn.Parameter, value: Tensor, *moment: str) -> None:
        """Set this process's part of a float32 weight, or of its `moment`."""
        utils = self.runtime.deepspeed.utils
        if self.stage != 3:
            setter = utils.safe_set_full_optimizer_state if moment else utils.safe_set_full_fp32_param
            return setter(parameter, value, *moment)
        # Stage 3 pads each weight to equal parts, but its setters of whole values do not: they fail on the last part.
        size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        padded = nn.functional.pad(value.flatten(), (0, size * self.runtime.world_size - value.numel()))
        setter = utils.safe_set_local_optimizer_state if moment else utils.safe_set_local_fp32_param
        return setter(parameter, padded.narrow(0, size * self.runtime.rank, size), *moment)

    def initialise_state(self, *inputs: Tensor) -> None:
        """Make the optimizer's state exist, which DeepSpeed does in the first step: one with no gradient at rate 0.

        Call it before `load_weights` and `load_optimizer_state`, which then overwrite all that it touched.
        """
        for last in range(self.runtime.accumulation - 1, -1, -1):
            with self.micro_step(not last):
                self.backward(self(*inputs).float().sum() * 0)
        self.step(0.0)


def memory_format(device: torch.device) -> torch.memory_format:
    """How convolutions like their weights: as pictures come, all channels of a pixel together, on CPUs too."""
    # Apple's operations in place have left tensors of this order as they were, without a word.
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def by_dtype(tensors: Iterable[Tensor]) -> dict[torch.dtype, list[Tensor]]:
    """In lists of one type each, as operations on whole lists want them."""
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return groups
