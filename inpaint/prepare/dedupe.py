"""Owns what counts as the same image: what an image is found by, and the comparison of two that decides.

Found by: the lowest frequencies of the image and of some parts of it (`VIEWS`), so that an image is found again when
it was cropped, cut at a side, brightened, mirrored or given a border: what is left of it looks like one of the parts.
That alone also finds other scenes of the same mood, so `compare` then lays the stored pixels over one another and
correlates their detail, which other scenes do not share.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

# Images are compared at this size.
SIDE_PX = 64
# Parts of the square within the border, [left, top, right, bottom]: the whole, its middle, and it without a strip of
# one side.
VIEWS = (
    (0.0, 0.0, 1.0, 1.0),
    *((edge, edge, 1 - edge, 1 - edge) for edge in (0.025, 0.05, 0.075, 0.1)),
    *((cut, cut / 2, 1.0, 1 - cut / 2) for cut in (0.05, 0.1)),
    *((0.0, cut / 2, 1 - cut, 1 - cut / 2) for cut in (0.05, 0.1)),
    *((cut / 2, cut, 1 - cut / 2, 1.0) for cut in (0.05, 0.1)),
    *((cut / 2, 0.0, 1 - cut / 2, 1 - cut) for cut in (0.05, 0.1)),
)
_ACROSS = tuple(dict.fromkeys((left, right) for left, _, right, _ in VIEWS))
_DOWN = tuple(dict.fromkeys((top, bottom) for _, top, _, bottom in VIEWS))
_AT = tuple(np.array([[_DOWN.index(view[1::2]), _ACROSS.index(view[::2])] for view in VIEWS]).T)

# Cosines a side, up to this order for brightness and to the other for the two differences of colour.
NUM_COSINES, COLOUR_ORDER = 6, 3
_V, _U = np.mgrid[:NUM_COSINES, :NUM_COSINES]
_ORDERS = np.array([NUM_COSINES, COLOUR_ORDER, COLOUR_ORDER]).reshape(3, 1, 1)
_KEPT = (_U + _V > 0) & (_U + _V <= _ORDERS)
# Which numbers of a look change their sign in a mirror.
IS_ODD = np.broadcast_to(_U % 2 == 1, _KEPT.shape)[_KEPT]
# Photographs' frequencies fall with their order; colours say more than their strength.
_WEIGHTS = (np.hypot(_U, _V) * np.array([1.0, 1.5, 1.5]).reshape(3, 1, 1)).astype(np.float32)
_CHANNELS = np.array([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]], np.float32)
LOOK_LENGTH = 127
# Shorter than this, in 8-bit steps, is one colour, and looks like nothing.
FLAT_STEPS = 2.0
# A row is of the border while no value lies further from the border's colour; a border takes at most a fifth.
BORDER_STEPS, BORDER_SHARE = 12, 5

# Correlation of detail from which two images are alike: copies reach .9, other scenes .8. Where there is little
# detail, as between sea and sky, chance reaches more.
ALIKE, ALIKE_IF_SMOOTH, SMOOTH = 0.85, 0.92, 0.6
# A copy, saved anew or resized, lies on the other as it is: so well correlated, and in no eighth by eighth further
# apart in 8-bit steps. With a hundredth cut off at each side, .95 is usual.
COPY, COPY_STEPS = 0.96, 12.0
_COMPARED_PX, _MARGIN_PX = 48, 6


class Likeness(NamedTuple):
    is_alike: bool
    is_copy: bool


def looks(square: NDArray[np.uint8]) -> NDArray[np.int8]:
    """How each of `VIEWS` looks in an RGB square [S, S, 3]: rounded vectors of length `LOOK_LENGTH`, [V, D].

    Zeros where a view is of one colour. Brightness and contrast do not matter.
    """
    small = _at_side(square)
    x, y, side = _content(small)
    across, down = _cosines(_ACROSS, x, side), _cosines(_DOWN, y, side)
    channels = (small.reshape(-1, 3).astype(np.float32) @ _CHANNELS.T).reshape(SIDE_PX, SIDE_PX * 3)
    rows = (down @ channels).reshape(len(down), SIDE_PX, 3).swapaxes(1, 2).reshape(-1, SIDE_PX)
    every = (rows @ across.T).reshape(len(_DOWN), NUM_COSINES, 3, len(_ACROSS), NUM_COSINES)
    found = (every.transpose(0, 3, 2, 1, 4)[_AT] * _WEIGHTS)[:, _KEPT]
    length = np.linalg.norm(found, axis=1, keepdims=True)
    found *= (length >= FLAT_STEPS) * LOOK_LENGTH / np.maximum(length, FLAT_STEPS)
    return np.rint(found).astype(np.int8)


@lru_cache(maxsize=4096)
def _cosines(spans: tuple[tuple[float, float], ...], start: float, side: float) -> NDArray[np.float32]:
    """[len(spans) * NUM_COSINES, SIDE_PX]: what each pixel gives to the means of the lowest cosines over each span.

    A span is in fractions of `side` from `start`, in pixels; pixels that it covers in part count by their share.
    """
    order = np.arange(NUM_COSINES)[:, None]
    found = []
    for first, last in spans:
        edges = np.clip((np.arange(SIDE_PX + 1) - start - first * side) / ((last - first) * side), 0, 1)
        integral = np.where(order == 0, edges, np.sin(np.pi * order * edges) / (np.pi * np.maximum(order, 1)))
        found.append(np.diff(integral, axis=1))
    return np.concatenate(found).astype(np.float32)


def _at_side(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    interpolation = cv2.INTER_AREA if len(square) > SIDE_PX else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (SIDE_PX, SIDE_PX), interpolation=interpolation), np.uint8)


def _content(square: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Left and top corner and side of the largest centred square within a border, such as a white one or black bars."""
    columns = square.swapaxes(0, 1)
    left, right, top, bottom = (_border(rows) for rows in (columns, columns[::-1], square, square[::-1]))
    width, height = len(square) - left - right, len(square) - top - bottom
    side = min(width, height)
    return left + (width - side) / 2, top + (height - side) / 2, side


def _border(rows: NDArray[np.uint8]) -> int:
    colour = rows[0].mean(axis=0)
    for index in range(len(rows) // BORDER_SHARE):
        if np.abs(rows[index] - colour).max() > BORDER_STEPS:
            return index
    return len(rows) // BORDER_SHARE


def compare(one: NDArray[np.uint8], view: int, other: NDArray[np.uint8], is_mirrored: bool) -> Likeness:
    """Whether a view of one RGB square [S, S, 3], by its number, shows what all of another does, perhaps mirrored."""
    one, other = _at_side(one), _at_side(other)
    whole = np.ascontiguousarray(other[:, ::-1]) if is_mirrored else other
    seen = _detail(_part(one, VIEWS[view]))
    best, energy = -1.0, 0.0
    for scale in (0.96, 1.0, 1.04):  # a view is only near to what was cut out
        edge = (scale - 1) / 2
        detail = _detail(_part(whole, (-edge, -edge, 1 + edge, 1 + edge)))
        middle = detail[_MARGIN_PX:-_MARGIN_PX, _MARGIN_PX:-_MARGIN_PX]
        _, value, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(seen, middle, cv2.TM_CCOEFF_NORMED))
        if value > best:
            best = value
            energy = float(min(middle.std(), seen[y : y + len(middle), x : x + len(middle)].std()))
    is_alike = best >= (ALIKE if energy >= SMOOTH else ALIKE_IF_SMOOTH)
    return Likeness(is_alike, is_alike and not is_mirrored and _is_copy(one, other))


def _is_copy(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    first, second = (_detail(cv2.cvtColor(square, cv2.COLOR_RGB2GRAY).astype(np.float32)) for square in (one, other))
    if cv2.matchTemplate(first, second, cv2.TM_CCOEFF_NORMED).item() < COPY:
        return False
    difference = cv2.absdiff(one, other).mean(axis=2, dtype=np.float32)
    return bool(cv2.resize(difference, (8, 8), interpolation=cv2.INTER_AREA).max() <= COPY_STEPS)


def _part(square: NDArray[np.uint8], box: tuple[float, float, float, float]) -> NDArray[np.float32]:
    """The brightness of a part of what lies within the border; beyond the edge the edge goes on."""
    x, y, side = _content(square)
    x, y = x + box[0] * side, y + box[1] * side
    steps = (box[2] - box[0]) * side / _COMPARED_PX, (box[3] - box[1]) * side / _COMPARED_PX
    back = np.array([[steps[0], 0, x + steps[0] / 2 - 0.5], [0, steps[1], y + steps[1] / 2 - 0.5]])
    grey = cv2.cvtColor(square, cv2.COLOR_RGB2GRAY).astype(np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    part = cv2.warpAffine(grey, back, (_COMPARED_PX, _COMPARED_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(part, np.float32)


def _detail(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is a few pixels large, equally strong everywhere: else a horizon would outweigh all else."""
    band = cv2.GaussianBlur(grey, (0, 0), 0.8) - cv2.GaussianBlur(grey, (0, 0), 3)
    return band / (np.sqrt(cv2.GaussianBlur(band * band, (0, 0), 4)) + 2)
