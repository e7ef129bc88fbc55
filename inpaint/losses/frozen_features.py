"""Owns `frozen_features`: how differently a network that knows photographs sees the fill, where that network is frozen.

It is the network of `inpaint evaluate`'s distance, P-IDS and U-IDS and of `evaluation.best_by` = distance: what was
trained with this loss must not be judged by them.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from inpaint.losses.seen import Seen, wide
from inpaint.models.feature_network import FeatureNetwork, require_feature_network

# The ends of its first three stages: 16, 24 and 40 channels at a half, a quarter and an eighth of the image's size.
BLOCKS = (0, 2, 4)


def frozen_features(seen: Seen) -> Tensor:
    """The mean absolute difference between features of the composite and of the image, averaged over the layers.

    Johnson et al. 2016, eq. 2 (feature reconstruction), with absolute differences in the place of squared ones. No
    discriminator is asked, so it counts in phase 1 as well, and its weight does not wait for the adversary's.

    Raises:
        UsageError: the network is not installed on this machine.
    """
    image, composite = wide(seen.image), wide(seen.composite)
    network = frozen_network(image.device, image.dtype)
    with torch.no_grad():
        real = network.maps(image, BLOCKS)
    pairs = zip(network.maps(composite, BLOCKS), real, strict=True)
    return torch.stack([(ours - theirs).abs().mean() for ours, theirs in pairs]).mean()


@cache
def frozen_network(device: torch.device, dtype: torch.dtype) -> FeatureNetwork:
    """The network, read once for each device and type; it belongs to no checkpoint.

    Raises:
        UsageError: it is not installed.
    """
    return require_feature_network("loss.terms.frozen_features", "leave the term out", device).to(dtype)
