"""Owns a network in training: forward, backward, step, and its full state out and in, alike under every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from inpaint.distributed.collectives import Collectives

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "float64": torch.float64}
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class StepSettings:
    """What every network's step is taken with: the run's precision, micro batches and largest norm of a gradient."""

    precision: str
    accumulation: int = 1
    gradient_clip: float | None = None


class Network:
    """One network in training on one process or under DDP; every process calls every method alike.

    `module` and `optimizer` are on the device already; `wrap` is the engine's `prepare`, which gives both back wrapped.

    Attributes:
        module: the raw network, for forward passes that no gradient reduction may follow.
        parameters, buffers: all of it, in order; the latter by type.
        shapes: of all parameters and buffers by name, as `weights` hands them out.
        span: around each `forward`, `backward` and `optimizer`; a profiler sets it to see them.
    """

    span: Callable[[str], AbstractContextManager] = nullcontext

    def __init__(
        self,
        processes: Collectives,
        settings: StepSettings,
        module: nn.Module,
        optimizer: Optimizer,
        wrap: Callable[..., Any],
    ) -> None:
        self.processes, self.settings, self.module = processes, settings, module
        self.device = next(module.parameters()).device
        self.autocast: Callable[[], AbstractContextManager] = nullcontext
        self.without_autocast: Callable[[], AbstractContextManager] = nullcontext
        if settings.precision in ("bf16", "fp16"):
            self.autocast = partial(torch.autocast, self.device.type, DTYPES[settings.precision])
            self.without_autocast = partial(torch.autocast, self.device.type, enabled=False)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        self.engine, wrapped = wrap(module, optimizer)
        self.optimizer = wrapped.optimizer
        # Kept, since to walk the tree of modules takes as long as some layers; only now, for DDP replaces the buffers.
        self.parameters: list[Tensor] = list(module.parameters())
        self.buffers = by_dtype(module.buffers())
        self._with_statistics = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")

    def __call__(self, *inputs: Tensor) -> Any:
        """Forward, for a backward that will reduce this network's gradients."""
        with self.span("forward"), self.autocast():
            return self.engine(*inputs)

    def micro_step(self, last: bool) -> AbstractContextManager:
        """Around the forward and backward of one micro batch: only the last one reduces over the processes."""
        reduces = last or not isinstance(self.engine, DistributedDataParallel)
        return nullcontext() if reduces else self.engine.no_sync()

    def backward(self, loss: Tensor) -> None:
        """Add this micro batch's gradient; the mean over micro batches and processes is what counts in the end."""
        with self.span("backward"):
            self.scaler.scale(loss / self.settings.accumulation).backward()

    def step(self, learning_rate: float) -> Tensor:
        """Clip, update, clear; returns the norm of the gradient before clipping (scalar, on the device)."""
        parameters = [p for p in self.parameters if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.settings.gradient_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.settings.gradient_clip, norm)
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
            with self.span("forward"), self.autocast():
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
        return self.processes.on_main(self.module.state_dict().items())

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
        return self.processes.on_main(moments) | self.processes.on_main(self._scalars())

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        if self.scaler.is_enabled() and "loss_scale" in tensors:
            scale, tracker = tensors["loss_scale"].tolist()
            self.scaler.load_state_dict(self.scaler.state_dict() | {"scale": scale, "_growth_tracker": int(tracker)})
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

    def initialise_state(self, *inputs: Tensor) -> None:
        """Make the optimizer's state exist before it is loaded into, where the engine asks for that."""

    def release(self) -> None:
        del self.engine, self.optimizer, self.module, self.parameters, self.buffers, self._with_statistics


def memory_format(device: torch.device) -> torch.memory_format:
    """How convolutions like their weights: as images come, all channels of a pixel together, on CPUs too."""
    # Apple's operations in place have left tensors of this order as they were, without a word.
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def by_dtype(tensors: Iterable[Tensor]) -> dict[torch.dtype, list[Tensor]]:
    """In lists of one type each, as operations on whole lists want them."""
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return groups
