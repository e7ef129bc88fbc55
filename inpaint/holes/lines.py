"""Owns the field around bent lines of varying thickness, which strokes and scratches are cut out of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inpaint.holes.fields import pixel_centres

if TYPE_CHECKING:
    from torch import Tensor


def around_lines(points: Tensor, thinness: Tensor, size: int) -> Tensor:
    """[B, size, size]: the smallest squared distance to any segment, times the segment's squared thinness.

    Up to a limit it is lines with round ends and joints.

    Args:
        points: [B, L, P, 2], x and y of the corners of L lines, in shares of the image's side.
        thinness: [B, L, P - 1], of the segments.

    Cost: one segment after another, so that memory does not grow with their number.
    """
    import torch

    x, y = (axis[:, None] for axis in pixel_centres(size, points))
    starts, along = points[:, :, :-1].flatten(1, 2), points.diff(dim=2).flatten(1, 2)
    lengths, thin = along.square().sum(-1).sqrt().clamp(min=1e-6), thinness.flatten(1)
    # Whatever has fewer numbers than the field is worked out for all segments at once, in units of their thickness.
    middle_x, middle_y, unit_x, unit_y, half, thin = (
        its[:, :, None, None]
        for its in (
            *(starts + along / 2).unbind(-1),
            *(along / lengths[..., None]).unbind(-1),
            lengths * thin / 2,
            thin,
        )
    )
    across, down = (x - middle_x) * thin, (y - middle_y) * thin
    parts = (across * unit_y, down * unit_x, across * unit_x, down * unit_y, half)
    shape = (len(points), size, size)
    field = torch.full(shape, torch.inf, device=points.device, dtype=points.dtype)
    along_it, off_it = torch.empty_like(field), torch.empty_like(field)
    for beside, other, beyond, more, its_half in zip(*(its.unbind(1) for its in parts), strict=True):
        torch.add(beyond, more, out=along_it).abs_().sub_(its_half).clamp_(min=0).square_()
        torch.sub(beside, other, out=off_it).square_().add_(along_it)
        torch.minimum(field, off_it, out=field)
    return field
