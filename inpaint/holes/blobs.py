"""Owns blobs: one closed outline with smooth bulges and hollows, like that of a person or a thing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from inpaint.holes.fields import field_kind, pixel_centres

if TYPE_CHECKING:
    from torch import Tensor

# Of the Fourier series of the radius; the first would only move the blob.
ORDERS = range(2, 6)
# cos(k t) as a polynomial of cos(t), and sin(k t) / sin(t), by rising powers: [orders, ORDERS.stop].
COSINES = np.stack([np.pad(chebyshev.cheb2poly([0] * k + [1]), (0, ORDERS.stop - 1 - k)) for k in ORDERS])
SINES = np.pad(COSINES[:, 1:] * np.arange(1, ORDERS.stop) / np.array(ORDERS)[:, None], ((0, 0), (0, 1)))


def shapes(uniform: NDArray[np.float64], areas: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, 18] from `uniform` [13, N]: the middle, two rows of a matrix into its own frame, and the radius there.

    In the frame, which is turned and up to two and a half times as long as broad, the radius is a Fourier series of the
    angle, held as two polynomials of its cosine: one to add, one to multiply by the sine.
    """
    (longer, turn, wobble), middle, strengths = uniform[:3], 0.05 + 0.9 * uniform[3:5], uniform[5:9]
    stretch, turn, phases = np.sqrt(1 + 1.5 * longer), 2 * np.pi * turn, 2 * np.pi * uniform[9:13]
    strengths = (0.2 + strengths) / np.array(ORDERS)[:, None] ** 1.5
    # The sum is below 1, so that the radius is above 0 all round.
    strengths *= (0.2 + 0.4 * wobble) / strengths.sum(axis=0)
    frame = [np.cos(turn) / stretch, np.sin(turn) / stretch, -np.sin(turn) * stretch, np.cos(turn) * stretch]
    added, multiplied = COSINES.T @ (strengths * np.cos(phases)), SINES.T @ (strengths * np.sin(phases))
    added[0] += 1
    return np.concatenate([middle, frame, added, multiplied]).T


def field(shapes: Tensor, size: int) -> Tensor:
    """[B, size, size] of shapes [B, 18]: the distance from the middle over the outline's, in the blob's frame."""
    x, y = pixel_centres(size, shapes)
    middle, frame, added, multiplied = shapes[:, :, None, None].split([2, 4, ORDERS.stop, ORDERS.stop], dim=1)
    x, y = x - middle[:, 0], y - middle[:, 1]
    x, y = x * frame[:, 0] + y * frame[:, 1], x * frame[:, 2] + y * frame[:, 3]
    radius = (x.square() + y.square()).sqrt_().clamp_(min=1e-6)
    cosine, sine = x.div_(radius), y.div_(radius)
    even, odd = added[:, -1] * cosine, multiplied[:, -1] * cosine
    for power in range(ORDERS.stop - 2, 0, -1):
        even = even.add_(added[:, power]).mul_(cosine)
        odd = odd.add_(multiplied[:, power]).mul_(cosine)
    outline = odd.add_(multiplied[:, 0]).mul_(sine).add_(even).add_(added[:, 0])
    return radius.div_(outline)


BLOBS = field_kind(14, shapes, field)
