"""Owns a network in training under DeepSpeed's ZeRO, whose weights and state lie in parts on all processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from inpaint.distributed.network import MOMENTS, Network


class ZeroNetwork(Network):
    """One network under its own DeepSpeed engine, with full float32 weights and state in ZeRO's partitions."""

    def __init__(self, deepspeed: Any, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.deepspeed = deepspeed  # handed in, for only the file of the engine imports it
        self.module = self.engine.module
        self.stage = self.engine.zero_optimization_stage()
        self._num_updates = 0

    def __call__(self, *inputs: Tensor) -> Any:
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
        return torch.as_tensor(self.engine.get_global_grad_norm(), device=self.device)

    def num_updates(self) -> int:
        return self._num_updates

    @contextmanager
    def full_parameters(self) -> Iterator[None]:
        with self.deepspeed.zero.GatheredParameters(self.parameters, enabled=self.stage == 3):
            yield

    def weights(self) -> dict[str, Tensor]:
        gathered = (
            (name, self.deepspeed.utils.safe_get_full_fp32_param(p)) for name, p in self.module.named_parameters()
        )
        return self.processes.on_main(gathered) | self.processes.on_main(self._saved_buffers())

    def load_weights(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.module.named_parameters():
            value = tensors[name].to(self.device)
            self._set_master(parameter, value)
            # The module's own copy is refreshed only by the next gather, or never under stages 1 and 2.
            with self.deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=self.stage == 3):
                if self.stage != 3 or self.processes.is_main:
                    parameter.data.copy_(value)
        for name, buffer in self._saved_buffers():
            buffer.copy_(tensors[name])

    def optimizer_state(self) -> dict[str, Tensor]:
        moments: Iterator = iter(())
        if self._num_updates:
            moments = (
                (f"{name}/{moment}", self.deepspeed.utils.safe_get_full_optimizer_state(parameter, moment))
                for name, parameter in self.module.named_parameters()
                for moment in MOMENTS
            )
        return self.processes.on_main(moments) | self.processes.on_main(self._scalars())

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        self._num_updates = int(tensors["num_updates"])
        if not self._num_updates:
            return
        for name, parameter in self.module.named_parameters():
            for moment in MOMENTS:
                self._set_master(parameter, tensors[f"{name}/{moment}"].to(self.device), moment)
        for state in self.engine.optimizer.optimizer.state.values():
            if "step" in state:
                state["step"] = torch.full_like(torch.as_tensor(state["step"]), float(self._num_updates))

    def _saved_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Those that a checkpoint of any engine holds: a constant of the network's own is none."""
        return ((name, buffer) for name, buffer in self.module.named_buffers() if name in self.shapes)

    def _set_master(self, parameter: nn.Parameter, value: Tensor, *moment: str) -> None:
        """Set this process's part of a float32 weight, or of its `moment`."""
        utils = self.deepspeed.utils
        if self.stage != 3:
            setter = utils.safe_set_full_optimizer_state if moment else utils.safe_set_full_fp32_param
            return setter(parameter, value, *moment)
        # Stage 3 pads each weight to equal parts, but its setters of whole values do not: they fail on the last part.
        size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        padded = nn.functional.pad(value.flatten(), (0, size * self.processes.world_size - value.numel()))
        setter = utils.safe_set_local_optimizer_state if moment else utils.safe_set_local_fp32_param
        return setter(parameter, padded.narrow(0, size * self.processes.rank, size), *moment)

    def initialise_state(self, *inputs: Tensor) -> None:
        """Make the optimizer's state exist, which DeepSpeed does in the first step: one with no gradient at rate 0.

        Call it before `load_weights` and `load_optimizer_state`, which then overwrite all that it touched.
        """
        for last in range(self.settings.accumulation - 1, -1, -1):
            with self.micro_step(not last):
                output = self(*inputs)
                self.backward((output if isinstance(output, Tensor) else output[0]).float().sum() * 0)
        self.step(0.0)
