"""Owns detail transfer: what an enlarged fill lacks is copied from the photograph around it.

The fill says what is where, the photograph how that looks. Each pixel of the hole has a source outside, of which it
takes what the photograph has and a smooth picture of it has not. Sources are sought among all patches at the scale of
the fill, and at each finer scale beside where the coarser one found them, comparing with what has been laid there so
far.

In the spirit of Yang et al. 2017 ("High-Resolution Image Inpainting using Multi-Scale Neural Patch Synthesis") and Yi
et al. 2020 ("Contextual Residual Aggregation"), with the search of Wexler et al. 2007 ("Space-Time Completion of
Video") and Barnes et al. 2009 ("PatchMatch") in place of a network. Nothing is drawn: the same bytes every time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, pad, unfold

from inpaint.photographs.scaling import Scaled, all_known, enlarged, laid

# Half the side of the patches that are compared, of which every second pixel is.
_REACH = 3
# Larger scales are not searched again: they take over what was found.
_MOST_HOLE, _MOST_PIXELS = 12_000, 2**18
# What a pixel pays for each neighbour whose source is not beside its own, as a share of what patches differ by on
# average: copies are in large pieces, and change from one to another where that shows least.
_RAGGED = 0.25
# How often means over 3 x 3 pixels are taken for the smooth picture. Of the fill only that much counts: its speckle,
# which is of the generator's making, does not.
_SMOOTHINGS = 4
_SWEEPS_AT_FIRST, _SWEEPS, _ROUNDS = 6, 2, 2

_BESIDE = ((-1, 0), (1, 0), (0, -1), (0, 1))
_AROUND = (*_BESIDE, (-1, -1), (-1, 1), (1, -1), (1, 1))


def transfer(scales: Sequence[Scaled], guide: Tensor, target: Tensor, real: Tensor) -> Tensor:
    """The photograph with its hole filled in detail, [3, H, W]; the guide enlarged, where there is nothing to copy.

    Args:
        scales: the photograph at its own scale, 1/2, 1/4 and so on.
        guide: the smallest of them with its hole filled, [3, h, w].
        target: booleans [1, H, W], where detail is wanted, of what is unknown.
        real: booleans [1, H, W], what may be copied.
    """
    targets, reals = [target], [real]
    for scaled in scales[1:]:
        targets.append(~all_known(~targets[-1]) & ~scaled.known)
        reals.append(all_known(reals[-1]))
    if not _sources(reals[-1]).any():  # what was filled before is better than nothing
        reals = [scaled.known for scaled in scales]
    has_sources = bool(_sources(reals[-1]).any())
    fill, base = guide, guide
    for _ in range(_SMOOTHINGS):
        base = _smooth(base)
    coarser: _Sources | None = None
    for scaled, its_target, its_real in zip(reversed(scales), reversed(targets), reversed(reals), strict=True):
        if scaled is not scales[-1]:
            base, fill = enlarged(base), laid(enlarged(fill), scaled)
        if not has_sources:
            continue
        sources = _Sources(_sources(its_real), its_target)
        # At the fill's own scale the photograph is what `guide` is outside the hole.
        photo = guide if coarser is None else scaled.values
        residual = sources.rows(photo - base)
        if coarser is None:
            fill, patches = guide.clone(), sources.patches(_smooth(guide))
            sources.nearest(patches)
            sources.improve(patches, patches, _SWEEPS_AT_FIRST, is_local=False)
        else:
            sources.inherit(coarser)
        _lay(fill, its_target, base, sources.copied(residual, 2))
        if len(sources.holes) <= _MOST_HOLE and fill[0].numel() <= _MOST_PIXELS:
            offered = sources.patches(photo)
            for left in reversed(range(_ROUNDS)):
                sources.improve(sources.patches(fill), offered, _SWEEPS, is_local=True)
                _lay(fill, its_target, base, sources.copied(residual, 2 if left or coarser is None else 1))
        coarser = sources
    return fill


class _Sources:
    """Where each pixel to fill is copied from, at one scale; pixels are counted row by row, a frame included.

    Attributes:
        holes: [N], the pixels to fill.
        found: [N], the source of each.
    """

    def __init__(self, is_source: Tensor, target: Tensor) -> None:
        frame = (_REACH,) * 4
        self.width = target.shape[2] + 2 * _REACH
        self.is_source = pad(is_source, frame).flatten()
        self.holes = pad(target, frame).flatten().nonzero()[:, 0]
        self.rank = torch.full(self.is_source.shape, -1, device=target.device)
        self.rank[self.holes] = torch.arange(len(self.holes), device=target.device)
        self.found = self.holes

    @staticmethod
    def rows(image: Tensor) -> Tensor:
        """An image [C, H, W] as [pixels, C], its frame a repetition of its edge."""
        return pad(image[None], (_REACH,) * 4, mode="replicate")[0].flatten(1).T.contiguous()

    @staticmethod
    def patches(image: Tensor) -> Tensor:
        """What is compared of the patch around each pixel, [pixels, 48]."""
        framed = pad(image[None], (2 * _REACH,) * 4, mode="replicate")
        return unfold(framed, _REACH + 1, dilation=2)[0].T.contiguous()

    def nearest(self, patches: Tensor) -> None:
        """Find the source whose patch is most like that of each pixel to fill, of all."""
        sources = self.is_source.nonzero()[:, 0]
        wanted, offered = patches[self.holes], patches[sources]
        norms, num = offered.square().sum(1), max(1, 2**22 // len(sources))
        # One buffer for all: with one for each part, the C library's heap grew to 2 GB.
        differences, best = wanted.new_empty(num, len(sources)), torch.empty_like(self.holes)
        for part, its_best in zip(wanted.split(num), best.split(num), strict=True):
            its_best.copy_(torch.addmm(norms, part, offered.T, alpha=-2, out=differences[: len(part)]).argmin(1))
        self.found = sources[best]

    def inherit(self, coarser: _Sources) -> None:
        """Take over the sources found at half the scale."""
        row, column = self.holes // self.width - _REACH, self.holes % self.width - _REACH
        parent = (row // 2 + _REACH) * coarser.width + column // 2 + _REACH
        found = coarser.found[coarser.rank[parent]]
        row = (found // coarser.width - _REACH) * 2 + row % 2
        column = (found % coarser.width - _REACH) * 2 + column % 2
        self.found = (row + _REACH) * self.width + column + _REACH

    def improve(self, wanted: Tensor, offered: Tensor, sweeps: int, is_local: bool) -> None:
        """Let each pixel take over a neighbour's source, moved along, or one beside its own, where that is better.

        Pixels change in turn as on a chessboard, so that no two neighbours change places for ever.

        Args:
            wanted: the patches [pixels, 48] of what has been laid so far.
            offered: those of the photograph.
            is_local: whether to look beside a pixel's own source, too.
        """
        wanted = wanted[self.holes]
        ragged = _RAGGED * (offered[self.found] - wanted).square().mean() + 1e-6
        beside, around = self._steps(_BESIDE), self._steps(_AROUND)
        colour = (self.holes // self.width + self.holes % self.width) % 2
        turns = [(colour == turn).nonzero()[:, 0] for turn in (0, 1)]
        for sweep in range(sweeps):
            for turn in turns:
                ranks, own = self.rank[self.holes[turn] + beside], self.found[turn][None]
                is_there = ranks >= 0
                moved = (self.found[ranks.clamp(min=0)] - beside).where(is_there, own)
                options = torch.cat([own, moved, own + around] if is_local and sweep == 0 else [own, moved])
                options = options.clamp(0, len(offered) - 1)
                cost = torch.stack([(offered[option] - wanted[turn]).square().mean(1) for option in options])
                cost += ragged * ((options[:, None] != moved) & is_there).sum(1)
                cost = cost.masked_fill(~self.is_source[options], torch.inf)
                self.found[turn] = options.gather(0, cost.argmin(0, keepdim=True))[0]

    def copied(self, rows: Tensor, reach: int) -> Tensor:
        """What is copied of `rows` [pixels, C] to each pixel, [N, C].

        It is the mean, weighted by a bell, of what the patches around its neighbours' sources have in its place.
        """
        total = torch.zeros(len(self.holes), rows.shape[1], device=rows.device)
        weights = torch.zeros(len(self.holes), 1, device=rows.device)
        bell = torch.hann_window(2 * reach + 3, periodic=False)[1:-1].tolist()
        for down in range(-reach, reach + 1):
            for across in range(-reach, reach + 1):
                step = down * self.width + across
                ranks = self.rank[self.holes + step]
                weight = (ranks >= 0).float()[:, None] * (bell[down + reach] * bell[across + reach])
                total += rows[self.found[ranks.clamp(min=0)] - step] * weight
                weights += weight
        return total / weights

    def _steps(self, steps: Sequence[tuple[int, int]]) -> Tensor:
        return torch.tensor([down * self.width + across for down, across in steps], device=self.holes.device)[:, None]


def _lay(fill: Tensor, target: Tensor, base: Tensor, residual: Tensor) -> None:
    fill[:, target[0]] = base[:, target[0]] + residual.T


def _smooth(image: Tensor) -> Tensor:
    return avg_pool2d(pad(image[None], (1,) * 4, mode="replicate"), 3, 1)[0]


def _sources(real: Tensor) -> Tensor:
    """Whether the whole patch around a pixel may be copied and lies within the photograph."""
    unknown = pad((~real).float(), (_REACH,) * 4, value=1)
    return max_pool2d(unknown, 2 * _REACH + 1, 1) == 0
