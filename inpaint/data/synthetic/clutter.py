"""Owns what stands about in photographs and the rendered landscapes lack: things before things, and rough surfaces.

Photographs of landscapes have three times the gradients of the rendered ones. Shapes of all sizes that hide one another
have the statistics of natural images (the dead leaves of Lee, Mumford & Huang 2001), and networks learn from them
(Baradad et al. 2021); here they have the colours of the landscape that they stand in. Again only operations that every
machine rounds alike, in an order that the batch does not change; the batch is the last axis.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inpaint.data.synthetic.noise import Array, F, Keys, image_keys, noise, smooth, taps, uniform

MOST_SHAPES = 64
# Of the image's side; sizes between them have the density r^-3, which looks alike at every distance.
SMALLEST, LARGEST = 0.025, 0.7
# Streams of numbers that no landscape draws from.
FIRST_STREAM = 200
# Wavelengths of the textures, as shares of the image's side along x and y: specks, leaves, boulders, blades, layers.
WAVELENGTHS = ((1 / 40, 1 / 40), (1 / 20, 1 / 20), (1 / 9, 1 / 9), (1 / 40, 1 / 9), (1 / 9, 1 / 40))
NUM_PER_SHAPE = 16


def with_clutter(seed: int, indices: NDArray[np.integer], images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`images` [N, size, size, 3] of the set `seed`, each with rough ground and 4 to 64 shapes of its own colours.

    Cost: about five milliseconds an image of 64x64 on one core, in batches of 16 or more; in proportion to its area.
    """
    keys, size = image_keys(seed, indices), images.shape[1]
    cluttered = np.empty_like(images)
    chunk = max(1, 16 * 64 * 64 // (size * size))
    for start in range(0, len(keys), chunk):
        part = slice(start, start + chunk)
        planes = np.ascontiguousarray(images[part].transpose(3, 1, 2, 0)).astype(F)
        cluttered[part] = _cluttered(keys[part], planes, size).transpose(3, 1, 2, 0)
    return cluttered


def is_cluttered(seed: int, indices: NDArray[np.integer], share: float) -> NDArray[np.bool_]:
    """Which images have clutter, where `share` of all do: [N]."""
    return uniform(image_keys(seed, indices), FIRST_STREAM - 1, 1)[0] < share


def _cluttered(keys: Keys, image: Array, size: int) -> NDArray[np.uint8]:
    """Colours [3, rows, columns, N], 0 to 255."""
    textures = _textures(keys, size)
    drawn = uniform(keys, FIRST_STREAM, 8)
    num_shapes = F(4) + F(MOST_SHAPES - 4) * drawn[0] * drawn[0]
    rough = F(0.45) * drawn[1] * drawn[1]
    upright = drawn[2]
    ground = textures[0] * drawn[3] + textures[1] * (F(1) - drawn[3]) + textures[2] * drawn[4]
    # Rough here and smooth there, as are grass and sky.
    ground *= np.clip(textures[5] * F(1.5) + F(0.6), F(0), F(1)) * rough
    painted = image * (F(1) + ground)
    places = (np.arange(size, dtype=F) + F(0.5)) / F(size)
    y, x = places[:, None, None], places[None, :, None]
    who = np.arange(len(keys))
    for number in range(MOST_SHAPES):
        own = uniform(keys, FIRST_STREAM + 1 + number, NUM_PER_SHAPE)
        alpha, across = _outline(own, x, y, upright, textures, size)
        alpha *= number < num_shapes
        row, column = ((place * F(size)).astype(np.intp) for place in own[7:9])
        bright = F(0.35) + F(1.1) * own[9]
        colour = image[:, row, column, who] * bright + F(24) * (own[10] - F(0.5))
        one, other = ((own[place] * F(5)).astype(np.intp) for place in (11, 12))
        grain = textures[one, :, :, who] + textures[other, :, :, who]  # [N, rows, columns]
        shade = np.moveaxis(grain, 0, -1) * (F(0.45) * own[13] * own[13]) + across * (F(0.7) * own[14] - F(0.35))
        painted += (colour[:, None, None] * (F(1) + shade) - painted) * alpha
    contrast, brightness = F(0.75) + F(0.75) * drawn[5], F(90) + F(50) * (drawn[6] - F(0.5))
    painted = F(110) + (painted - brightness) * contrast
    return np.clip(painted + F(0.5), F(0), F(255)).astype(np.uint8)


def _outline(own: Array, x: Array, y: Array, upright: Array, textures: Array, size: int) -> tuple[Array, Array]:
    """The share of each pixel that a shape covers, and where across it that is, about [-1, 1]: [rows, columns, N]."""
    radius = F(1) / np.sqrt(own[0] * F(1 / LARGEST**2) + (F(1) - own[0]) * F(1 / SMALLEST**2))
    thin = F(0.12) + F(0.88) * own[1]
    # A turn from its tangent's half; many things stand upright.
    half = np.where(own[2] < upright * F(0.7), F(0.1), F(1)) * (F(2) * own[3] - F(1))
    whole = F(1) + half * half
    cosine, sine = (F(1) - half * half) / whole, F(2) * half / whole
    dx, dy = x - (F(1.2) * own[4] - F(0.1)), y - (F(1.2) * own[5] - F(0.1))
    across, along = (dx * cosine + dy * sine) / (radius * thin), (dy * cosine - dx * sine) / radius
    kind = own[6]
    round_one = F(1) - np.sqrt(across * across + along * along)
    box = F(1) - np.maximum(np.abs(across), np.abs(along))
    cone = (F(1) - np.maximum(-along, F(0.5) * along + np.abs(across))) * F(0.7)
    inside = np.where(kind < F(0.45), round_one, np.where(kind < F(0.7), box, cone))
    frayed = np.where(own[15] < F(0.6), own[15], F(0))
    inside = inside + textures[1] * frayed * F(0.6)
    return smooth(F(-0.5), F(0.5), inside * (radius * thin * F(size))), across


def _textures(keys: Keys, size: int) -> Array:
    """Noise of each of the wavelengths, and one over half the image that says where it is rough: [6, size, size, N]."""
    places = (np.arange(size) + 0.5) / size
    rows, columns = np.broadcast_to(places[:, None], (size, size)), np.broadcast_to(places, (size, size))
    fields = []
    for number, (across, along) in enumerate((*WAVELENGTHS, (0.5, 0.5))):
        field = noise(keys, FIRST_STREAM + 100 + 2 * number, taps(columns / across, rows / along), size)
        finer = noise(keys, FIRST_STREAM + 101 + 2 * number, taps(columns / across * 2, rows / along * 2), size)
        fields.append(field + F(0.6) * finer)
    return np.stack(fields)
