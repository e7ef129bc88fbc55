"""Owns what a mixture of holes amounts to in figures, for whoever is about to train on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inpaint.config import DataConfig
from inpaint.data.draws import resampled_holes
from inpaint.holes.kinds import HoleMixture
from inpaint.holes.spec import HoleSpec

# So few at once that it is not worth threads.
NUM, AT_ONCE = 400, 6
# Holes of larger images are looked at in so small ones: they have the same shapes.
LARGEST_PX = 64


def hole_statistics(config: DataConfig, seed: int) -> dict[str, Any]:
    """Of 400 resampled holes: each kind's share of them, its area's mean and 5% to 95% range, and its extent.

    Areas are shares of the image; an extent is that of the upright box around the whole hole, whatever it is made of:
    width and height of the mean one, and the 5% to 95% range of both, in pixels of `config.image_size`.
    """
    spec = config.hole_spec
    factor = -(-spec.image_size // LARGEST_PX)
    size, least, most, window = (
        max(1, round(px / factor)) for px in (spec.image_size, spec.min_px, spec.max_px, spec.window_px)
    )
    mixture = HoleMixture(config.hole_kinds, HoleSpec(size, least, most, window, spec.area))
    holes = torch.from_numpy(resampled_holes(NUM, mixture, seed, epoch=1)[0])
    masks = torch.cat([mixture.rasterise(some, size)[:, 0] > 0 for some in holes.split(AT_ONCE)]).numpy()
    areas, which = masks.mean((1, 2)), holes[:, 0].numpy()
    extents = np.stack([_extent(np.any(masks, axis=axis)) for axis in (1, 2)], axis=1) * (spec.image_size / size)
    return {
        name: {
            "share": round(float(its.mean()), 3),
            "area": round(float(areas[its].mean()), 3),
            "area_5_to_95_percent": [round(float(area), 3) for area in np.percentile(areas[its], (5, 95))],
            "extent_px": [round(float(side)) for side in extents[its].mean(0)],
            "extent_px_5_to_95_percent": [round(float(side)) for side in np.percentile(extents[its], (5, 95))],
        }
        for number, name in enumerate(mixture.names)
        if (its := which == number).any()
    }


def _extent(is_in: NDArray[np.bool_]) -> NDArray[np.intp]:
    """From the first to the last of each row [N, S] that is true: [N]."""
    return is_in.shape[1] - is_in.argmax(1) - is_in[:, ::-1].argmax(1)
