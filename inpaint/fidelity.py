"""Owns what fidelity is: where between its two ends a generator is used.

A generator trained by reconstruction first and with an adversary afterwards has two ends. The first is closer to the
truth on average and blurred, the second sharper and further off: no generator has the best of both (Blau and Michaeli,
"The Perception-Distortion Tradeoff", CVPR 2018). Weights interpolated linearly lie between the two (Wang et al.,
"ESRGAN", ECCV Workshops 2018, section 3.4, network interpolation).
"""

from __future__ import annotations

from numbers import Real
from typing import Any

from inpaint.errors import UsageError, shorten

# Beside the weights of the adversarial end.
RECONSTRUCTION_FILE = "reconstruction.safetensors"
ONE_END = (
    "these weights have no second end, so fidelity cannot be chosen; leave it out, or train with training.phases_per: "
    "run, shares of phases 1 and 3 and evaluation.best_by: last, past the end of phase 1"
)


def require_fidelity(fidelity: Any) -> None:
    """UsageError unless it is a number from 0, the adversarial end, to 1, the reconstruction's, or None."""
    is_number = isinstance(fidelity, Real) and not isinstance(fidelity, bool)
    if fidelity is not None and not (is_number and 0 <= fidelity <= 1):  # nan is in no range
        raise UsageError(
            f"fidelity is {shorten(repr(fidelity))}; give a number from 0 (the adversarial end, sharp) to 1 (the "
            "reconstruction's end, closest to the truth on average), or leave it out"
        )
