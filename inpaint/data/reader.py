"""Owns what a split is to training, wherever its images are: an order for each epoch, and a reader, step by step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

A = TypeVar("A")
T = TypeVar("T")


class Images(NamedTuple):
    """Images and what belongs to each for good.

    Attributes:
        pixels: uint8 [n, S, S, 3].
        coordinates: int32 [n, 6]: x, y, width and height of the image's own hole, then x and y of its window.
    """

    pixels: Tensor
    coordinates: Tensor

    @classmethod
    def of(
        cls, pixels: NDArray[np.uint8], holes: NDArray[np.int32], windows: NDArray[np.int32], pin: bool = False
    ) -> Images:
        """From arrays; pinned for copies that nobody waits for."""
        tensors = torch.from_numpy(pixels), torch.from_numpy(np.concatenate([holes, windows], axis=1))
        return cls(*(tensor.pin_memory() if pin else tensor for tensor in tensors))


@dataclass(frozen=True)
class Reader:
    """Reads a split.

    Attributes:
        device: where the indices must be.
        follow: (for each epoch the indices int32 [steps, n], an executor of two threads) -> the `Images` of each step,
            read while the one before is trained on.
    """

    device: torch.device
    follow: Callable[[Iterator[Tensor], Executor], Generator[Images]]


class TrainingSplit(Protocol):
    """N images to train on."""

    def __len__(self) -> int: ...

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The images of `epoch` (from 1) in the order in which they are trained on; may leave the last few out."""
        ...

    def reader(self, device: torch.device, device_cache: str) -> Reader:
        """For training on `device`; `device_cache` as `data.device_cache` has it."""
        ...

    def take(self, chosen: NDArray[np.int64], pin: bool = False) -> Images:
        """Some of them, read now."""
        ...

    def place(self, index: int) -> str:
        """Where an image is from."""
        ...


def gather_ahead(take: Callable[[Tensor], Images], epochs: Iterator[Tensor], executor: Executor) -> Generator[Images]:
    """What `take` gives for each step's indices, two steps ahead."""
    # By number: to walk through a tensor makes views of all its steps at once.
    return map_ahead(executor, take, (epoch[step] for epoch in epochs for step in range(len(epoch))), 2)


def map_ahead(executor: Executor, do: Callable[[A], T], things: Iterator[A], num: int) -> Generator[T]:
    """As `executor.map`, but no more than `num` things ahead."""
    ahead = deque(executor.submit(do, thing) for thing in islice(things, num))
    while ahead:
        result = ahead.popleft().result()
        ahead.extend(executor.submit(do, thing) for thing in islice(things, 1))
        yield result
