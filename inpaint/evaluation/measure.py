"""Owns how many images are measured by several processes so that the figures are those of one, to the last bit.

Images go in chunks whose size no process has a say in, each chunk to one process and one thread. Every process writes
its rows into an array of zeros, whose sum over the processes is the whole one; all figures are computed from that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from inpaint.distributed.collectives import Collectives
from inpaint.evaluation.baselines import Fill
from inpaint.evaluation.features import one_thread, windows
from inpaint.evaluation.metrics import Filled, Metric, rows_of
from inpaint.evaluation.subject import Subject
from inpaint.models.feature_network import NUM_FEATURES, FeatureNetwork

# What fills some images of a subject: (which) -> fill.
Method = Callable[[NDArray[np.int64]], Fill]
_MOST_AT_ONCE = 32


@dataclass(frozen=True)
class Measured:
    """What one method's images give.

    Attributes:
        rows: float64 [N, M], the metrics' states in their order.
        features: float64 [N, D], or [N, 0] without a network.
    """

    rows: Tensor
    features: Tensor


class Measuring:
    """Measures methods on a subject; every process calls every method alike.

    Args:
        subject: what is filled.
        metrics: what is measured, by name.
        network: of the features, or None.
        collectives: the processes.
        device: where fills are made.
        num_threads: how many chunks a process fills at a time, where `device` is the CPU.
    """

    def __init__(
        self,
        subject: Subject,
        metrics: Mapping[str, Metric],
        network: FeatureNetwork | None,
        collectives: Collectives,
        device: torch.device,
        num_threads: int,
    ) -> None:
        self.subject, self.metrics, self.network, self.collectives = subject, metrics, network, collectives
        self.device, self.num_threads = device, num_threads if device.type == "cpu" else 1
        at_once = max(1, min(_MOST_AT_ONCE, 2**17 // subject.size**2))
        indices = np.arange(len(subject), dtype=np.int64)
        self.chunks = np.split(indices, range(at_once, len(subject), at_once))

    def measure(self, name: str, method: Method) -> Measured:
        """Every image filled by `method`, called `name` beside the bar."""

        def measured(chosen: NDArray[np.int64]) -> Tensor:
            filled = self.fill(method, chosen)
            return torch.cat([*rows_of(self.metrics, filled), self._features(filled)], dim=1)

        width = sum(metric.state_size for metric in self.metrics.values())
        whole = self._gather(measured, width + self._num_features, name)
        return Measured(whole[:, :width], whole[:, width:])

    def features_of_truth(self) -> Tensor:
        """[N, D], those of the images themselves."""
        truth: Method = lambda chosen: lambda masked_image, mask: self._images(chosen)  # noqa: E731
        return self._gather(lambda chosen: self._features(self.fill(truth, chosen)), self._num_features, "truth")

    def fill(self, method: Method, chosen: NDArray[np.int64]) -> Filled:
        """Some images filled by `method`."""
        pixels = np.ascontiguousarray(self.subject.pixels[chosen])
        return Filled.by(method(chosen), pixels, self.subject.masks(chosen), self.device)

    @property
    def _num_features(self) -> int:
        return 0 if self.network is None else NUM_FEATURES

    def _images(self, chosen: NDArray[np.int64]) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(self.subject.pixels[chosen]))
        return pixels.permute(0, 3, 1, 2).to(self.device).float() / 255

    def _features(self, filled: Filled) -> Tensor:
        if self.network is None:
            return torch.empty(len(filled.mask), 0, dtype=torch.float64)
        seen = windows(filled.composite, filled.hole).to(self.device)
        return self.network(seen / 255).cpu().double()

    def _gather(self, compute: Callable[[NDArray[np.int64]], Tensor], width: int, name: str) -> Tensor:
        whole = torch.zeros(len(self.subject), width, dtype=torch.float64)
        mine: Sequence[NDArray[np.int64]] = self.chunks[self.collectives.rank :: self.collectives.world_size]
        bar = tqdm(desc=name, total=len(self.subject), unit="image", disable=not self.collectives.is_main)
        with one_thread(), bar, ThreadPoolExecutor(self.num_threads, thread_name_prefix="evaluate") as pool:
            futures = [pool.submit(compute, chosen) for chosen in mine]
            try:
                for chosen, future in zip(mine, futures, strict=True):
                    whole[torch.from_numpy(chosen)] = future.result()
                    bar.update(min(len(chosen) * self.collectives.world_size, len(self.subject) - bar.n))
            finally:
                pool.shutdown(cancel_futures=True)
        return self.collectives.reduce_sum(whole)
