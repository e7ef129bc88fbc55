"""Owns the sky, with sun or moon and clouds, and what water makes of it."""

from __future__ import annotations

import numpy as np

from inpaint.data.synthetic.camera import Camera
from inpaint.data.synthetic.noise import Array, F, Keys, fractal, mix, smooth
from inpaint.data.synthetic.scene import Scene

# What `reflection` reads of a scene.
MIRROR = ("horizon", "wind", "sun_x", "sun_height", "ahead", "overcast", "sunlight")


def sky_of(keys: Keys, scene: Scene, camera: Camera) -> Array:
    """The sky over the whole image, carried on below the horizon: [3, rows, columns, N]."""
    size, sun = camera.size, scene["sunlight"][:, None, None]
    places = (np.arange(size, dtype=F) + F(0.5)) / F(size)
    rows, columns = places[:, None, None], places[None, :, None]
    up = np.maximum(scene["horizon"] - rows, F(0))
    rise = np.minimum(up / (up + F(0.16)) * F(1.25), F(1))
    sky = mix(scene["haze_light"][:, None, None], scene["zenith"][:, None, None], rise)
    dx, dy = columns - scene["sun_x"], rows - (scene["horizon"] - scene["sun_height"])
    near = dx * dx + dy * dy
    seen = scene["ahead"] * (F(1) - np.minimum(scene["overcast"] * F(1.2), F(1)))
    glow = F(0.20) / (F(1) + near * F(14)) + F(0.45) / (F(1) + near * F(260))
    sky = sky + sun * (glow * seen)
    disc = smooth(0.0, 1.0, (F(0.024) - np.sqrt(near)) * F(size) + F(0.5)) * seen * (scene["sun_height"] > 0)
    disc *= smooth(0.02, 0.06, scene["horizon"] - scene["sun_height"])  # or its mirror image runs off the image
    sky += sun * (disc * (F(3) + F(4) * scene["night"]))

    density = fractal(keys, 60, camera.clouds, size, 0.56) * F(0.55)
    streaks = fractal(keys, 75, camera.cirrus, size, 0.6) * F(0.5)
    amount = scene["clouds"] * F(0.95) - F(0.55) + F(0.5) * scene["overcast"]
    cloud = smooth(F(-0.02), F(0.45) + F(0.3) * scene["overcast"], density + amount)
    cirrus = smooth(0.0, 0.9, streaks + scene["cirrus"] * F(0.9) - F(0.55)) * F(0.6)
    step = max(1, size // 32)  # light comes from the sun's side: compare with the density a little towards it
    turn = np.zeros_like(density)
    turn[:, step:] = density[:, step:] - density[:, :-step]
    turn[:, :step] = turn[:, step : step + 1]
    lean = np.where(scene["sun_x"] < F(0.5), F(1.2), F(-1.2))
    relief = np.clip(F(0.62) + turn * lean - density * F(0.45), F(0.15), F(1.1))
    white = scene["sunlight"] * F(0.50) + scene["ambient"] * F(0.55)
    dark = scene["ambient"] * F(0.75) + scene["haze_light"] * F(0.30)
    thin = smooth(0.0, 0.10, up) * F(0.8) + F(0.2)
    sky = mix(sky, white[:, None, None] * F(0.9), cirrus * thin * (F(1) - scene["overcast"]))
    shaded = mix(dark[:, None, None], (white + dark * F(0.2))[:, None, None], relief)
    return mix(sky, shaded, cloud * thin * F(0.92))


def reflection(keys: Keys, scene: Scene, camera: Camera, mirrored: Array, sky: Array) -> Array:
    """What water shows: the mirrored land over the sky turned about the horizon, smeared upright by ripples."""
    size = camera.size
    turned = np.rint(F(2 * size) * scene["horizon"] - np.arange(size, dtype=F)[:, None] - F(1)).astype(np.intp)
    turned = np.take_along_axis(sky, np.clip(turned, 0, size - 1)[None, :, None, :], axis=1)
    image = mirrored[:3] + (F(1) - mirrored[3]) * turned
    smeared = image.copy()
    for reach in (1, 2, 3):
        shift = max(1, reach * size // 64)
        smeared[:, shift:] += image[:, :-shift]
        smeared[:, :shift] += image[:, :1]
        smeared[:, :-shift] += image[:, shift:]
        smeared[:, -shift:] += image[:, -1:]
    image = mix(image, smeared * F(1 / 7), F(0.25) + F(0.75) * scene["wind"])

    ripples = fractal(keys, 90, camera.ripples, size, 0.7)
    image *= F(1) + ripples * (F(0.08) + F(0.16) * scene["wind"])
    aside = ((np.arange(size, dtype=F) + F(0.5)) / F(size))[None, :, None] - scene["sun_x"]
    low = F(1) / (F(1) + F(9) * scene["sun_height"] * scene["sun_height"])
    path = scene["ahead"] * (F(1) - scene["overcast"]) * low / (F(1) + aside * aside * F(90))
    glitter = np.maximum(ripples - F(0.05), F(0)) * path * (scene["sun_height"] > 0) * (F(0.5) + scene["wind"])
    return image + glitter * scene["sunlight"][:, None, None] * F(1.6)
