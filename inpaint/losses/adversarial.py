"""Owns the adversarial losses by `loss.objective`, and feature matching: unweighted terms, in float32 or wider.

`bce` is the paper's equations (2) and (3), known elsewhere as the non-saturating loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, relu, softplus

from inpaint.losses import paper
from inpaint.losses.seen import Seen, wide

# A patch of which a smaller part than this is hole looks real whatever the generator paints.
JUDGED_SHARE = 0.3


def adversarial(seen: Seen) -> Tensor:
    """The generator's, in phase 3: how badly it fools the discriminator."""
    if seen.settings.objective == "bce" and seen.settings.judged_region == "image":
        return paper.adversarial_loss(seen.fake.logits)
    fake = wide(seen.fake.logits)
    if seen.settings.objective == "hinge":
        return judged_mean(-fake, seen)
    against = wide(seen.real.logits) if seen.settings.objective == "relativistic" else 0
    return judged_mean(softplus(against - fake), seen)


def real(seen: Seen) -> Tensor:
    """The discriminator's first, in phases 2 and 3; of `relativistic` the only one."""
    if seen.settings.objective == "bce" and seen.settings.judged_region == "image":
        return paper.discriminator_losses(seen.real.logits, seen.fake.logits)[0]
    real, fake = wide(seen.real.logits), wide(seen.fake.logits)
    if seen.settings.objective == "hinge":
        return judged_mean(relu(1 - real), seen)
    return judged_mean(softplus((fake if seen.settings.objective == "relativistic" else 0) - real), seen)


def fake(seen: Seen) -> Tensor | None:
    """The discriminator's second, in phases 2 and 3."""
    if seen.settings.objective == "relativistic":
        return None
    if seen.settings.objective == "bce" and seen.settings.judged_region == "image":
        return paper.discriminator_losses(seen.real.logits, seen.fake.logits)[1]
    fake = wide(seen.fake.logits)
    return judged_mean(relu(1 + fake) if seen.settings.objective == "hinge" else softplus(fake), seen)


def feature_matching(seen: Seen) -> Tensor:
    """The generator's, in phase 3: how far the discriminator's activations on filled images are from those on the real
    ones, the mean absolute difference, averaged over its layers (Wang et al. 2018, pix2pixHD, eq. 4)."""
    pairs = zip(seen.fake.features, seen.real.features, strict=True)
    return torch.stack([(wide(fake) - wide(real)).abs().mean() for fake, real in pairs]).mean()


def judged_mean(values: Tensor, seen: Seen) -> Tensor:
    """The mean over images of each one's mean over its judged logits [B, 1, ...]."""
    if values.ndim == 2 or seen.settings.judged_region == "image":
        return values.mean()
    counted = judged(values, seen)
    return ((values * counted).sum(dim=(1, 2, 3)) / counted.sum(dim=(1, 2, 3))).mean()


def judged(logits: Tensor, seen: Seen) -> Tensor:
    """1 for each logit [B, 1, ...] that counts, else 0.

    With `loss.judged_region: hole` these are those of patches of which at least `JUDGED_SHARE` is hole, or where the
    hole is so thin that there is none, of those with the most of it; otherwise, and for whole images, all.
    """
    if logits.ndim == 2 or seen.settings.judged_region == "image":
        return torch.ones_like(logits)
    share = adaptive_avg_pool2d(wide(seen.mask), logits.shape[-2:])  # type: ignore[arg-type]
    return (share >= share.amax(dim=(2, 3), keepdim=True).clamp(max=JUDGED_SHARE)).to(logits.dtype)
