"""Owns what an image is of: its class, hour, weather and shapes, all drawn from its key."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inpaint.data.synthetic.noise import Array, F, Keys, mix, rgb, uniform

CLASSES: tuple[str, ...] = ("mountain", "lake", "river", "forest", "meadow", "desert", "coast")

# What each class may look like: (lowest, highest), one pair a class in the order of CLASSES.
BY_CLASS: dict[str, tuple[tuple[float, float], ...]] = {
    #             mountain      lake          river         forest        meadow        desert        coast
    "horizon": ((0.52, 0.70), (0.40, 0.58), (0.42, 0.58), (0.44, 0.60), (0.40, 0.62), (0.42, 0.62), (0.38, 0.56)),
    "peaks": ((1.20, 2.30), (0.60, 1.90), (0.50, 1.70), (0.20, 1.40), (0.00, 1.00), (0.00, 0.80), (0.30, 1.30)),
    "hills": ((0.10, 0.30), (0.06, 0.22), (0.06, 0.22), (0.10, 0.30), (0.08, 0.26), (0.12, 0.34), (0.06, 0.20)),
    "level": ((0.05, 0.25), (0.06, 0.12), (0.06, 0.12), (0.08, 0.20), (0.08, 0.20), (0.10, 0.20), (0.03, 0.08)),
    "trees": ((-0.6, 0.30), (-0.4, 0.35), (-0.4, 0.35), (0.30, 0.85), (-0.8, 0.00), (-9.0, -9.0), (-1.0, 0.10)),
    "dry": ((0.00, 0.50), (0.00, 0.40), (0.00, 0.50), (0.00, 0.30), (0.00, 0.70), (1.00, 1.00), (0.10, 0.60)),
    "snowline": ((0.60, 2.40), (0.80, 3.00), (0.80, 3.50), (0.80, 4.00), (1.00, 4.00), (9.00, 9.00), (1.50, 5.00)),
}
# The same for all: plain uniform numbers.
FREE = (
    "class", "hour", "weather", "red", "green", "blue", "behind", "sun_x", "bend", "phase", "middle", "slant", "side",
    "begin", "valley", "shore", "far_shore", "breadth", "stream", "winter", "autumn", "warm", "tree_kind",
    "tree_height", "moon", "clouds", "cirrus", "haze", "mist", "low_mist", "eye", "wind", "flowers", "path",
)  # fmt: skip

# Light by the sine of the sun's height: night, dusk, sunset, golden hour, day.
SUN_KEYS = (-0.30, -0.06, 0.04, 0.20, 0.50)
ZENITH = ((0.010, 0.018, 0.055), (0.04, 0.07, 0.20), (0.08, 0.15, 0.38), (0.09, 0.22, 0.54), (0.07, 0.21, 0.58))
HORIZON = ((0.035, 0.055, 0.115), (0.55, 0.27, 0.20), (0.95, 0.44, 0.17), (0.80, 0.62, 0.42), (0.58, 0.72, 0.86))
SUNLIGHT = ((0.15, 0.19, 0.27), (0.16, 0.11, 0.12), (1.40, 0.58, 0.20), (1.80, 1.22, 0.72), (1.80, 1.66, 1.46))
AMBIENT = ((0.045, 0.062, 0.115), (0.13, 0.13, 0.22), (0.17, 0.18, 0.27), (0.20, 0.25, 0.34), (0.24, 0.31, 0.40))

Scene = dict[str, Array]  # an image's quantities by name: numbers [N], colours and the light's direction [3, N]


def label_of(number: Array) -> NDArray[np.int64]:
    return (number * len(CLASSES)).astype(np.int64)


def _keyed(height: Array, colours: tuple[tuple[float, ...], ...]) -> Array:
    """The colour at the sun's height: [3, N]."""
    colour = np.array(colours[0], F)[:, None] + np.zeros_like(height)
    for low, high, before, after in zip(SUN_KEYS, SUN_KEYS[1:], colours, colours[1:], strict=False):
        t = np.clip((height - F(low)) * F(1 / (high - low)), F(0), F(1))
        colour += t * (np.array(after, F) - np.array(before, F))[:, None]
    return colour


def scene_of(keys: Keys) -> Scene:
    drawn = uniform(keys, 0, len(FREE) + len(BY_CLASS))
    scene: Scene = dict(zip(FREE, drawn, strict=False))
    label = label_of(scene["class"])
    for number, (name, pairs) in enumerate(BY_CLASS.items(), len(FREE)):
        low, high = np.array(pairs, F)[label].T
        scene[name] = low + (high - low) * drawn[number]
    for name in CLASSES:
        scene[name] = (label == CLASSES.index(name)).astype(F)

    hour = scene["hour"]  # 9% night, 9% dawn and dusk, 32% low sun, the rest day
    height = np.where(hour < F(0.09), F(-0.30), F(-0.06) + (hour - F(0.09)) * F(0.8))
    height = np.where(hour > F(0.18), F(0.03) + (hour - F(0.18)) * F(0.58), height)
    height = np.where(hour > F(0.50), F(0.22) + (hour - F(0.50)) * F(1.3), height)
    night = height < F(-0.2)
    weather = scene["weather"]
    overcast = np.where((weather < F(0.2)) & (height > F(0.05)), F(0.5) + F(2.5) * weather, F(0))
    zenith, horizon = _keyed(height, ZENITH), _keyed(height, HORIZON)
    tint = F(0.88) + F(0.24) * np.stack([scene["red"], scene["green"], scene["blue"]])
    grey = (zenith[0] + zenith[1] + zenith[2] + horizon[0] + horizon[1] + horizon[2]) * F(0.21)
    scene["ahead"] = (scene["behind"] < F(0.55)).astype(F)
    low = F(1) / (F(1) + F(30) * height * height) * (F(1) - scene["ahead"]) * ~night
    horizon = mix(horizon, zenith * F(1.5) + horizon * F(0.15), F(0.75) * low)  # opposite a low sun the sky is blue
    scene["zenith"] = mix(zenith * tint, grey * rgb(0.93, 1.0, 1.08), overcast)
    scene["haze_light"] = mix(horizon * tint, grey * rgb(1.12, 1.16, 1.22), overcast)
    scene["veil_light"] = mix(scene["haze_light"], scene["zenith"], F(0.3)) * F(0.95)
    scene["sunlight"] = _keyed(height, SUNLIGHT) * (F(1) - F(0.8) * overcast)
    scene["ambient"] = _keyed(height, AMBIENT) * (F(1) + F(0.9) * overcast)
    scene["overcast"], scene["night"] = overcast, night.astype(F)
    scene["sun_height"] = np.where(night, F(0.22) + F(0.2) * scene["moon"], height)
    scene["sun_x"] = scene["sun_x"] * F(1.1) - F(0.05)

    across = (scene["sun_x"] - F(0.5)) * np.where(scene["ahead"] > 0, F(1.6), F(5))
    up = np.maximum(scene["sun_height"], F(0.10)) * F(1.3)
    away = F(2) * scene["ahead"] - F(1)
    scene["light"] = np.stack([across, up, away]) / np.sqrt(across * across + up * up + F(1))

    cold = (scene["winter"] < F(0.14)) & (scene["desert"] + scene["coast"] == 0)
    scene["winter"] = cold.astype(F)
    scene["autumn"] = (scene["autumn"] < F(0.25)).astype(F)
    scene["conifer"] = (scene["tree_kind"] < F(0.6)).astype(F)
    warm = scene["warm"] * F(0.12)
    scene["sand"] = np.stack([F(0.50) + warm * F(2), F(0.35) + warm * F(0.7), F(0.20) - warm * F(0.4)])
    scene["stone"] = np.stack([F(0.19) + warm, F(0.175) + warm * F(0.6), F(0.165) + warm * F(0.2)])
    petals = np.array([[0.75, 0.58, 0.04], [0.62, 0.06, 0.04], [0.36, 0.20, 0.62], [0.75, 0.72, 0.66]], F).T
    scene["petals"] = petals[:, (scene["warm"] * 4).astype(np.intp)]
    scene["blooming"] = (scene["meadow"] > 0) * (scene["flowers"] < F(0.45)) * (F(1) - scene["winter"])
    scene["path"] = (scene["meadow"] + scene["forest"] + scene["desert"]) * (scene["path"] < F(0.4))
    return scene
