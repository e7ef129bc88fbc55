"""Owns what a kind of hole is, and the mixture of kinds that a run trains on.

A kind draws an image's hole from uniform numbers, on the CPU and for a whole split at once, and makes masks of a batch
of such holes on the device. Whatever comes after the batch knows the mask alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inpaint.errors import InpaintError
from inpaint.holes.spec import HoleSpec
from inpaint.tables import HOLES, load

if TYPE_CHECKING:
    from torch import Tensor


# Holes as people make them, by selecting, painting and outlining: what `mixed` stands for where holes are named.
MIXED = {"rectangle": 0.35, "strokes": 0.4, "blobs": 0.25}


@dataclass(frozen=True)
class HoleKind:
    """One kind of hole, of P parameters.

    Attributes:
        num_uniforms: how many uniform numbers a hole takes.
        draw: (uniform [num_uniforms, N] in [0, 1), spec) -> parameters [N, P], numbers that float32 holds, and integer
            windows [N, 2]: x and y of the square of `spec.window_px` in the image that contains as much of the hole as
            it can. An image's depend on its own column alone.
        rasterise: (parameters float32 [B, P], size) -> mask [B, 1, size, size], 1 or true in the hole: in one call, on
            the parameters' device, without waiting for it.
    """

    num_uniforms: int
    draw: Callable[[NDArray[np.float64], HoleSpec], tuple[NDArray[np.number], NDArray[np.integer]]]
    rasterise: Callable[[Tensor, int], Tensor]


class HoleMixture:
    """Kinds of holes by weight. A hole of any of them is float32 [1 + P]: its kind's number, then its parameters.

    `weights` are by a kind's name in `HOLES`; their order does not matter.
    """

    def __init__(self, weights: Mapping[str, float], spec: HoleSpec) -> None:
        self.names = names = sorted(weights)
        self.spec, self.kinds = spec, [load(HOLES, name) for name in names]
        self.num_uniforms = max(kind.num_uniforms for kind in self.kinds)
        self._bounds = np.cumsum([weights[name] for name in names])[:-1] / sum(weights.values())
        self._nums_parameters = [_num_parameters(*named, spec) for named in zip(names, self.kinds, strict=True)]

    def draw(
        self, uniform: NDArray[np.float64], chance: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Holes [N, 1 + P] and windows [N, 2] from `uniform` [num_uniforms, N]; `chance` [N] decides the kinds."""
        which = np.searchsorted(self._bounds, chance, side="right")
        holes = np.zeros((len(chance), 1 + max(self._nums_parameters)), np.float32)
        windows = np.empty((len(chance), 2), np.int32)
        holes[:, 0] = which
        for number, (kind, num_parameters) in enumerate(zip(self.kinds, self._nums_parameters, strict=True)):
            its = np.flatnonzero(which == number)
            holes[its, 1 : 1 + num_parameters], windows[its] = kind.draw(uniform[: kind.num_uniforms, its], self.spec)
        return holes, windows

    def rasterise(self, holes: Tensor, size: int) -> Tensor:
        """The masks [B, 1, size, size] of holes [B, 1 + P], true in the hole.

        Cost: on a CPU each kind rasterises its own holes; elsewhere the whole batch, since asking which are whose would
        wait for the device.
        """
        return self._each_its_own(holes, size) if holes.device.type == "cpu" else self._each_all(holes, size)

    def _each_its_own(self, holes: Tensor, size: int) -> Tensor:
        import torch

        mask = holes.new_zeros((len(holes), 1, size, size), dtype=torch.bool)
        for number, (kind, num_parameters) in enumerate(zip(self.kinds, self._nums_parameters, strict=True)):
            its = (holes[:, 0] == number).nonzero()[:, 0]
            if len(its):
                mask[its] = kind.rasterise(holes[its, 1 : 1 + num_parameters], size) > 0
        return mask

    def _each_all(self, holes: Tensor, size: int) -> Tensor:
        import torch

        mask = holes.new_zeros((len(holes), 1, size, size), dtype=torch.bool)
        for number, (kind, num_parameters) in enumerate(zip(self.kinds, self._nums_parameters, strict=True)):
            is_its = holes[:, 0, None, None, None] == number
            mask = mask | (is_its & (kind.rasterise(holes[:, 1 : 1 + num_parameters], size) > 0))
        return mask


def _num_parameters(name: str, kind: HoleKind, spec: HoleSpec) -> int:
    """How many a hole of `kind` has; InpaintError if two of its holes are not what a `HoleKind` promises."""
    import torch

    try:
        parameters, windows = kind.draw(np.full((kind.num_uniforms, 2), 0.5), spec)
        mask = kind.rasterise(torch.from_numpy(parameters.astype(np.float32)), spec.image_size)
    except Exception as error:
        raise InpaintError(
            f"hole kind {name}, asked for two holes with num_uniforms = {kind.num_uniforms}: "
            f"{type(error).__name__}: {error} (--debug shows where)"
        ) from error
    wanted = (("windows", windows, (2, 2)), ("a mask", mask, (2, 1, spec.image_size, spec.image_size)))
    for what, found, shape in wanted:
        if found.shape != shape:
            told = f"asked for two holes it made {what} of {[*found.shape]}; it must be {[*shape]}"
            raise InpaintError(f"hole kind {name}: {told}")
    return parameters.shape[1]
