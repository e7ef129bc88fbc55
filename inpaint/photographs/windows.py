"""Owns which parts of a large photograph a generator is shown, at what scale, and which holes it fills in each.

A generator fills what it has learnt to fill: holes of some share of a square of its training size. So each hole is seen
in a square of about 2 to 4 times its longer side, scaled down to that size by a power of two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# A hole counts as at most so many times as long as it is thick: a longer one is filled piece by piece, for it is its
# thickness that says how far away what is known lies.
_LONGEST = 6


@dataclass(frozen=True)
class Window:
    """A rectangle of a photograph, and what is filled in it."""

    top: int
    left: int
    height: int
    width: int
    factor: int
    """Pixels of the photograph along a side of one pixel that the generator sees."""
    cell_top: int
    cell_left: int
    cells: NDArray[np.bool_]
    """Which cells of `factor` pixels a side are filled here, where they are unknown; the first is at `cell_top`,
    `cell_left`, counted in cells from the photograph's corner."""

    @property
    def place(self) -> tuple[slice, slice]:
        """Of the rectangle in the photograph."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def targets(self, unknown: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which pixels of the window are filled here, of those that are unknown in it: both [height, width]."""
        rows = np.arange(self.top, self.top + self.height) // self.factor - self.cell_top
        columns = np.arange(self.left, self.left + self.width) // self.factor - self.cell_left
        framed = np.pad(self.cells, 1)
        inside = (rows.clip(-1, len(self.cells)) + 1, columns.clip(-1, self.cells.shape[1]) + 1)
        return framed[np.ix_(*inside)] & unknown


def plan(hole: NDArray[np.bool_], size: int) -> Iterator[list[Window]]:
    """Windows that together fill the hole, in passes; what the passes before filled is known to the next.

    Small holes come first, each with all that is near it; what is larger waits for a scale at which it is at most half
    of `size` long. Windows of one pass fill different pixels.

    Args:
        hole: [H, W], true where to fill.
        size: side in pixels of what the generator is shown; windows are `size * factor`, or what there is of the image.
    """
    shape, half, near = hole.shape, max(1, size // 2), max(1, size // 8)
    cells, factor = hole.astype(np.uint8), 1
    while cells.any():
        grown = cv2.dilate(cells, np.ones((2 * near + 1, 2 * near + 1), np.uint8))
        labels = cv2.connectedComponents(grown)[1].astype(np.int32) * cells
        boxes, thickness = _boxes(labels), _thickness(cells, labels)
        length = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
        fits = np.minimum(length, _LONGEST * thickness) <= half
        fits[0] = False
        # Four passes: of one hole, no two neighbouring pieces are in the same.
        passes: list[list[Window]] = [[], [], [], []]
        for label in np.flatnonzero(fits).tolist():
            for parity, top, left, part in _pieces(labels, label, boxes[label], half):
                passes[parity].append(_window(shape, size, factor, top, left, part))
        yield from filter(None, passes)
        cells = _halved(cells * ~fits[labels])
        factor *= 2


def _boxes(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Top, left, bottom and right of each label, [labels, 4]; those of 0 mean nothing."""
    rows, columns = np.nonzero(labels)
    of, num = labels[rows, columns], int(labels.max()) + 1
    boxes = np.repeat(np.array([[*labels.shape, 0, 0]]), num, axis=0)
    np.minimum.at(boxes[:, 0], of, rows)
    np.minimum.at(boxes[:, 1], of, columns)
    np.maximum.at(boxes[:, 2], of, rows + 1)
    np.maximum.at(boxes[:, 3], of, columns + 1)
    return boxes


def _thickness(cells: NDArray[np.uint8], labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Side of the largest square within each label's cells, [labels]."""
    # Beyond the photograph nothing is known: a hole at its edge is as thick as it looks, and no thicker.
    distance = cv2.distanceTransform(np.pad(cells, 1), cv2.DIST_C, 3)[1:-1, 1:-1]
    inside = labels > 0
    thickness = np.zeros(int(labels.max()) + 1, np.int64)
    np.maximum.at(thickness, labels[inside], 2 * distance[inside].astype(np.int64) - 1)
    return thickness


def _pieces(
    labels: NDArray[np.int32], label: int, box: NDArray[np.int64], longest: int
) -> Iterator[tuple[int, int, int, NDArray[np.bool_]]]:
    """The pieces of one hole, none longer than `longest`: the pass, top and left, and the cells that are its."""
    top, left, bottom, right = box.tolist()
    num_down, num_across = -(-(bottom - top) // longest), -(-(right - left) // longest)
    downs = np.linspace(top, bottom, num_down + 1).astype(int).tolist()
    acrosses = np.linspace(left, right, num_across + 1).astype(int).tolist()
    for down in range(num_down):
        for across in range(num_across):
            part = labels[downs[down] : downs[down + 1], acrosses[across] : acrosses[across + 1]] == label
            if part.any():
                yield 2 * (down % 2) + across % 2, downs[down], acrosses[across], part


def _window(shape: tuple[int, ...], size: int, factor: int, top: int, left: int, part: NDArray[np.bool_]) -> Window:
    """The window around a piece, moved into the photograph where it would reach beyond."""
    places = []
    for start, length, whole in ((top, part.shape[0], shape[0]), (left, part.shape[1], shape[1])):
        reach = min(size * factor, whole)
        middle = (2 * start + length) * factor // 2
        places.append((min(max(0, middle - reach // 2), whole - reach), reach))
    (first_row, height), (first_column, width) = places
    return Window(first_row, first_column, height, width, factor, top, left, part)


def _halved(cells: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cells of twice the side, of which one counts where any of its four does."""
    height, width = cells.shape
    even = np.pad(cells, ((0, height % 2), (0, width % 2)))
    return even.reshape((height + 1) // 2, 2, (width + 1) // 2, 2).max(axis=(1, 3))
