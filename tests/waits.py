"""Counts where code waits for its device, without one: tensors on `meta` stand for those of a GPU.

A program is run as it is, its values being nothing. What would make the processor wait until a GPU has come so far (a
copy to the CPU, `.item()`, a choice by a boolean mask, a blocking copy to the GPU) is noted and answered with zeros.
`ACCELERATE_TORCH_DEVICE=meta` puts a `Runtime` there.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

PACKAGE = Path(__file__).parent.parent / "inpaint"
DEVICE = torch.device("meta")
_aten = torch.ops.aten
_BY_VALUES = (_aten.nonzero, _aten.masked_select, _aten._unique2, _aten.unique_dim, _aten.equal, _aten.is_nonzero)


class Waits(TorchDispatchMode):
    """Within, every operation on the device is watched, backward passes too.

    Attributes:
        waits: what waited, and the line of the package that asked for it, in order.
        float64: what made a tensor of float64 on the device, which Apple's cannot.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.float64: list[str] = []
        self._put = WeakIdKeyDictionary()
        self._values = _Values(self)

    def __enter__(self) -> Waits:
        self._values.__enter__()
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._values.__exit__(*exception)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, func.overloadpacket
        if func.namespace == "c10d":
            return self._collective(func, args, kwargs)
        on_device = any(_is_there(leaf) for leaf in tree_leaves((args, kwargs)))
        if on_device and packet is _aten._local_scalar_dense:
            self._note(self.waits, func)
            return torch.zeros((), dtype=args[0].dtype).item()
        if on_device and packet is _aten._to_copy and _leaves(kwargs):
            self._note(self.waits, func)
            dtype = kwargs.get("dtype") or args[0].dtype
            return torch.zeros(args[0].shape, dtype=dtype)
        if packet is _aten.copy_ and args[0].device != args[1].device:
            if _is_there(args[1]) or not (args[2:] or [kwargs.get("non_blocking", False)])[0]:
                self._note(self.waits, func)
            return self._copy(*args[:2])
        if packet is _aten._to_copy and kwargs.get("device") == DEVICE and not _is_there(args[0]):
            if not kwargs.get("non_blocking", False):
                self._note(self.waits, func)
        elif on_device and packet in _BY_VALUES:
            self._note(self.waits, func)
            raise AssertionError(f"{func} has no answer on {DEVICE}; {self.waits[-1]}")
        elif on_device and packet in (_aten.index, _aten.index_put, _aten.index_put_):
            args = self._without_masks(func, args)
        result = func(*args, **kwargs)
        if any(_is_there(leaf) and leaf.dtype == torch.float64 for leaf in tree_leaves(result)):
            self._note(self.float64, func)
        return result

    def _copy(self, there: Tensor, here: Tensor) -> Tensor:
        """Between processor and device; what was put into a tensor of the device is found there again."""
        if not _is_there(there):
            return there.copy_(self._put.get(here, torch.zeros_like(there)))
        self._put[there] = here.clone()
        return there

    def _collective(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Over a group of the backend `fake`, whose processes nobody waits for; it knows CPU tensors only."""

        def on_the_cpu(tensor: Tensor) -> Tensor:
            return torch.zeros(tensor.shape, dtype=tensor.dtype) if _is_there(tensor) else tensor

        args, kwargs = tree_map_only(Tensor, on_the_cpu, (args, kwargs))
        return func(*args, **kwargs)

    def _without_masks(self, func: Any, args: Any) -> Any:
        """The same with every boolean mask, which is first counted, as the places of a mask that is true everywhere."""
        places: list[Any] = []
        for index in args[1]:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                self._note(self.waits, func)
                everywhere = torch.ones(index.shape, dtype=torch.bool).nonzero(as_tuple=True)
                places.extend(place.to(DEVICE, non_blocking=True) for place in everywhere)
            else:
                places.append(index)
        return (args[0], places, *args[2:])

    def _note(self, into: list[str], func: Any) -> None:
        frames = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename][:-2]
        last = [frame for frame in frames if Path(frame.filename).is_relative_to(PACKAGE)][-1:] or frames[-1:]
        into.extend(f"{func} at {Path(frame.filename).name}:{frame.lineno}: {frame.line}" for frame in last)


class _Values(TorchFunctionMode):
    """Notes values that go from Python to the device, of which no operation on `meta` is left to see."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and _is_there(result) and not isinstance(args[0], Tensor):
            self.waits._note(self.waits.waits, func.__name__)
        return result


def _is_there(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device == DEVICE


def _leaves(kwargs: dict[str, Any]) -> bool:
    return kwargs.get("device") is not None and torch.device(kwargs["device"]) != DEVICE


def _channels(input: Tensor) -> Tensor:
    return input.new_empty(input.shape[1], dtype=torch.float32)


BATCH_NORM_KERNELS: dict[str, Callable[..., Any]] = {
    "batch_norm_stats": lambda input, eps: (_channels(input), _channels(input)),
    "batch_norm_gather_stats_with_counts": lambda input, *_: (_channels(input), _channels(input)),
    "batch_norm_elemt": lambda input, *_: torch.empty_like(input),
    "batch_norm_backward_reduce": lambda gradient, input, *_: tuple(_channels(input) for _ in range(4)),
    "batch_norm_backward_elemt": lambda gradient, *_: torch.empty_like(gradient),
}


@contextmanager
def batch_norm_kernels() -> Iterator[None]:
    """Within, `meta` knows the kernels of BatchNorm over several processes, which only GPUs have."""
    kernels = torch.library.Library("aten", "IMPL")
    for name, kernel in BATCH_NORM_KERNELS.items():
        kernels.impl(name, kernel, "Meta")
    yield
    kernels._destroy()
