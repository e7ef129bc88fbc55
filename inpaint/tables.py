"""Owns the names of what can be added to, and where each of them is; nothing is imported before it is asked for.

To add one is a file of its own and a line here. A setting then names it (CONTRIBUTING.md has an example of each).
"""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

from inpaint.errors import UsageError

# Networks by the names that `model.generator` and `model.discriminator` take.
GENERATORS = {
    "dilated": "inpaint.models.generators.dilated:DilatedGenerator",
    "smooth_prior": "inpaint.models.generators.smooth_prior:SmoothPriorGenerator",
    "gated": "inpaint.models.generators.gated:GatedGenerator",
}
DISCRIMINATORS = {
    "fused": "inpaint.models.discriminators.fused:FusedDiscriminator",
    "patch": "inpaint.models.discriminators.patch:PatchDiscriminator",
}
# Losses, functions of a `losses.seen.Seen`, by the names that `loss.terms` weighs. The generator's in phases 1 and 3:
LOSSES = {
    "reconstruction": "inpaint.losses.paper:reconstruction",
    "hole_l1": "inpaint.losses.absolute:hole_l1",
    "known_l1": "inpaint.losses.absolute:known_l1",
    "area_l1": "inpaint.losses.absolute:area_l1",
    "frozen_features": "inpaint.losses.frozen_features:frozen_features",
}
# The generator's in phase 3, which ask for the discriminator's judgements:
ADVERSARIAL_LOSSES = {
    "adversarial": "inpaint.losses.adversarial:adversarial",
    "feature_matching": "inpaint.losses.adversarial:feature_matching",
}
# The discriminator's in phases 2 and 3, the penalties every `loss.penalty_every` steps:
PENALTIES = {
    "r1": "inpaint.losses.penalty:r1",
    "r2": "inpaint.losses.penalty:r2",
}
DISCRIMINATOR_LOSSES = {
    "real": "inpaint.losses.adversarial:real",
    "fake": "inpaint.losses.adversarial:fake",
    **PENALTIES,
}
# Kinds of holes (`inpaint.holes.kinds.HoleKind`), weighed by `data.hole_kinds`.
HOLES = {
    "rectangle": "inpaint.holes.rectangle:RECTANGLE",
    "strokes": "inpaint.holes.strokes:STROKES",
    "blobs": "inpaint.holes.blobs:BLOBS",
    "boxes": "inpaint.holes.boxes:BOXES",
    "scratches": "inpaint.holes.scratches:SCRATCHES",
    "border": "inpaint.holes.border:BORDER",
}
# What filled images are measured by, in the order of every table.
METRICS = {
    "hole_psnr": "inpaint.evaluation.metrics:HOLE_PSNR",
    "hole_l1": "inpaint.evaluation.metrics:HOLE_L1",
    "hole_ssim": "inpaint.evaluation.metrics:HOLE_SSIM",
    "sharpness": "inpaint.evaluation.metrics:SHARPNESS",
    "psnr": "inpaint.evaluation.metrics:PSNR",
    "l1": "inpaint.evaluation.metrics:L1",
    "ssim": "inpaint.evaluation.metrics:SSIM",
}


def load(table: Mapping[str, str], name: str) -> Any:
    """What `table` has under `name`, imported now; UsageError if that cannot be done."""
    try:
        return resolve_name(table[name])
    except Exception as error:
        raise UsageError(
            f"inpaint/tables.py: {name!r} is {table[name]!r}, which cannot be imported "
            f"({type(error).__name__}: {error}); it must be MODULE:NAME (--debug shows where)"
        ) from error
