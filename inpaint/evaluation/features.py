"""Owns what is made of the feature network's vectors: distances between two sets of images, P-IDS and U-IDS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor


@contextmanager
def one_thread() -> Iterator[None]:
    """Give every operation within one thread: the rounding of one that has several depends on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def windows(images: Tensor, hole: Tensor) -> Tensor:
    """What of each image is looked at: a square of half its side, centred on the hole where that fits.

    Args:
        images: [B, C, S, S].
        hole: [B, 1, S, S], not 0 in the hole; the window of an empty one is in the middle.

    Returns:
        [B, C, S // 2, S // 2].
    """
    size = images.shape[-1]
    half, inside = size // 2, hole[:, 0] > 0

    def places(seen: Tensor) -> Tensor:
        """Of each image [B, half], along an axis on which the hole is [B, S]."""
        last = size - 1 - seen.flip(1).int().argmax(1)
        middle = torch.where(seen.any(1), (seen.int().argmax(1) + last) // 2, half)
        corner = (middle - half // 2).clamp(0, size - half)
        return corner[:, None] + torch.arange(half, device=seen.device)

    rows, columns = places(inside.any(2)), places(inside.any(1))
    which = torch.arange(len(images), device=images.device)[:, None, None]
    return images.movedim(1, 3)[which, rows[:, :, None], columns[:, None, :]].movedim(3, 1).contiguous()


@one_thread()
def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Between two sets of feature vectors taken as normal distributions (Dowson & Landau 1982; Heusel et al. 2017).

    Args:
        first, second: [N, D].

    Returns:
        0 for equal means and covariances; nan if a set has fewer than two vectors. Depends on N: compare at equal N.
    """
    if min(len(first), len(second)) < 2:
        return float("nan")
    (mean_1, covariance_1), (mean_2, covariance_2) = (
        (rows.mean(0), rows.T.cov() + 1e-6 * torch.eye(rows.shape[1]).double())
        for rows in (first.double(), second.double())
    )
    roots = torch.linalg.eigvals(covariance_1 @ covariance_2).real.clamp(min=0).sqrt().sum()
    distance = (mean_1 - mean_2).square().sum() + covariance_1.trace() + covariance_2.trace() - 2 * roots
    return float(distance)


@one_thread()
def inception_discriminative_scores(truth: Tensor, filled: Tensor) -> tuple[float, float] | None:
    """P-IDS and U-IDS (Zhao et al. 2021), on these features instead of Inception's: how often a linear support vector
    machine, fitted to tell them apart, takes a fill for truer than its own truth, and how often it errs at all.

    Args:
        truth, filled: [N, D], row by row of the same image.

    Returns:
        Both in [0, 1], higher is better, the second 0.5 at best; None without scikit-learn, and of fewer images than
        features: any two such sets can be told apart.
    """
    if find_spec("sklearn") is None or len(truth) < truth.shape[1]:
        return None
    import numpy as np
    from sklearn.svm import LinearSVC

    scale = truth.double().std(0).clamp(min=1e-6)
    real, fake = ((rows.double() / scale).numpy() for rows in (truth, filled))
    machine = LinearSVC(dual=False)
    machine.fit(np.concatenate([real, fake]), np.repeat([1, 0], len(real)))
    of_real, of_fake = machine.decision_function(real), machine.decision_function(fake)
    return float((of_fake > of_real).mean()), float(((of_real <= 0).mean() + (of_fake > 0).mean()) / 2)
