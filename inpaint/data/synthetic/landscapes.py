"""Owns the embedded landscapes: small rendered photographs, each a function of (seed, index) alone.

A scene is a height field under a sky, seen by one fixed camera: world x to the right, height up, z away from it; water
stands at height 0. The ground is cut into slices of equal z, near to far, and the part of a slice that stands above
all nearer ones is seen. Lengths are relative to the image and noise lives in the world, so the same index at another
size is the same scene.

On the way to a pixel stand only + - * / and the square root, which every machine rounds alike (no sine, no
exponential, no BLAS), in an order that the batch does not change.

Arrays are [slices or rows, columns, N], the batch last. Colours are linear light until `_develop`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inpaint.data.synthetic.camera import camera_of
from inpaint.data.synthetic.ground import SURFACE, ground_of, surface, veil_of
from inpaint.data.synthetic.noise import Array, F, Keys, image_keys, mix, uniform
from inpaint.data.synthetic.scene import CLASSES, label_of, scene_of
from inpaint.data.synthetic.sky import MIRROR, reflection, sky_of

__all__ = ["CLASSES", "labels", "render"]


def render(seed: int, indices: NDArray[np.integer], size: int) -> NDArray[np.uint8]:
    """The images `indices` [N] of the endless set `seed`: [N, size, size, 3], RGB, 0 to 255.

    Raises:
        ValueError: `size` is below 16.

    Cost: two to three milliseconds an image of 64x64 on one core, in batches of 16 or more; in proportion to its area.
    """
    if size < 16:
        raise ValueError(f"size must be at least 16; got {size}")
    keys = image_keys(seed, indices)
    images = np.empty((len(keys), size, size, 3), np.uint8)
    chunk = max(1, 16 * 64 * 64 // (size * size))  # the planes of a chunk stay in the processor's cache
    for start in range(0, len(keys), chunk):
        part = slice(start, start + chunk)
        images[part] = _develop(_image(keys[part], size))
    return images


def labels(seed: int, indices: NDArray[np.integer]) -> NDArray[np.int64]:
    """The class of each image, a position in `CLASSES`: [N]."""
    return label_of(uniform(image_keys(seed, indices), 0, 1)[0])


def _image(keys: Keys, size: int) -> Array:
    """Linear light: [3, rows, columns, N]."""
    camera, scene = camera_of(size), scene_of(keys)
    ground = ground_of(keys, scene, camera)
    z, shape = camera.z, (size, size, len(keys))
    standing = np.maximum(ground.height, F(0))
    eye = F(0.37) + F(0.12) * scene["eye"] + standing[:6].max(axis=(0, 1))  # never inside a hill
    standing += ground.crown
    rows = (scene["horizon"] + (eye - standing) / z) * F(size)
    upper, lower = _visible(rows, size)
    # Water shows the scene as a camera sees it that is as deep below it as ours stands above. Land before the last
    # water in a column is left out, or it would stand in the way of what is mirrored behind it.
    behind = ~np.logical_or.accumulate(((ground.height < 0) & (upper < lower))[::-1], axis=0)[::-1]
    wet = (~behind).any(axis=(0, 1))
    below = F(size) - (scene["horizon"] + (eye + standing) / z) * F(size)
    upper_mirrored, lower_mirrored = _visible(np.where(behind & wet, below, F(size)), size)

    shown = (upper < lower) | (upper_mirrored < lower_mirrored)
    points = np.flatnonzero(shown)
    plane = size * len(keys)
    slices, columns = points // plane, points % plane
    picture = columns % len(keys)
    x, z = np.broadcast_to(camera.x, ground.height.shape).ravel()[points], z[slices, 0, 0]
    at_points = {name: scene[name].take(picture, axis=-1) for name in SURFACE}
    seen = ground.take(points)
    colour, shine = surface(at_points, seen, z)
    veil, haze = veil_of(at_points, z, x, np.maximum(seen.height, F(0)))
    values = np.stack([*mix(colour, haze, veil), shine * (F(1) - veil * F(0.7)), np.ones_like(veil)])
    upper, lower = upper.ravel()[points], lower.ravel()[points]

    # A stroke fades into the slice before it, where both are bare ground: else steep faces would show the slices.
    place = np.zeros(shown.size, np.intp)
    place[points] = np.arange(len(points))
    before = place[points - plane]
    joined = shown.ravel()[points - plane] & (slices > 0) & (seen.crown == 0) & (seen.crown[before] == 0)
    fade = joined / np.maximum(rows.ravel()[points - plane] - upper, F(2))
    slopes = (values[:4].take(before, axis=1) - values[:4]) * fade
    strokes = np.concatenate([values[:4] - slopes * upper, values[4:], slopes])
    *drawn, cover, red, green, blue, gloss = _pile(upper, lower, strokes, columns, shape)
    down = (np.arange(size, dtype=F) + F(0.5))[:, None, None]
    *land, mirror = (flat + slope * down for flat, slope in zip(drawn, (red, green, blue, gloss), strict=True))

    sky = sky_of(keys, scene, camera)
    image = np.stack(land) + (F(1) - cover) * sky
    if wet.any():
        upper, lower = upper_mirrored.ravel()[points], lower_mirrored.ravel()[points]
        lit = np.flatnonzero(upper < lower)
        turned = _pile(upper[lit], lower[lit], values[:, lit][[0, 1, 2, 4]], columns[lit], shape)[:, ::-1]
        part = {name: scene[name][..., wet] for name in MIRROR}
        image[..., wet] += mirror[..., wet] * reflection(keys[wet], part, camera, turned[..., wet], sky[..., wet])
    return image


def _visible(rows: Array, size: int) -> tuple[Array, Array]:
    """Between which rows (px, not whole) each slice shows above all nearer ones, where its upper edge is at `rows`."""
    upper = np.clip(np.minimum.accumulate(rows, axis=0), F(0), F(size))
    lower = np.concatenate([np.full_like(upper[:1], size), upper[:-1]])
    return upper, lower


def _pile(upper: Array, lower: Array, values: Array, columns: NDArray[np.intp], shape: tuple[int, ...]) -> Array:
    """Draw points as upright strokes between two rows; a pixel that a stroke's end crosses takes its share of it.

    Args:
        upper, lower: [points] rows; values: [channels, points]; columns: [points], flat positions in `shape[1:]`.

    Returns:
        [channels, *shape]: float32.
    """
    size, plane = shape[0], shape[1] * shape[2]
    picture = np.empty((len(values), *shape), F)
    ends = []
    for rows in (upper, lower):
        whole = np.floor(rows)
        ends.append((whole.astype(np.intp) * plane + columns, rows - whole))
    for channel, value in enumerate(values):
        steps, parts = (
            np.bincount(ends[0][0], first, (size + 1) * plane) - np.bincount(ends[1][0], second, (size + 1) * plane)
            for first, second in ((value, value), (value * ends[0][1], value * ends[1][1]))
        )
        steps, parts = steps.reshape(size + 1, *shape[1:]), parts.reshape(size + 1, *shape[1:])
        for row in range(size):
            if row:
                steps[row] += steps[row - 1]
            np.subtract(steps[row], parts[row], out=picture[channel, row], casting="same_kind")
    return picture


def _develop(light: Array) -> NDArray[np.uint8]:
    """Expose and encode linear light [3, rows, columns, N] as a photograph: [N, rows, columns, 3]."""
    light = np.maximum(light, F(0))
    light = light * (F(1) + light * F(0.25)) / (F(1) + light * F(0.62))
    encoded = np.minimum(np.sqrt(light), F(1))
    encoded += (encoded * encoded * (F(3) - F(2) * encoded) - encoded) * F(0.4)  # deeper shadows, brighter lights
    encoded = encoded * F(255) + F(0.5)
    return np.ascontiguousarray(encoded.astype(np.uint8).transpose(3, 1, 2, 0))
