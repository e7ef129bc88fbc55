"""Owns in what numbers a generator fills, and whether it is compiled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inpaint.errors import InpaintError, UsageError, shorten
from inpaint.photographs.network import Network

PRECISIONS = ("float32", "bf16", "fp16")


class PreciseNetwork(Network):
    """A generator whose convolutions are computed in a chosen precision; all else stays in float32.

    Args:
        precision: of `PRECISIONS`; bf16 is for GPUs, and for CPUs with AMX.
        is_compiled: let `torch.compile` make code for this machine at the first call, which then takes a while.

    Raises:
        UsageError: another precision.
    """

    def __init__(self, generator: nn.Module, device: torch.device, precision: str, is_compiled: bool) -> None:
        super().__init__(generator, device)
        dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
        self.dtype, self.is_compiled = dtypes.get(require_precision(precision)), is_compiled
        if is_compiled and generator._compiled_call_impl is None:
            generator.compile(dynamic=True)

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        try:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
                return super().__call__(images, masks).float()
        except InpaintError:
            raise
        except Exception as error:  # a compiler may end in any way
            if not self.is_compiled:
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise InpaintError(
                f"the generator cannot be compiled on {self.device} ({shorten(reason)}); fill without compiling"
            ) from error


def require_precision(precision: object) -> str:
    """UsageError unless it is one of `PRECISIONS`."""
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise UsageError(f"precision is {shorten(repr(precision))}; use {', '.join(PRECISIONS)}")
    return precision
