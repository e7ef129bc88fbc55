"""Owns the embedded landscapes: small rendered photographs, each a function of (seed, index) alone.

A scene is a height field under a sky, seen by one fixed camera: world x to the right, height up, z away from it; water
stands at height 0. The ground is cut into slices of equal z, near to far, and the part of a slice that stands above
all nearer ones is seen. Lengths are relative to the picture and noise lives in the world, so the same index at another
size is the same scene.

On the way to a pixel stand only + - * / and the square root, which every machine rounds alike (no sine, no
exponential, no BLAS), in an order that the batch does not change.

Arrays are [slices or rows, columns, N], the batch last. Colours are linear light until `_develop`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from inpaint.data.noise import Array, Keys, Taps, noise, picture_keys, taps, uniform

CLASSES: tuple[str, ...] = ("mountain", "lake", "river", "forest", "meadow", "desert", "coast")

F = np.float32
ROTATIONS = ((0.8, 0.6), (0.96, -0.28), (0.6, 0.8), (0.28, -0.96), (0.936, 0.352))  # of the octaves: c^2 + s^2 = 1
NEAR, FAR = 0.6, 45.0
NUM_TREE_ROWS = 16

# What each class may look like: (lowest, highest), one pair a class in the order of CLASSES.
BY_CLASS: dict[str, tuple[tuple[float, float], ...]] = {
    #             mountain      lake          river         forest        meadow        desert        coast
    "horizon": ((0.52, 0.70), (0.40, 0.58), (0.42, 0.58), (0.44, 0.60), (0.40, 0.62), (0.42, 0.62), (0.38, 0.56)),
    "peaks": ((1.00, 2.00), (0.60, 1.80), (0.50, 1.60), (0.20, 1.40), (0.00, 1.00), (0.00, 0.80), (0.30, 1.30)),
    "hills": ((0.10, 0.30), (0.06, 0.22), (0.06, 0.22), (0.10, 0.30), (0.08, 0.26), (0.12, 0.34), (0.06, 0.20)),
    "level": ((0.05, 0.25), (0.06, 0.12), (0.06, 0.12), (0.08, 0.20), (0.08, 0.20), (0.10, 0.20), (0.03, 0.08)),
    "trees": ((-0.6, 0.30), (-0.4, 0.35), (-0.4, 0.35), (0.30, 0.85), (-0.8, 0.00), (-9.0, -9.0), (-1.0, 0.10)),
    "dry": ((0.00, 0.50), (0.00, 0.40), (0.00, 0.50), (0.00, 0.30), (0.00, 0.70), (1.00, 1.00), (0.10, 0.60)),
    "snowline": ((0.60, 2.40), (0.80, 3.00), (0.80, 3.50), (0.80, 4.00), (1.00, 4.00), (9.00, 9.00), (1.50, 5.00)),
}
# The same for all: plain uniform numbers, used under their names.
FREE = (
    "class", "hour", "weather", "red", "green", "blue", "behind", "sun_x", "bend", "phase", "middle", "slant", "side",
    "begin", "valley", "shore", "far_shore", "breadth", "stream", "winter", "autumn", "warm", "tree_kind", "tree_height",
    "moon", "clouds", "cirrus", "haze", "mist", "low_mist", "eye", "wind", "flowers", "path",
)  # fmt: skip

# Light by the sine of the sun's height: night, dusk, sunset, golden hour, day.
SUN_KEYS = (-0.30, -0.06, 0.04, 0.20, 0.50)
ZENITH = ((0.010, 0.018, 0.055), (0.04, 0.07, 0.20), (0.08, 0.15, 0.38), (0.09, 0.22, 0.54), (0.07, 0.21, 0.58))
HORIZON = ((0.035, 0.055, 0.115), (0.55, 0.27, 0.20), (0.95, 0.44, 0.17), (0.80, 0.62, 0.42), (0.58, 0.72, 0.86))
SUNLIGHT = ((0.15, 0.19, 0.27), (0.16, 0.11, 0.12), (1.40, 0.58, 0.20), (1.80, 1.22, 0.72), (1.80, 1.66, 1.46))
AMBIENT = ((0.045, 0.062, 0.115), (0.13, 0.13, 0.22), (0.17, 0.18, 0.27), (0.20, 0.25, 0.34), (0.24, 0.31, 0.40))

Scene = dict[str, Array]  # a picture's quantities by name: numbers [N], colours and the light's direction [3, N]


def render(seed: int, indices: NDArray[np.integer], size: int) -> NDArray[np.uint8]:
    """The pictures `indices` [N] of the endless set `seed`: [N, size, size, 3], RGB, 0 to 255.

    Raises:
        ValueError: `size` is below 16.

    Cost: about TIME a picture of 64x64 on one core, in batches of 16 or more.
    """
    if size < 16:
        raise ValueError(f"size must be at least 16; got {size}")
    keys = picture_keys(seed, indices)
    pictures = np.empty((len(keys), size, size, 3), np.uint8)
    chunk = max(1, 16 * 64 * 64 // (size * size))  # the planes of a chunk stay in the processor's cache
    for start in range(0, len(keys), chunk):
        part = slice(start, start + chunk)
        pictures[part] = _develop(_picture(keys[part], size))
    return pictures


def labels(seed: int, indices: NDArray[np.integer]) -> NDArray[np.int64]:
    """The class of each picture, a position in `CLASSES`: [N]."""
    return _label(uniform(picture_keys(seed, indices), 0, 1)[0])


def _label(number: Array) -> NDArray[np.int64]:
    return (number * len(CLASSES)).astype(np.int64)


# --- Small tools ----------------------------------------------------------------------------------------------------


def _smooth(low: Array | float, high: Array | float, value: Array) -> Array:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - np.asarray(low, F)) * (F(1) / (np.asarray(high, F) - np.asarray(low, F))), F(0), F(1))
    return t * t * (F(3) - F(2) * t)


def _wave(phase: Array) -> Array:
    """A sine of period 1 drawn with parabolas, in [-1, 1]."""
    half = F(2) * (phase - np.floor(phase)) - F(1)
    return F(4) * half * (np.abs(half) - F(1))


def _mix(colour: Array, other: Array, amount: Array) -> Array:
    mixed = (other - colour) * amount
    mixed += colour
    return mixed


def _rgb(*colour: float) -> Array:
    return np.array(colour, F)[:, None]


# --- The camera: what all pictures of one size share ----------------------------------------------------------------


@dataclass(frozen=True)
class Octave:
    wavelength: float
    num_slices: int  # the nearest slices, in which this wavelength is wider than two pixels
    taps: Taps
    weight: Array  # [num_slices, 1, 1]: fades out towards two pixels
    crags: Array  # the same for peaks, weaker where slices are too far apart to follow them
    texture: Array  # the same for patterns some pixels wide
    patches: Array  # the same for patterns a third of the picture wide


@dataclass(frozen=True)
class Camera:
    size: int
    z: Array  # [slices, 1, 1], near to far
    x: Array  # [slices, columns, 1]
    tree_rows: NDArray[np.intp]  # the slices on which trees stand, at the same z whatever the size
    octaves: tuple[Octave, ...]
    clouds: tuple[Taps, ...]
    cirrus: tuple[Taps, ...]
    ripples: tuple[Taps, ...]


def _ramp(low: float, high: float, value: NDArray[np.float64]) -> NDArray[np.float64]:
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _distances(num: int, near: float, far: float) -> NDArray[np.float64]:
    """z of `num` slices, denser near the camera, where a slice is rows high."""
    root = np.linspace(np.sqrt(np.sqrt(1 / near)), np.sqrt(np.sqrt(1 / far)), num)
    return 1 / (root * root * root * root)


@lru_cache(maxsize=2)
def _camera(size: int) -> Camera:
    trees = _distances(NUM_TREE_ROWS, 1.2, 14.0)
    z = np.concatenate(
        [_distances(min(size, 256) * 5 // 8 + 28, NEAR, FAR), trees, trees * 0.998]
    )  # crown, and its lower half
    order = np.argsort(z, kind="stable")
    z = z[order]
    columns = (np.arange(size) + 0.5) / size - 0.5
    x = z[:, None] * columns
    octaves = []
    for number in range(30):
        wavelength = 16.0 / 2**number
        if wavelength * size < 2.5 * NEAR:
            break
        pixels, at_64 = wavelength * size / z, wavelength * 64 / z
        near = slice(int(np.searchsorted(z, wavelength * size / 2)))
        cosine, sine = ROTATIONS[number % len(ROTATIONS)]
        u = (x[near] * cosine - z[near, None] * sine) / wavelength + 0.37 * number
        v = (x[near] * sine + z[near, None] * cosine) / wavelength + 0.71 * number
        visible = _ramp(2, 4, pixels)
        texture = visible * (1 - _ramp(8, 20, at_64)) * np.minimum(1, at_64 / 4)
        patches = _ramp(12, 24, at_64) * (1 - _ramp(48, 96, at_64))
        crags = visible * (0.35 + 0.65 * _ramp(2, 16, wavelength / z * 64))
        weights = (weight[near, None, None].astype(F) for weight in (visible, crags, texture, patches))
        octaves.append(Octave(wavelength, near.stop, taps(u, v), *weights))

    rows = (np.arange(size)[:, None] + 0.5) / size
    num_fine = max(0, size.bit_length() - 7)
    depth = 1 / (0.14 + np.maximum(0.8 - rows, 0))
    clouds, cirrus, ripples = [], [], []
    for number in range(5 + num_fine):
        cosine, sine = ROTATIONS[number % len(ROTATIONS)]
        across, along = columns * depth * 1.1 * 2**number, np.broadcast_to(depth * 1.76 * 2**number, (size, size))
        clouds.append(taps(across * cosine - along * sine, across * sine + along * cosine))
    for number in range(3 + num_fine):
        across, along = columns * depth * 2**number, np.broadcast_to(depth * 2**number, (size, size))
        cirrus.append(taps(across + along * 0.9, along * 4.6))
    depth = 1 / (0.08 + np.maximum(rows - 0.4, 0))
    for number in range(2 + num_fine):
        across, along = columns * depth * 2**number, np.broadcast_to(depth * 2**number, (size, size))
        ripples.append(taps(across * 3.0 + along * 0.4, along * 7.0 + across * 0.2))
    return Camera(
        size, z[:, None, None].astype(F), x[:, :, None].astype(F), np.flatnonzero(order >= len(z) - 2 * NUM_TREE_ROWS),
        tuple(octaves), tuple(clouds), tuple(cirrus), tuple(ripples),
    )  # fmt: skip


# --- The scene: what one picture is of ------------------------------------------------------------------------------


def _keyed(height: Array, colours: tuple[tuple[float, ...], ...]) -> Array:
    """The colour at the sun's height: [3, N]."""
    colour = np.array(colours[0], F)[:, None] + np.zeros_like(height)
    for low, high, before, after in zip(SUN_KEYS, SUN_KEYS[1:], colours, colours[1:], strict=False):
        t = np.clip((height - F(low)) * F(1 / (high - low)), F(0), F(1))
        colour += t * (np.array(after, F) - np.array(before, F))[:, None]
    return colour


def _scene(keys: Keys) -> Scene:
    drawn = uniform(keys, 0, len(FREE) + len(BY_CLASS))
    scene: Scene = dict(zip(FREE, drawn, strict=False))
    label = _label(scene["class"])
    for number, (name, pairs) in enumerate(BY_CLASS.items(), len(FREE)):
        low, high = np.array(pairs, F)[label].T
        scene[name] = low + (high - low) * drawn[number]
    for name in CLASSES:
        scene[name] = (label == CLASSES.index(name)).astype(F)

    hour = scene["hour"]  # 11% night, 11% dawn and dusk, 28% low sun, the rest day
    height = np.where(hour < F(0.11), F(-0.30), F(-0.06) + (hour - F(0.11)) * F(0.6))
    height = np.where(hour > F(0.22), F(0.03) + (hour - F(0.22)) * F(0.65), height)
    height = np.where(hour > F(0.50), F(0.22) + (hour - F(0.50)) * F(1.3), height)
    night = height < F(-0.2)
    weather = scene["weather"]
    overcast = np.where((weather < F(0.2)) & ~night, F(0.5) + F(2.5) * weather, F(0))
    zenith, horizon = _keyed(height, ZENITH), _keyed(height, HORIZON)
    tint = F(0.88) + F(0.24) * np.stack([scene["red"], scene["green"], scene["blue"]])
    grey = (zenith[0] + zenith[1] + zenith[2] + horizon[0] + horizon[1] + horizon[2]) * F(0.21)
    scene["ahead"] = (scene["behind"] < F(0.55)).astype(F)
    low = F(1) / (F(1) + F(30) * height * height) * (F(1) - scene["ahead"]) * ~night
    horizon = _mix(horizon, zenith * F(1.5) + horizon * F(0.15), F(0.75) * low)  # opposite a low sun the sky is blue
    scene["zenith"] = _mix(zenith * tint, grey * _rgb(0.93, 1.0, 1.08), overcast)
    scene["haze_light"] = _mix(horizon * tint, grey * _rgb(1.12, 1.16, 1.22), overcast)
    scene["veil_light"] = _mix(scene["haze_light"], scene["zenith"], F(0.3)) * F(0.95)
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


# --- Ground: its height, and what it looks like ---------------------------------------------------------------------


@dataclass(frozen=True)
class Ground:
    """[slices, columns, N] each, or [points] of them."""

    height: Array  # below 0 the bed of water
    off: Array  # distance in x from the river, path or shore
    texture: Array  # noise some pixels wide, about [-1, 1]
    patches: Array  # noise a third of the picture wide
    across: Array  # slope along x
    away: Array  # slope along z
    crown: Array  # height of a tree above the ground, 0 for none
    lit: Array  # how far a crown's surface turns to the right, about [-1, 1]; one half less in its lower half

    def take(self, points: NDArray[np.intp]) -> Ground:
        return Ground(*(value.ravel()[points] for value in vars(self).values()))


def _ground(keys: Keys, scene: Scene, camera: Camera) -> Ground:
    z = camera.z
    shape = (len(z), camera.size, len(keys))
    rolling, crags, texture, patches = (np.zeros(shape, F) for _ in range(4))
    far = int(np.searchsorted(z[:, 0, 0], 2.5))  # no peak stands nearer
    rough = np.ones((len(z) - far, *shape[1:]), F)
    for number, octave in enumerate(camera.octaves):
        wave = noise(keys, 1 + number, octave.taps, camera.size)
        crest = F(0.45) - F(1.3) * np.abs(wave)
        for total, weight in ((texture, octave.texture), (patches, octave.patches)):
            used = np.flatnonzero(weight)
            if len(used):
                part = slice(used[0], used[-1] + 1)
                total[part] += weight[part] * wave[part]
        scale = octave.weight * F(octave.wavelength)
        if octave.wavelength <= 8:
            dune = scene["desert"] * F(1.0 if octave.wavelength > 1 else 0.15)
            rolling[: octave.num_slices] += (wave + (crest * F(1.3) - wave) * dune) * scale
        if octave.num_slices > far:
            steep = crest[far:] * rough[: octave.num_slices - far]
            crags[far : octave.num_slices] += steep * (octave.crags[far:] * F(octave.wavelength))
            if number < 4:
                rough[: octave.num_slices - far] = np.clip(F(0.7) + crest[far:], F(0.15), F(1))

    height, off = _relief(scene, camera, rolling, crags)
    across, away = _slopes(height, camera)
    crown, lit = np.zeros(shape, F), np.zeros(shape, F)
    crown[camera.tree_rows], lit[camera.tree_rows] = _trees(keys, scene, camera, height, patches)
    return Ground(height, off, texture, patches, across, away, crown, lit)


def _relief(scene: Scene, camera: Camera, rolling: Array, crags: Array) -> tuple[Array, Array]:
    """The height of the ground, and the distance from the line the picture is composed along."""
    z = camera.z
    lake, river, coast, level = scene["lake"], scene["river"], scene["coast"], scene["level"]
    bend = _wave(z * (F(0.08) + F(0.12) * scene["bend"]) + scene["phase"]) * (F(0.25) + F(0.18) * z)
    slant = coast * z * (scene["slant"] - F(0.5)) * F(0.9)
    off = camera.x - ((scene["middle"] - F(0.5)) * F(1.2) + bend * (F(1) - coast) + slant)
    squared = off * off
    land = np.where(scene["side"] < F(0.5), F(-1), F(1)) * off
    height = level + scene["hills"] * F(0.5) * rolling * (z / (z + F(2)))
    begin = F(4.2) + F(6) * scene["begin"]
    valley = F(1) - (F(0.4) + F(0.45) * river) / (F(1) + squared / (F(5) + F(14) * scene["valley"]))
    coastal = F(1) + coast * (_smooth(-1.0, 4.0, land) - F(1))
    massif = scene["peaks"] * _smooth(begin, begin * F(2.8), z)
    height = np.maximum(height, F(0.025))  # water stands only where the scene has some
    height += massif * valley * coastal * np.maximum(F(1.15) + F(0.27) * crags, F(0))

    shore, far_shore = F(0.4) + F(1.6) * scene["shore"] * scene["shore"], F(5) + F(9) * scene["far_shore"]
    basin = _smooth(shore, shore * F(1.7), z) * (F(1) - _smooth(far_shore, far_shore * F(1.3), z))
    wide = squared / (F(3) + F(40) * scene["breadth"])
    height -= lake * (level + F(0.30)) * basin / (F(1) + wide * wide)
    height -= river * (level + F(0.10)) * F(1.9) / (F(1) + squared / (F(0.04) + F(0.25) * scene["stream"]))
    height -= coast * (level + F(0.4)) * (F(1) - _smooth(-0.9, 0.7, land))
    return height, off


def _slopes(height: Array, camera: Camera) -> tuple[Array, Array]:
    """The height's derivatives along x and z. A column is a ray, so its x moves with z."""
    across = np.empty_like(height)
    across[:, 1:-1] = height[:, 2:] - height[:, :-2]
    across[:, :1], across[:, -1:] = (height[:, 1:2] - height[:, :1]) * 2, (height[:, -1:] - height[:, -2:-1]) * 2
    across *= F(camera.size / 2) / camera.z
    away = np.empty_like(height)
    away[:-1] = (height[1:] - height[:-1]) / (camera.z[1:] - camera.z[:-1])
    away[-1] = away[-2]
    away -= across * (camera.x / camera.z)
    return across, away


def _trees(keys: Keys, scene: Scene, camera: Camera, height: Array, patches: Array) -> tuple[Array, Array]:
    """`Ground.crown` and `Ground.lit` on the tree rows: a tree in each cell of a row, jittered, where woods are.

    Conifers are saw-toothed cones, the others clustered domes. Each row comes twice: the lower half of the crowns,
    darker and jagged, stands just before the whole, so that a crown has light and shade.
    """
    rows = camera.tree_rows
    z, conifer = camera.z[rows, :, 0], scene["conifer"]
    tables = uniform(keys, 40, 3 * 2048).reshape(3, 2048, -1)
    shift = (np.arange(len(rows)) // 2 * 149)[:, None]
    whole = (np.arange(len(rows)) % 2).astype(F)[:, None, None]
    stand = _smooth(0.05, 0.13, scene["trees"] + patches[rows] * F(0.9))
    stand *= _smooth(0.03, 0.07, height[rows]) * (F(1) - _smooth(0.7, 1.2, height[rows]))
    tall = stand * (F(0.27) + F(0.20) * scene["tree_height"])
    crown, lit = np.zeros_like(tall), np.zeros_like(tall)
    for sample in (-0.25, 0.25):  # the mean over a pixel's width softens the edges
        place = (camera.x[rows, :, 0] + z * F(sample / camera.size)) * F(1 / 0.15)
        first = np.floor(place).astype(np.intp)
        best, side = np.zeros_like(tall), np.zeros_like(tall)
        for neighbour in (-1, 0, 1):
            index = (first + neighbour + shift) % 2048
            size, jitter, tone = (table.take(index.ravel(), axis=0).reshape(tall.shape) for table in tables)
            centre = (first + neighbour).astype(F)[:, :, None] + F(0.1) + F(0.8) * jitter
            away = (place[:, :, None] - centre) / (F(0.62) - F(0.10) * conifer + F(0.25) * size)
            dist = np.minimum(np.abs(away), F(1))
            teeth = dist * (F(4) + F(2) * tone)
            teeth = (teeth - np.floor(teeth)) * (F(1) - dist)
            leafy = _wave(away * F(1.7) + tone) * F(0.10) + _wave(away * F(3.9) + jitter) * F(0.06)
            cone = F(1) - dist + teeth * F(0.12)
            dome = np.sqrt(F(1) - dist * dist) * (F(0.72) + leafy)
            profile = (conifer * cone + (F(1) - conifer) * dome) * (F(0.40) + F(0.75) * size * size)
            lower = profile * (F(0.50) + F(0.25) * tone) + teeth * F(0.10) - F(0.05)
            profile = lower + (profile - lower) * whole
            higher = profile > best
            best = np.where(higher, profile, best)
            side = np.where(higher, away + (tone - F(0.5)) * F(0.8), side)
        crown += best * F(0.5)
        lit += (side + (whole - F(1)) * F(0.5)) * F(0.5)
    return crown * tall, lit


def _surface(scene: Scene, ground: Ground, z: Array) -> tuple[Array, Array]:
    """What points of the ground send to the camera, before haze [3, points], and how much of each is a mirror."""
    height, texture, patches, light = ground.height, ground.texture, ground.patches, scene["light"]
    desert, sunlight, ambient = scene["desert"], scene["sunlight"], scene["ambient"]
    steep = ground.across * ground.across + ground.away * ground.away
    upright = F(1) / np.sqrt(F(1) + steep)
    lit = np.maximum((light[1] - ground.across * light[0] - ground.away * light[2]) * upright, F(0))

    dry = np.clip(scene["dry"] + F(0.6) * patches, F(0), F(1))
    albedo = _mix(_rgb(0.10, 0.20, 0.045), _rgb(0.36, 0.29, 0.12), dry)
    bloom = scene["blooming"] * _smooth(0.0, 0.6, texture * F(0.7) + patches + F(0.1)) * F(0.8)
    albedo = _mix(albedo, scene["petals"], bloom)
    worn = scene["path"] * (F(1) - _smooth(0.06, 0.10, np.abs(ground.off) + F(0.02) * texture)) * F(0.75)
    albedo = _mix(albedo, _rgb(0.34, 0.27, 0.19), worn)
    beach = F(1) - _smooth(0.01, 0.05, height + F(0.01) * texture)
    albedo = _mix(albedo, scene["sand"], np.maximum(desert * (F(1) - worn * F(0.3)), beach))
    wood = _smooth(-0.15, 0.15, scene["trees"] + patches * F(0.9) + texture * F(0.15)) * _smooth(0.02, 0.06, height)
    wood *= (F(1) - _smooth(0.8, 1.3, height)) * _smooth(3.0, 9.0, z)
    albedo = _mix(albedo, _mix(_rgb(0.028, 0.065, 0.026), _rgb(0.20, 0.09, 0.02), scene["autumn"] * F(0.7)), wood)
    rock = _smooth(0.25, 0.9, steep + F(0.3) * texture + F(0.25) * height - desert * F(0.5)) * F(0.9)
    albedo = _mix(albedo, scene["stone"], rock)
    cover = height + F(0.35) * patches + F(0.15) * texture - F(0.30) * steep - scene["snowline"]
    blanket = scene["winter"] * _smooth(-0.75, -0.35, -steep) * _smooth(0.0, 0.03, height)
    snow = np.maximum(_smooth(0.0, 0.5, cover), blanket)
    albedo = _mix(albedo, _rgb(0.80, 0.84, 0.90), snow)
    grain = F(1) + texture * (F(0.32) - F(0.20) * snow - F(0.17) * desert)
    colour = albedo * (sunlight * (lit * grain) + ambient * (upright * grain))

    tree = _smooth(0.0, 0.01, ground.crown)
    turned = _mix(_rgb(0.030, 0.062, 0.024), _rgb(0.26, 0.10, 0.02), F(0.6) + F(0.4) * ground.lit)
    autumn = scene["autumn"] * (F(1) - F(0.85) * scene["conifer"])
    leaves = _mix(_rgb(0.030, 0.062, 0.024), turned, autumn)
    bright = F(0.50) + ground.lit * (light[0] * F(0.6) + F(0.35)) - F(0.35) * light[2] + F(0.3) * light[1]
    bright = np.clip(bright + F(0.25) * texture, F(0.05), F(1.3))
    leaves = _mix(leaves, _rgb(0.70, 0.74, 0.80), scene["winter"] * bright * F(0.12))
    colour = _mix(colour, leaves * (sunlight * bright + ambient * (F(0.6) + F(0.5) * bright)), tree)

    water = _smooth(-0.004, 0.004, -height)
    shallow = F(1) / (F(1) + height * height * F(400))
    above = ambient + sunlight * light[1]
    under = _mix(_rgb(0.010, 0.040, 0.060), _rgb(0.06, 0.13, 0.11), shallow) * above
    breaker = F(0.014) - np.abs(height + F(0.02) + F(0.012) * patches)
    surf = _smooth(0.0, 0.02, breaker) * scene["coast"] * np.clip(F(0.7) + F(0.5) * texture, F(0), F(1))
    under = _mix(under, np.minimum(above, F(1.5)) * F(0.75), surf)
    mirror = water * (F(1) - surf) * (F(1) - tree) * z / (z + F(0.4))
    return _mix(colour, under, water * (F(1) - tree)), mirror


def _veil(scene: Scene, z: Array, x: Array, height: Array) -> tuple[Array, Array]:
    """How much haze stands before points of the ground, and its colour [3, points], warmer towards the sun."""
    clear, misty = F(0.005) + F(0.020) * scene["haze"], F(0.03) + F(0.35) * scene["haze"] * scene["haze"]
    thick = z * np.where(scene["mist"] < F(0.13), misty, clear)
    thick += thick * thick * F(0.5)
    pool = np.maximum(z - F(3), F(0)) / (F(1) + height * height * F(12))
    thick += np.where(scene["low_mist"] < F(0.22), F(0.10), F(0)) * pool
    aside = x / z - scene["sun_x"] + F(0.5)
    glow = scene["ahead"] * (F(1) - scene["overcast"]) * F(0.18) / (F(1) + aside * aside * F(14))
    return F(1) - F(1) / (F(1) + thick), scene["veil_light"] + scene["sunlight"] * glow


# --- Sky ------------------------------------------------------------------------------------------------------------


def _fractal(keys: Keys, stream: int, octaves: tuple[Taps, ...], size: int, falloff: float) -> Array:
    total = noise(keys, stream, octaves[0], size)
    for number, at in enumerate(octaves[1:], 1):
        total += noise(keys, stream + number, at, size) * F(falloff**number)
    return total


def _sky(keys: Keys, scene: Scene, camera: Camera) -> Array:
    """The sky over the whole picture, carried on below the horizon: [3, rows, columns, N]."""
    size, sun = camera.size, scene["sunlight"][:, None, None]
    places = (np.arange(size, dtype=F) + F(0.5)) / F(size)
    rows, columns = places[:, None, None], places[None, :, None]
    up = np.maximum(scene["horizon"] - rows, F(0))
    rise = np.minimum(up / (up + F(0.16)) * F(1.25), F(1))
    sky = _mix(scene["haze_light"][:, None, None], scene["zenith"][:, None, None], rise)
    dx, dy = columns - scene["sun_x"], rows - (scene["horizon"] - scene["sun_height"])
    near = dx * dx + dy * dy
    seen = scene["ahead"] * (F(1) - np.minimum(scene["overcast"] * F(1.2), F(1)))
    glow = F(0.20) / (F(1) + near * F(14)) + F(0.45) / (F(1) + near * F(260))
    sky = sky + sun * (glow * seen)
    disc = _smooth(0.0, 1.0, (F(0.024) - np.sqrt(near)) * F(size) + F(0.5)) * seen * (scene["sun_height"] > 0)
    disc *= _smooth(0.02, 0.06, scene["horizon"] - scene["sun_height"])  # or its mirror image runs off the picture
    sky += sun * (disc * (F(3) + F(4) * scene["night"]))

    density = _fractal(keys, 60, camera.clouds, size, 0.56) * F(0.55)
    streaks = _fractal(keys, 75, camera.cirrus, size, 0.6) * F(0.5)
    amount = scene["clouds"] * F(0.95) - F(0.55) + F(0.5) * scene["overcast"]
    cloud = _smooth(F(-0.02), F(0.45) + F(0.3) * scene["overcast"], density + amount)
    cirrus = _smooth(0.0, 0.9, streaks + scene["cirrus"] * F(0.9) - F(0.55)) * F(0.6)
    step = max(1, size // 32)  # light comes from the sun's side: compare with the density a little towards it
    turn = np.zeros_like(density)
    turn[:, step:] = density[:, step:] - density[:, :-step]
    turn[:, :step] = turn[:, step : step + 1]
    lean = np.where(scene["sun_x"] < F(0.5), F(1.2), F(-1.2))
    relief = np.clip(F(0.62) + turn * lean - density * F(0.45), F(0.15), F(1.1))
    white = scene["sunlight"] * F(0.50) + scene["ambient"] * F(0.55)
    dark = scene["ambient"] * F(0.75) + scene["haze_light"] * F(0.30)
    thin = _smooth(0.0, 0.10, up) * F(0.8) + F(0.2)
    sky = _mix(sky, white[:, None, None] * F(0.9), cirrus * thin * (F(1) - scene["overcast"]))
    shaded = _mix(dark[:, None, None], (white + dark * F(0.2))[:, None, None], relief)
    return _mix(sky, shaded, cloud * thin * F(0.92))


# --- The picture ----------------------------------------------------------------------------------------------------


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


def _picture(keys: Keys, size: int) -> Array:
    """Linear light: [3, rows, columns, N]."""
    camera, scene = _camera(size), _scene(keys)
    ground = _ground(keys, scene, camera)
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
    colour, mirror = _surface(at_points, seen, z)
    veil, haze = _veil(at_points, z, x, np.maximum(seen.height, F(0)))
    values = np.stack([*_mix(colour, haze, veil), mirror * (F(1) - veil * F(0.7)), np.ones_like(veil)])
    upper, lower = upper.ravel()[points], lower.ravel()[points]

    # A stroke fades into the slice before it, where both are bare ground: else steep faces would show the slices.
    place = np.zeros(shown.size, np.intp)
    place[points] = np.arange(len(points))
    before = place[points - plane]
    joined = shown.ravel()[points - plane] & (slices > 0) & (seen.crown == 0) & (seen.crown[before] == 0)
    fade = joined / np.maximum(rows.ravel()[points - plane] - upper, F(2))
    slopes = (values[:4].take(before, axis=1) - values[:4]) * fade
    drawn = _pile(upper, lower, np.concatenate([values[:4] - slopes * upper, values[4:], slopes]), columns, shape)
    drawn[:4] += drawn[5:] * (np.arange(size, dtype=F) + F(0.5))[:, None, None]
    sky = _sky(keys, scene, camera)
    image = drawn[:3] + (F(1) - drawn[4]) * sky
    if wet.any():
        upper, lower = upper_mirrored.ravel()[points], lower_mirrored.ravel()[points]
        land = np.flatnonzero(upper < lower)
        land = _pile(upper[land], lower[land], values[:, land][[0, 1, 2, 4]], columns[land], shape)[:, ::-1]
        part = {name: scene[name][..., wet] for name in MIRROR}
        image[..., wet] += drawn[3][..., wet] * _reflection(keys[wet], part, camera, land[..., wet], sky[..., wet])
    return image


SURFACE = (
    "light", "sunlight", "ambient", "desert", "coast", "dry", "blooming", "petals", "path", "sand", "stone", "trees",
    "autumn", "winter", "snowline", "conifer", "haze", "mist", "low_mist", "sun_x", "ahead", "overcast", "veil_light",
)  # fmt: skip

MIRROR = ("horizon", "wind", "sun_x", "sun_height", "ahead", "overcast", "sunlight")


def _reflection(keys: Keys, scene: Scene, camera: Camera, mirrored: Array, sky: Array) -> Array:
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
    image = _mix(image, smeared * F(1 / 7), F(0.25) + F(0.75) * scene["wind"])

    ripples = _fractal(keys, 90, camera.ripples, size, 0.7)
    image *= F(1) + ripples * (F(0.08) + F(0.16) * scene["wind"])
    aside = ((np.arange(size, dtype=F) + F(0.5)) / F(size))[None, :, None] - scene["sun_x"]
    low = F(1) / (F(1) + F(9) * scene["sun_height"] * scene["sun_height"])
    path = scene["ahead"] * (F(1) - scene["overcast"]) * low / (F(1) + aside * aside * F(90))
    glitter = np.maximum(ripples - F(0.05), F(0)) * path * (scene["sun_height"] > 0) * (F(0.5) + scene["wind"])
    return image + glitter * scene["sunlight"][:, None, None] * F(1.6)


def _develop(light: Array) -> NDArray[np.uint8]:
    """Expose and encode linear light [3, rows, columns, N] as a photograph: [N, rows, columns, 3]."""
    light = np.maximum(light, F(0))
    light = light * (F(1) + light * F(0.25)) / (F(1) + light * F(0.62))
    encoded = np.minimum(np.sqrt(light), F(1))
    encoded += (encoded * encoded * (F(3) - F(2) * encoded) - encoded) * F(0.4)  # deeper shadows, brighter lights
    encoded = encoded * F(255) + F(0.5)
    return np.ascontiguousarray(encoded.astype(np.uint8).transpose(3, 1, 2, 0))
