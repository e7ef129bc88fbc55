"""Owns equations (1), (2) and (3) of the paper: unweighted terms, in float32 or wider; the caller applies the weights.

How the printed equations are read:
- (1) is printed as a squared norm, a sum, and called MSE, a mean; the mean over all values is meant, as the MSE of
  its framework is. At 64 x 64 RGB the two differ by a factor of 12,288.
- (3)'s generator term is printed with the sign that would help the discriminator. What the text says is meant:
  the loss of (2) with the labels swapped. Its term on real images has no gradient for the generator and is dropped.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from inpaint.losses.seen import Seen, mean_in, wide


def reconstruction_loss(output: Tensor, image: Tensor, mask: Tensor | None = None) -> Tensor:
    """How far the output is from the real image: equation (1) as a mean squared error.

    Args:
        output: [B, 3, H, W] in [0, 1].
        image: [B, 3, H, W] in [0, 1].
        mask: [B, 1, H, W], the M_c of equation (1): how much each pixel counts, such as 1 in the hole and 0 outside;
            None is all ones, the paper's choice: the whole image counts.

    Returns:
        Scalar: the mean over images of each image's weighted mean, so that the batch may be cut in parts of equal
        size without changing it. An image whose mask is empty counts as 0.
    """
    squared = (wide(output) - wide(image)).square()
    if mask is None:
        return squared.mean()
    return mean_in(squared, mask)


def discriminator_losses(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """How badly real and generated images are told apart: the two terms of equation (2), to be added.

    Args:
        real_logits, fake_logits: [B, 1] or [B, 1, h, w], not squashed.

    Returns:
        Two scalars, means over the batch: -log D(real) and -log(1 - D(fake)).
    """
    return _cross_entropy(real_logits, 1.0), _cross_entropy(fake_logits, 0.0)


def adversarial_loss(fake_logits: Tensor) -> Tensor:
    """How badly the generator fools the discriminator: the second term of equation (3), -log D(fake).

    Args:
        fake_logits: [B, 1] or [B, 1, h, w], not squashed, from generated images.

    Returns:
        Scalar, the mean over the batch; `loss.adversarial_weight` (w2) is applied by the caller.
    """
    return _cross_entropy(fake_logits, 1.0)


def reconstruction(seen: Seen) -> Tensor:
    """The generator's, in phases 1 and 3."""
    region = seen.mask if seen.settings.reconstruction_region == "hole" else None
    return reconstruction_loss(seen.output, seen.image, region)


def _cross_entropy(logits: Tensor, label: float) -> Tensor:
    logits = wide(logits)
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
