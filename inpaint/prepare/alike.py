"""Owns the search for images that are alike, among millions and without comparing all with all.

Every image belongs to the list of the pivot, an image too, that it looks most like. A view is compared with the
lists of a few pivots only, and the nearest few images are then compared pixel by pixel (`inpaint.prepare.dedupe`).
All arithmetic on looks is of whole numbers that float32 holds exactly, so the result is the same on every machine.

Cost: for N images about N^1.5 / 20 products of matrices' rows a view, and 100 bytes an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from inpaint.prepare.dedupe import IS_ODD, LOOK_LENGTH, Likeness, compare

# Cosine of two looks, times the square of their length, from which they are compared pixel by pixel; and how many of
# the nearest are.
NEAR = round(0.94 * LOOK_LENGTH**2)
NUM_NEAREST = 4
LIST_IMAGES, NUM_LISTS = 500, 4
# At most so many looks are compared with so many others at a time: 8 MB a matrix.
_ROWS, _BLOCK = 512, 4096

Looks = NDArray[np.int8]
# Pairs to compare: a view of `one` looks like all of `other`, perhaps mirrored.
PAIR = np.dtype([("one", "i8"), ("other", "i8"), ("view", "i8"), ("is_mirrored", "?"), ("nearness", "f4")])
Pairs = NDArray[np.void]


class Lists:
    """The whole looks of N images, int8 [N, D], parted into lists. The first images are the pivots."""

    def __init__(self, wholes: Looks) -> None:
        self.wholes = wholes
        self.pivots = wholes[: max(1, len(wholes) // LIST_IMAGES)]
        of_image = self._lists(wholes, 1).ravel()
        order = np.argsort(of_image, kind="stable")
        self.members = np.split(order, np.searchsorted(of_image[order], np.arange(1, len(self.pivots))))

    def nearest(self, images: NDArray[np.int64], looks: Looks) -> Pairs:
        """For some of the N images and their views, int8 [n, V, D]: up to `NUM_NEAREST` others each."""
        num_views = looks.shape[1]
        views = looks.reshape(-1, looks.shape[2])
        seen = np.flatnonzero(views.any(axis=1))
        lists = self._lists(views[seen], NUM_LISTS)
        rows = np.broadcast_to(seen[:, None], lists.shape).ravel()
        order = np.argsort(lists.ravel(), kind="stable")
        cuts = np.searchsorted(lists.ravel()[order], np.arange(1, len(self.pivots)))
        parts = [np.empty(0, PAIR)]
        for number, its in enumerate(np.split(rows[order], cuts)):
            for start in range(0, len(its), _ROWS):
                some = its[start : start + _ROWS]
                parts += self._near(images[some // num_views], some % num_views, views[some], self.members[number])
        found = np.concatenate(parts)
        found = found[np.lexsort((found["view"], -found["nearness"], found["other"], found["one"]))]
        found = found[_is_first(found["one"], found["other"])]
        found = found[np.lexsort((found["other"], -found["nearness"], found["one"]))]
        rank = np.arange(len(found)) - np.searchsorted(found["one"], found["one"])
        return found[rank < NUM_NEAREST]

    def _lists(self, looks: Looks, num: int) -> NDArray[np.int64]:
        """The `num` nearest pivots of each look, or all there are: [n, num]."""
        num = min(num, len(self.pivots))
        found = np.empty((len(looks), num), np.int64)
        at_once = min(_BLOCK, max(1, _ROWS * _BLOCK // len(self.pivots)))
        for start in range(0, len(looks), at_once):
            nearness, _ = _nearness(looks[start : start + at_once], self.pivots)
            found[start : start + at_once] = np.argpartition(-nearness, num - 1, axis=1)[:, :num]
        return found

    def _near(
        self, images: NDArray[np.int64], views: NDArray[np.int64], looks: Looks, members: NDArray[np.int64]
    ) -> Iterator[Pairs]:
        for start in range(0, len(members), _BLOCK):
            others = members[start : start + _BLOCK]
            nearness, mirrored = _nearness(looks, self.wholes[others])
            nearness[images[:, None] == others] = 0
            rows = np.flatnonzero(nearness.max(axis=1) >= NEAR)
            if len(rows):
                nearness, mirrored = nearness[rows], mirrored[rows]
                num = min(NUM_NEAREST, len(others))
                best = np.argpartition(-nearness, num - 1, axis=1)[:, :num]
                row, column = np.nonzero(np.take_along_axis(nearness, best, axis=1) >= NEAR)
                column = best[row, column]
                at = rows[row]
                columns = images[at], others[column], views[at], mirrored[row, column], nearness[row, column]
                yield np.rec.fromarrays(columns, dtype=PAIR)


def _nearness(looks: Looks, others: Looks) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The larger dot product of each look with each other one and with that in a mirror, [n, m], and which it is."""
    one, other = looks.astype(np.float32), others.astype(np.float32)
    even = one[:, ~IS_ODD] @ other[:, ~IS_ODD].T
    odd = one[:, IS_ODD] @ other[:, IS_ODD].T
    return even + np.abs(odd), odd < 0


def _is_first(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where a row of sorted columns differs from the one before."""
    return np.append(True, (one[1:] != one[:-1]) | (other[1:] != other[:-1]))[: len(one)]


def find_pairs(wholes: Looks, batches: Iterable[tuple[NDArray[np.int64], Looks]]) -> Pairs:
    """What is to be compared, each pair once, in the way that looks most alike.

    Args:
        wholes: how all of each of N images looks, [N, D]. Their order is a part of the result.
        batches: indices of images and their looks [n, V, D], in any order and number, together all N.
    """
    lists = Lists(wholes)
    found = np.concatenate([np.empty(0, PAIR), *(lists.nearest(images, looks) for images, looks in batches)])
    low, high = np.minimum(found["one"], found["other"]), np.maximum(found["one"], found["other"])
    order = np.lexsort((found["one"], -found["nearness"], high, low))
    return found[order[_is_first(low[order], high[order])]]


def compare_pairs(
    pairs: Pairs, read: Callable[[NDArray[np.int64]], list[NDArray[np.uint8]]], workers: int, show_progress: bool
) -> list[Likeness]:
    """Compares the pixels of each pair; `read` gives the squares of some images and is called from threads."""

    def compare_some(start: int) -> list[Likeness]:
        some = pairs[start : start + 256]
        wanted, at = np.unique(np.concatenate([some["one"], some["other"]]), return_inverse=True)
        squares = read(wanted)
        ones, others = at[: len(some)], at[len(some) :]
        told = zip(ones, some["view"], others, some["is_mirrored"], strict=True)
        return [compare(squares[one], int(view), squares[other], bool(mirror)) for one, view, other, mirror in told]

    bar = tqdm(desc="comparing", total=len(pairs), unit="pair", disable=not show_progress, leave=False)
    found: list[Likeness] = []
    with bar, ThreadPoolExecutor(workers) as pool:
        for some in pool.map(compare_some, range(0, len(pairs), 256)):
            found += some
            bar.update(len(some))
    return found


def first_of_group(num: int, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """The smallest index of each of `num` things' group, where the pairs (`one`, `other`) belong together: [num]."""
    first = np.arange(num)
    while (first[one] != first[other]).any():
        np.minimum.at(first, np.maximum(first[one], first[other]), np.minimum(first[one], first[other]))
        while (first != (first := first[first])).any():
            pass
    return first
