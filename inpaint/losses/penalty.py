"""Owns the penalties on the discriminator's slope: R1 on real images, R2 on generated ones (Mescheder et al. 2018).

Both are taken every `loss.penalty_every` steps only and weigh as much more then (Karras et al. 2020, "Lazy
regularization"). Gradient norms are those of equations (9) and (10) without their factor: a weight is half of gamma.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inpaint.losses.adversarial import judged
from inpaint.losses.seen import Seen, wide


def r1(seen: Seen) -> Tensor | None:
    """The squared slope at real images: equation (9)."""
    return _squared_slope(seen, seen.image, seen.real_windows)


def r2(seen: Seen) -> Tensor | None:
    """The squared slope at what the discriminator sees of generated ones: equation (10)."""
    return _squared_slope(seen, seen.generated, seen.windows)


def _squared_slope(seen: Seen, shown: Tensor, windows: Tensor) -> Tensor | None:
    """The mean over images of the squared norm of a gradient: of the sum of an image's judged logits, by its pixels.

    None in steps that are left out. In float32 at least, for it is squared and then differentiated once more.
    """
    if seen.step % seen.settings.penalty_every:
        return None
    shown = wide(shown.detach()).requires_grad_()
    logits = seen.discriminator(shown, seen.mask, windows, in_float32=True).logits
    # No image's logits depend on another image, so one gradient of all has each image's own.
    (slope,) = torch.autograd.grad((logits * judged(logits, seen)).sum(), shown, create_graph=True)
    return slope.square().sum(dim=(1, 2, 3)).mean()
