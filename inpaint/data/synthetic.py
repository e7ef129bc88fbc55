"""Owns the embedded landscapes: small rendered photographs, each a function of (seed, index) alone.

A scene is a height field under a sky, seen by one fixed camera: world x to the right, height up, z away from it, in
units of about half a kilometre; water stands at height 0. The ground is cut into slices of equal z, near to far; the
part of a slice that stands above all nearer ones is seen. Every length is relative to the picture, and noise lives
in the world, so the same index at another size is the same scene.

Only operations that IEEE 754 rounds exactly are used on the way to a pixel (+ - * / and the square root; no sine, no
exponential, no BLAS), in an order that the batch does not change: the bytes are the same in any batch.

Arrays are [slices or rows, columns, N] with the batch last, because all pictures share the camera and so every gather
is a copy of whole rows. Colours are linear light until `_develop`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

CLASSES: tuple[str, ...] = ("mountain", "lake", "river", "forest", "meadow", "desert", "coast")

Array = NDArray[np.float32]
F = np.float32

LATTICE = 32  # noise repeats after this many cells, which no picture shows twice at a strength that is seen
ROTATIONS = ((0.8, 0.6), (0.96, -0.28), (0.6, 0.8), (0.28, -0.96), (0.936, 0.352))  # exact on paper: c^2 + s^2 = 1
NEAR, FAR = 0.55, 45.0
TREE_ROWS = 26

# What a class may look like: (lowest, highest) of each quantity, one pair a class in the order of CLASSES.
RANGES: dict[str, tuple[tuple[float, float], ...]] = {
    #             mountain      lake          river         forest        meadow        desert        coast
    "horizon": ((0.50, 0.66), (0.40, 0.56), (0.42, 0.56), (0.42, 0.58), (0.40, 0.60), (0.42, 0.60), (0.40, 0.56)),
    "peaks": ((0.70, 1.30), (0.40, 1.20), (0.30, 1.00), (0.15, 0.80), (0.00, 0.60), (0.00, 0.35), (0.10, 0.70)),
    "hills": ((0.08, 0.25), (0.05, 0.15), (0.05, 0.15), (0.08, 0.20), (0.05, 0.16), (0.06, 0.20), (0.04, 0.14)),
    "ground": ((0.05, 0.25), (0.06, 0.12), (0.06, 0.12), (0.08, 0.20), (0.08, 0.20), (0.10, 0.20), (0.03, 0.08)),
    "trees": ((-0.6, 0.35), (-0.3, 0.50), (-0.3, 0.45), (0.45, 1.00), (-0.7, 0.05), (-9.0, -9.0), (-1.0, 0.20)),
    "dry": ((0.00, 0.50), (0.00, 0.40), (0.00, 0.50), (0.00, 0.30), (0.00, 0.70), (1.00, 1.00), (0.10, 0.60)),
    "snowline": ((0.30, 2.20), (0.60, 3.00), (0.60, 3.50), (0.80, 4.00), (1.00, 4.00), (9.00, 9.00), (2.00, 5.00)),
}

# Light by the sine of the sun's height: night, dusk, sunset, golden hour, day.
SUN_KEYS = (-0.30, -0.05, 0.04, 0.20, 0.50)
ZENITH = ((0.005, 0.009, 0.026), (0.03, 0.05, 0.15), (0.09, 0.14, 0.33), (0.10, 0.22, 0.52), (0.07, 0.21, 0.58))
HORIZON = ((0.014, 0.024, 0.055), (0.42, 0.20, 0.17), (0.90, 0.42, 0.17), (0.78, 0.62, 0.44), (0.58, 0.72, 0.86))
SUNLIGHT = ((0.06, 0.08, 0.13), (0.10, 0.07, 0.09), (1.30, 0.55, 0.20), (1.70, 1.15, 0.68), (1.75, 1.62, 1.42))
AMBIENT = ((0.022, 0.032, 0.065), (0.09, 0.09, 0.16), (0.17, 0.17, 0.25), (0.20, 0.25, 0.34), (0.24, 0.31, 0.40))


def render(seed: int, indices: NDArray[np.integer], size: int) -> NDArray[np.uint8]:
    """The pictures `indices` [N] of the endless set `seed`: [N, size, size, 3], RGB, 0 to 255.

    Raises:
        ValueError: `size` is below 16.

    Cost: about a millisecond a picture of 64x64 on one core, in batches of 16 or more.
    """
    if size < 16:
        raise ValueError(f"size must be at least 16; got {size}")
    keys = _keys(seed, indices)
    pictures = np.empty((len(keys), size, size, 3), np.uint8)
    chunk = max(1, 16 * 64 * 64 // (size * size))  # the planes of one chunk stay in the processor's cache
    for start in range(0, len(keys), chunk):
        part = keys[start : start + chunk]
        pictures[start : start + chunk] = _develop(_picture(_scene(part), size))
    return pictures


def labels(seed: int, indices: NDArray[np.integer]) -> NDArray[np.int64]:
    """The class of each picture, a position in `CLASSES`: [N]."""
    return _scene(_keys(seed, indices)).label


# --- Randomness: hashes of (seed, index, counter) -------------------------------------------------------------------


def _mix64(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014, "Fast splittable generators")."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _keys(seed: int, indices: NDArray[np.integer]) -> NDArray[np.uint64]:
    """64 bits for each picture: [N]."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    start = _mix64(np.array([seed % 2**64], np.uint64) + golden)
    return _mix64(start + (np.asarray(indices).astype(np.uint64) + np.uint64(1)) * golden)


def _uniform(keys: NDArray[np.uint64], stream: int, num: int) -> Array:
    """`num` numbers in [0, 1) for each picture: [num, N]. Streams and numbers are independent of each other."""
    counters = np.arange(stream << 16, (stream << 16) + num, dtype=np.uint32)[:, None] * np.uint32(0x9E3779B9)
    bits = counters ^ keys.astype(np.uint32)
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x85EBCA6B) + (keys >> np.uint64(32)).astype(np.uint32)
    bits = (bits ^ (bits >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    bits ^= bits >> np.uint32(16)
    return (bits >> np.uint32(8)).astype(F) * F(2.0**-24)


# --- Noise on a lattice ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taps:
    """Where points fall in a lattice: the flat index of a corner and its neighbours, and the weights between them."""

    corners: NDArray[np.intp]  # [4, points]
    across: Array  # [points, 1]
    along: Array


def _taps(u: NDArray[np.float64], v: NDArray[np.float64]) -> Taps:
    u, v = u.ravel(), v.ravel()
    column, row = np.floor(u), np.floor(v)
    fu, fv = u - column, v - row
    i, j = column.astype(np.intp), row.astype(np.intp)
    near, far = j % LATTICE * LATTICE, (j + 1) % LATTICE * LATTICE
    left, right = i % LATTICE, (i + 1) % LATTICE
    corners = np.stack([near + left, near + right, far + left, far + right])
    return Taps(corners, (fu * fu * (3 - 2 * fu))[:, None].astype(F), (fv * fv * (3 - 2 * fv))[:, None].astype(F))


def _noise(keys: NDArray[np.uint64], stream: int, taps: Taps, width: int) -> Array:
    """Value noise in [-1, 1) at the points: [points / width, width, N]."""
    table = _uniform(keys, stream, LATTICE * LATTICE) * F(2) - F(1)
    near, right, far, corner = (table.take(index, axis=0) for index in taps.corners)
    near += (right - near) * taps.across
    far += (corner - far) * taps.across
    near += (far - near) * taps.along
    return near.reshape(-1, width, len(keys))


# --- The camera: what all pictures of one size share ----------------------------------------------------------------


@dataclass(frozen=True)
class Octave:
    wavelength: float
    slices: int  # the nearest slices, in which this wavelength is wider than two pixels
    taps: Taps
    weight: Array  # [slices, 1, 1]: fades out towards two pixels
    texture: Array  # [slices, 1, 1]: weight in patterns of some pixels' width
    patches: Array  # [slices, 1, 1]: weight in patterns of a third of the picture's width


@dataclass(frozen=True)
class Camera:
    size: int
    z: Array  # [slices, 1, 1], near to far
    x: Array  # [slices, columns, 1]
    tree_rows: NDArray[np.intp]  # the slices on which trees stand; the same z at every size
    octaves: tuple[Octave, ...]
    sky: tuple[Taps, ...]
    cirrus: tuple[Taps, ...]


def _ramp(low: float, high: float, value: NDArray[np.float64]) -> NDArray[np.float64]:
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


@lru_cache(maxsize=2)
def _camera(size: int) -> Camera:
    def spread(num: int, near: float, far: float) -> NDArray[np.float64]:
        """Distances dense near the camera, where a slice is many rows high."""
        root = np.linspace(np.sqrt(np.sqrt(1 / near)), np.sqrt(np.sqrt(1 / far)), num)
        return 1 / (root * root * root * root)

    trees = spread(TREE_ROWS, 1.2, 16.0)
    z = np.concatenate([spread(min(size, 256) * 3 // 2, NEAR, FAR), trees])
    order = np.argsort(z, kind="stable")
    z = z[order]
    columns = (np.arange(size) + 0.5) / size - 0.5
    x = z[:, None] * columns
    octaves = []
    wavelength, number = 16.0, 0
    while wavelength * size > 2.5 * NEAR:
        pixels, at_64 = wavelength * size / z, wavelength * 64 / z
        num = int(np.searchsorted(z, wavelength * size / 2))
        cosine, sine = ROTATIONS[number % len(ROTATIONS)]
        u = (x[:num] * cosine - z[:num, None] * sine) / wavelength + 0.37 * number
        v = (x[:num] * sine + z[:num, None] * cosine) / wavelength + 0.71 * number
        visible = _ramp(2, 4, pixels)
        weights = (
            visible,
            visible * (1 - _ramp(8, 20, at_64)) * np.minimum(1, at_64 / 4),
            _ramp(12, 24, at_64) * (1 - _ramp(48, 96, at_64)),
        )
        octaves.append(Octave(wavelength, num, _taps(u, v), *(w[:num, None, None].astype(F) for w in weights)))
        wavelength, number = wavelength / 2, number + 1
    rows = (np.arange(size)[:, None] + 0.5) / size
    depth = 1 / (0.14 + np.maximum(0.8 - rows, 0))
    sky, cirrus = [], []
    for number in range(5):
        cosine, sine = ROTATIONS[number]
        cells = 1.1 * 2.0**number
        across, along = columns * depth * cells, np.broadcast_to(depth * 1.6 * cells, (size, size))
        sky.append(_taps(across * cosine - along * sine, across * sine + along * cosine))
        if number < 3:
            across, along = columns * depth * cells * 0.9 + along * 0.5, along * 2.6
            cirrus.append(_taps(across, along))
    return Camera(
        size,
        z[:, None, None].astype(F),
        x[:, :, None].astype(F),
        np.flatnonzero(order >= len(z) - TREE_ROWS),
        tuple(octaves),
        tuple(sky),
        tuple(cirrus),
    )


# --- The scene: what one picture is of ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """The quantities of each picture, [N]; colours and lights are [3, N]."""

    keys: NDArray[np.uint64]
    label: NDArray[np.int64]
    ranged: dict[str, Array]  # those of RANGES
    u: Array  # [32, N] plain uniform numbers for the rest
    sun_height: Array  # sine of the sun's height above the horizon
    sun_x: Array  # in [0, 1] across the picture
    facing: Array  # 1 where the sun stands before the camera, -1 behind it
    overcast: Array
    zenith: Array
    horizon_light: Array
    sunlight: Array
    ambient: Array

    def is_class(self, *names: str) -> NDArray[np.bool_]:
        return np.isin(self.label, [CLASSES.index(name) for name in names])


def _keyed(height: Array, keys: tuple[tuple[float, ...], ...]) -> Array:
    """Colours [3, N] between the keys at the sun's heights [N]."""
    colour = np.repeat(np.array(keys[0], F)[:, None], len(height), axis=1)
    for i in range(1, len(keys)):
        t = np.clip((height - F(SUN_KEYS[i - 1])) * F(1 / (SUN_KEYS[i] - SUN_KEYS[i - 1])), F(0), F(1))
        colour += t * (np.array(keys[i], F) - np.array(keys[i - 1], F))[:, None]
    return colour


def _scene(keys: NDArray[np.uint64]) -> Scene:
    u = _uniform(keys, 0, 48)
    label = (u[0] * len(CLASSES)).astype(np.int64)
    ranged = {}
    for row, (name, pairs) in enumerate(RANGES.items()):
        low, high = np.array(pairs, F)[label].T
        ranged[name] = low + (high - low) * u[32 + row]
    hour = u[1]  # 13% night, 15% dusk and dawn, 30% low sun, the rest day
    height = np.where(hour < F(0.13), F(-0.30), F(-0.10) + (hour - F(0.13)) * F(0.95))
    height = np.where(hour > F(0.28), F(0.03) + (hour - F(0.28)) * F(0.6), height)
    height = np.where(hour > F(0.58), F(0.21) + (hour - F(0.58)) * F(1.4), height)
    overcast = np.where(u[2] < F(0.25), F(0.5) + F(2) * u[2], F(0)) * (height > F(-0.2))
    sunlight = _keyed(height, SUNLIGHT) * (F(1) - F(0.85) * overcast)
    ambient = _keyed(height, AMBIENT) * (F(1) + F(0.9) * overcast)
    zenith, horizon_light = _keyed(height, ZENITH), _keyed(height, HORIZON)
    tint = F(0.85) + F(0.3) * u[3:6]
    grey = (zenith[0] + zenith[1] + zenith[2] + horizon_light[0] + horizon_light[1] + horizon_light[2]) * F(0.21)
    cool = np.array([0.95, 1.0, 1.07], F)[:, None]
    zenith = zenith * tint + (grey * cool - zenith * tint) * overcast
    horizon_light = horizon_light * tint + (grey * cool * F(1.15) - horizon_light * tint) * overcast
    facing = np.where(u[6] < F(0.6), F(1), F(-1))
    return Scene(
        keys, label, ranged, u, height, u[7] * F(1.1) - F(0.05), facing, overcast, zenith, horizon_light, sunlight,
        ambient,
    )  # fmt: skip


# --- Ground: height, light and material of every slice --------------------------------------------------------------


def _smooth(low: Array | float, high: Array | float, value: Array) -> Array:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - np.asarray(low, F)) / (np.asarray(high, F) - np.asarray(low, F)), F(0), F(1))
    return t * t * (F(3) - F(2) * t)


def _wave(phase: Array) -> Array:
    """A sine of period 1 drawn with parabolas, in [-1, 1]."""
    t = phase - np.floor(phase)
    half = F(2) * t - F(1)
    return F(4) * half * (np.abs(half) - F(1))


def _mix(colour: Array, other: Array, amount: Array) -> Array:
    return colour + (other - colour) * amount


def _rgb(*colour: float) -> Array:
    return np.array(colour, F)[:, None, None, None]


@dataclass(frozen=True)
class Ground:
    height: Array  # [slices, columns, N]; below 0 the bed of water
    texture: Array  # noise of some pixels' width, about [-1, 1]
    patches: Array  # noise of a third of the picture's width


def _ground(scene: Scene, camera: Camera) -> Ground:
    z, x, u, ranged = camera.z, camera.x, scene.u, scene.ranged
    lake, river, coast = (scene.is_class(name).astype(F) for name in ("lake", "river", "coast"))
    desert = scene.is_class("desert").astype(F)
    shape = (len(z), camera.size, len(scene.keys))
    rolling, crags = np.zeros(shape, F), np.zeros(shape, F)
    texture, patches = np.zeros(shape, F), np.zeros(shape, F)
    rough = F(1)
    for number, octave in enumerate(camera.octaves):
        near = slice(octave.slices)
        noise = _noise(scene.keys, 1 + number, octave.taps, camera.size)
        crest = F(0.45) - F(1.3) * np.abs(noise)
        texture[near] += octave.texture * noise
        patches[near] += octave.patches * noise
        scale = octave.weight * F(octave.wavelength)
        if octave.wavelength <= 8:
            dune = desert * F(1.0 if octave.wavelength > 1 else 0.15)
            rolling[near] += (noise + (crest * F(1.3) - noise) * dune) * scale
        crags[near] += crest * scale * (rough[near] if number else rough)
        if number < 4:
            rough = np.clip(F(0.7) + crest, F(0.15), F(1))
            rough = np.concatenate([rough, np.ones((len(z) - octave.slices, *shape[1:]), F)])

    bend = _wave(z * (F(0.10) + F(0.12) * u[8]) + u[9]) * (F(0.25) + F(0.16) * z)
    middle = (u[10] - F(0.5)) * F(1.2) + bend * (F(1) - coast) + coast * z * (u[11] - F(0.5)) * F(0.9)
    off = x - middle
    side = np.where(u[12] < F(0.5), F(-1), F(1))
    ground = ranged["ground"]
    grown = z / (z + F(1.2))
    height = ground + ranged["hills"] * F(0.42) * rolling * grown
    begin = F(5) + F(9) * u[13]
    valley = off * off / (off * off + F(6) + F(14) * u[14])
    land = _smooth(-1.0, 3.0, side * off)
    opening = F(1) - (F(1) - valley) * (F(0.45) + F(0.4) * river)
    peaks = ranged["peaks"] * opening * (F(1) + coast * (land - F(1))) * _smooth(begin, begin * F(2.6), z)
    height += peaks * (F(1.3) + F(0.19) * crags)
    shore, far_shore = F(0.4) + F(1.2) * u[15] * u[15], F(5) + F(9) * u[16]
    basin = _smooth(shore, shore * F(1.7), z) * (F(1) - _smooth(far_shore, far_shore * F(1.8), z))
    wide = off * off / (F(3) + F(40) * u[17])
    height -= lake * (ground + F(0.30)) * basin / (F(1) + wide * wide)
    bed = F(1) / (F(1) + off * off / (F(0.04) + F(0.25) * u[18]))
    height -= river * (ground + F(0.10)) * F(1.8) * bed
    height -= coast * (ground + F(0.4)) * (F(1) - _smooth(-0.9, 0.7, side * off))
    return Ground(height, texture, patches)


def _light(scene: Scene) -> Array:
    """The direction to the sun or moon, a unit vector: [3, N]."""
    across = (scene.sun_x - F(0.5)) * np.where(scene.facing > 0, F(1.4), F(4))
    up = np.where(scene.sun_height < F(-0.2), F(0.5), np.maximum(scene.sun_height, F(0.07)))
    length = np.sqrt(across * across + up * up + F(1))
    return np.stack([across / length, up / length, scene.facing / length])


def _slopes(height: Array, camera: Camera) -> tuple[Array, Array]:
    """The height's derivatives along x and z. A column is a ray, so its x moves with z."""
    across = np.empty_like(height)
    across[:, 1:-1] = height[:, 2:] - height[:, :-2]
    across[:, :1], across[:, -1:] = (height[:, 1:2] - height[:, :1]) * 2, (height[:, -1:] - height[:, -2:-1]) * 2
    across *= F(camera.size / 2) / camera.z
    away = np.empty_like(height)
    away[:-1] = (height[1:] - height[:-1]) / (camera.z[1:] - camera.z[:-1])
    away[-1] = away[-2]
    return across, away - across * (camera.x / camera.z)


def _ground_colour(scene: Scene, camera: Camera, ground: Ground) -> tuple[Array, Array]:
    """What the ground sends to the camera, before haze, [3, slices, columns, N], and how much of it is a mirror."""
    u, ranged, height = scene.u, scene.ranged, ground.height
    light = _light(scene)
    across, away = _slopes(height, camera)
    steep = across * across + away * away
    upright = F(1) / np.sqrt(F(1) + steep)
    lit = np.maximum((light[1] - across * light[0] - away * light[2]) * upright, F(0))

    desert = scene.is_class("desert").astype(F)
    winter = ((u[19] < F(0.14)) & ~scene.is_class("desert", "coast")).astype(F)
    autumn = (u[20] < F(0.25)).astype(F)
    dry = np.clip(ranged["dry"] + F(0.6) * ground.patches, F(0), F(1)) * (F(1) - desert) + desert
    warm = u[21] * F(0.12)
    fields = _mix(_rgb(0.10, 0.20, 0.045), _rgb(0.36, 0.29, 0.12), dry)
    sand = np.stack([F(0.52) + warm * 2, F(0.36) + warm * F(0.7), F(0.20) - warm * F(0.3)])[:, None, None]
    albedo = _mix(fields, sand, np.maximum(desert, F(1) - _smooth(0.01, 0.05, height + F(0.01) * ground.texture)))
    wood = _smooth(-0.15, 0.15, ranged["trees"] + ground.patches * F(0.9)) * _smooth(0.02, 0.06, height)
    wood *= (F(1) - _smooth(0.8, 1.3, height)) * _smooth(3.0, 9.0, camera.z)
    leaves = _mix(_rgb(0.028, 0.065, 0.026), _rgb(0.20, 0.09, 0.02), autumn * F(0.7))
    albedo = _mix(albedo, leaves, wood)
    stone = np.stack([F(0.20) + warm, F(0.185) + warm * F(0.6), F(0.175) + warm * F(0.2)])[:, None, None]
    rock = _smooth(0.25, 0.9, steep + F(0.25) * ground.texture + F(0.25) * height - desert * F(0.6)) * F(0.9)
    albedo = _mix(albedo, stone, rock)
    cover = height + F(0.35) * ground.patches + F(0.12) * ground.texture - F(0.35) * steep - ranged["snowline"]
    snow = np.maximum(_smooth(0.0, 0.5, cover), winter * _smooth(-0.75, -0.35, -steep) * _smooth(0.0, 0.03, height))
    albedo = _mix(albedo, _rgb(0.80, 0.84, 0.90), snow)
    grain = F(1) + ground.texture * (F(0.30) - F(0.18) * snow - F(0.15) * desert)
    colour = albedo * (scene.sunlight[:, None, None] * (lit * grain) + scene.ambient[:, None, None] * upright * grain)

    water = _smooth(-0.004, 0.004, -height)
    shallow = F(1) / (F(1) + height * height * F(400))
    body = _mix(_rgb(0.012, 0.05, 0.07), _rgb(0.07, 0.16, 0.14), shallow) * (F(0.7) + F(0.6) * u[22])
    bright = scene.ambient + scene.sunlight * light[1]
    mirror = water * camera.z / (camera.z + F(0.45)) * (F(1) + ground.texture * F(0.10))
    under = body * bright[:, None, None] * (F(1) + F(0.25) * ground.texture)
    column = (camera.x / camera.z - scene.sun_x + F(0.5)) * F(9)
    sparkle = np.maximum(ground.texture - F(0.1), F(0)) * np.maximum(scene.facing, F(0)) / (F(1) + column * column)
    sparkle *= F(2.2) / (F(1) + F(9) * light[1] * light[1])
    under += sparkle * scene.sunlight[:, None, None]
    surf = _smooth(0.0, 0.02, F(0.014) - np.abs(height + F(0.02) + F(0.012) * ground.patches))
    surf *= scene.is_class("coast").astype(F) * (F(0.7) + F(0.5) * ground.texture)
    under = _mix(under, np.minimum(bright, F(1.5))[:, None, None] * F(0.75), np.clip(surf, F(0), F(1)))
    return _mix(colour, under, water), mirror * (F(1) - np.clip(surf, F(0), F(1)))


def _trees(scene: Scene, camera: Camera, ground: Ground) -> tuple[Array, Array]:
    """How far trees stand above the ground on the tree rows, and their colour before haze.

    [rows, columns, N] and [3, rows, columns, N]. Each cell of a row holds one tree, jittered; conifers are saw-toothed
    cones, the others domes.
    """
    u, rows = scene.u, camera.tree_rows
    z, height = camera.z[rows], ground.height[rows]
    cell = F(0.17)
    tables = _uniform(scene.keys, 40, 3 * 4096).reshape(3, 4096, -1)
    offset = (np.arange(len(rows)) * 149)[:, None]
    conifer = (u[23] < F(0.6)).astype(F)
    top, shade = np.zeros_like(height), np.zeros_like(height)
    for sample in (-0.25, 0.25):  # the mean over a pixel's width softens the edge
        place = (camera.x[rows, :, 0] + z[:, :, 0] * F(sample / camera.size)) / cell
        first = np.floor(place).astype(np.intp)
        best, side = np.zeros_like(height), np.zeros_like(height)
        for neighbour in (-1, 0, 1):
            index = (first + neighbour + offset) % 4096
            size, jitter, tone = (table.take(index.ravel(), axis=0).reshape(height.shape) for table in tables)
            centre = (first + neighbour).astype(F)[:, :, None] + F(0.1) + F(0.8) * jitter
            grown = F(0.45) + F(0.75) * size * size
            away = (place[:, :, None] - centre) / (F(0.50) + F(0.45) * (F(1) - conifer) * size + F(0.1) * size)
            dist = np.minimum(np.abs(away), F(1))
            saw = dist * 4
            saw = (saw - np.floor(saw)) * F(0.10) * (F(1) - dist)
            profile = conifer * (F(1) - dist + saw) + (F(1) - conifer) * np.sqrt(F(1) - dist * dist) * F(0.75)
            profile *= grown
            higher = profile > best
            best = np.where(higher, profile, best)
            side = np.where(higher, away + (tone - F(0.5)), side)
        top += best * F(0.5)
        shade += side * F(0.5)
    stand = ranged_cover = scene.ranged["trees"] + ground.patches[rows] * F(0.9)
    stand = _smooth(-0.05, 0.25, ranged_cover) * _smooth(0.03, 0.07, height) * (F(1) - _smooth(0.7, 1.2, height))
    top *= stand * (F(0.30) + F(0.22) * u[24])
    light = _light(scene)
    autumn = (u[20] < F(0.25)) * (F(1) - conifer * F(0.8))
    leaves = _mix(_rgb(0.030, 0.062, 0.024), _rgb(0.26, 0.10, 0.02), autumn * (F(0.6) + F(0.4) * shade))
    lit = np.clip(F(0.45) + shade * light[0] * F(0.8) - F(0.35) * light[2] + F(0.3) * light[1], F(0.05), F(1.2))
    lit += F(0.25) * ground.texture[rows]
    winter = (u[19] < F(0.14)) * F(0.35)
    leaves = _mix(leaves, _rgb(0.7, 0.74, 0.8), winter * np.clip(lit, F(0), F(1)))
    return top, leaves * (scene.sunlight[:, None, None] * lit + scene.ambient[:, None, None] * (F(0.8) + F(0.4) * lit))


# --- Sky ------------------------------------------------------------------------------------------------------------


def _sky(scene: Scene, camera: Camera) -> Array:
    """The sky over the whole picture, and its continuation below the horizon: [3, rows, columns, N]."""
    size, u = camera.size, scene.u
    rows = ((np.arange(size, dtype=F) + F(0.5)) / F(size))[:, None, None]
    columns = ((np.arange(size, dtype=F) + F(0.5)) / F(size))[None, :, None]
    up = np.maximum(scene.ranged["horizon"] - rows, F(0))
    rise = up / (up + F(0.16)) * F(1.25)
    sky = _mix(scene.horizon_light[:, None, None], scene.zenith[:, None, None], np.minimum(rise, F(1)))
    night = scene.sun_height < F(-0.2)
    level = np.where(night, F(0.22) + F(0.2) * u[25], scene.sun_height)
    dx = columns - scene.sun_x
    dy = rows - (scene.ranged["horizon"] - level)
    near = dx * dx + dy * dy
    seen = np.maximum(scene.facing, F(0)) * (F(1) - np.minimum(scene.overcast * F(1.2), F(1)))
    glow = F(0.55) / (F(1) + near * F(28)) + F(1.0) / (F(1) + near * F(600))
    sky = sky + scene.sunlight[:, None, None] * (glow * seen * np.where(night, F(0.5), F(0.42)))
    radius = np.where(night, F(0.026), F(0.034))
    edge = F(1 / size)
    disc = _smooth(0.0, 1.0, (radius - np.sqrt(near)) / edge + F(0.5)) * seen * (level > 0)
    bright = np.where(night, F(9), F(2.6) + F(4) * np.maximum(level, F(0)))
    sky = sky + disc * (scene.sunlight * bright)[:, None, None]

    density, streaks = F(0), F(0)
    for number, taps in enumerate(camera.sky):
        density = density + _noise(scene.keys, 60 + number, taps, size) * F(0.55 * 0.56**number)
    for number, taps in enumerate(camera.cirrus):
        streaks = streaks + _noise(scene.keys, 70 + number, taps, size) * F(0.5 * 0.6**number)
    amount = u[26] * F(0.95) - F(0.55) + F(0.5) * scene.overcast
    cloud = _smooth(F(-0.02), F(0.45) + F(0.3) * scene.overcast, density + amount)
    cirrus = _smooth(0.0, 0.9, streaks + u[27] * F(0.9) - F(0.55)) * F(0.6)
    lean = np.where(scene.sun_x < F(0.5), F(1), F(-1))
    step = max(1, size // 32)
    ahead = np.empty_like(density)
    ahead[:, step:] = density[:, step:] - density[:, :-step]
    ahead[:, :step] = ahead[:, step : step + 1]
    relief = np.clip(F(0.62) + ahead * lean * F(1.2) - density * F(0.45), F(0.15), F(1.1))
    white = scene.sunlight * F(0.50) + scene.ambient * F(0.55)
    dark = scene.ambient * F(0.75) + scene.horizon_light * F(0.30)
    shaded = _mix(dark[:, None, None], (white + dark * F(0.2))[:, None, None], relief)
    thin = _smooth(0.0, 0.10, up) * F(0.8) + F(0.2)
    sky = _mix(sky, (white * F(0.9))[:, None, None], cirrus * thin * (F(1) - scene.overcast))
    return _mix(sky, shaded, cloud * thin * F(0.92))


# --- The picture ----------------------------------------------------------------------------------------------------


def _pile(rows: Array, values: Array, beyond: Array, size: int, upside_down: bool = False) -> Array:
    """Stack slices, nearest first, into a picture; each shows where it stands above all nearer ones.

    Args:
        rows: [slices, columns, N], the row (px, not whole) of each slice's upper edge.
        values: [channels, slices, columns, N]; beyond: [channels], what stands behind the last slice.

    Returns:
        [channels, rows, columns, N]; a pixel that an edge crosses holds the share of each side.
    """
    if upside_down:
        rows = size - rows
    edges = np.clip(np.minimum.accumulate(rows, axis=0), 0, size)
    whole = np.floor(edges)
    part = edges - whole
    plane = rows.shape[1] * rows.shape[2]
    index = (whole.astype(np.intp) * plane + np.arange(plane).reshape(rows.shape[1:])).ravel()
    picture = np.empty((len(values), size, *rows.shape[1:]), F)
    for channel, value in enumerate(values):
        step = value.copy()
        step[:-1] -= value[1:]
        step[-1] -= beyond[channel]
        whole_steps = np.bincount(index, step.ravel(), (size + 1) * plane).reshape(size + 1, *rows.shape[1:])
        part_steps = np.bincount(index, (step * part).ravel(), (size + 1) * plane).reshape(whole_steps.shape)
        picture[channel] = (np.cumsum(whole_steps, axis=0) - part_steps)[:size] + beyond[channel]
    return picture[:, ::-1] if upside_down else picture


def _picture(scene: Scene, size: int) -> Array:
    """Linear light: [3, rows, columns, N]."""
    camera = _camera(size)
    u, z = scene.u, camera.z
    ground = _ground(scene, camera)
    colour, mirror = _ground_colour(scene, camera, ground)
    standing = np.maximum(ground.height, F(0))
    top, leaves = _trees(scene, camera, ground)
    standing[camera.tree_rows] += top
    tree = _smooth(0.005, 0.03, top)
    colour[:, camera.tree_rows] = _mix(colour[:, camera.tree_rows], leaves, tree)
    mirror[camera.tree_rows] *= F(1) - tree

    misty = np.where(u[28] < F(0.22), F(0.02) + F(0.45) * u[29] * u[29], F(0.006) + F(0.016) * u[29])
    thick = z * misty
    thick = thick + thick * thick * F(0.5)
    low = np.where(u[30] < F(0.3), F(0.12), F(0)) * np.maximum(z - F(3), F(0)) / (F(1) + standing * standing * F(12))
    veil = F(1) - F(1) / (F(1) + thick + low)
    aside = camera.x / z - scene.sun_x + F(0.5)
    toward = np.maximum(scene.facing, F(0)) * (F(1) - scene.overcast) * F(0.30) / (F(1) + aside * aside * F(14))
    haze = scene.horizon_light[:, None, None] * F(0.92) + scene.sunlight[:, None, None] * toward * F(0.5)
    colour = _mix(colour, haze, veil)
    mirror = mirror * (F(1) - veil * F(0.7))

    eye = F(0.42) + F(0.2) * u[31]
    eye = np.maximum(eye, standing[:8].max(axis=(0, 1)) + F(0.12))  # never inside a hill
    horizon = scene.ranged["horizon"]
    rows = (horizon + (eye - standing) / z) * F(size)
    clear = np.zeros_like(mirror)
    seen = _pile(rows, np.stack([*colour, mirror, clear]), np.array([0, 0, 0, 0, 1], F), size)
    sky = _sky(scene, camera)
    picture = seen[:3] + seen[4] * sky
    wet = np.flatnonzero(scene.is_class("lake", "river", "coast"))
    if len(wet):
        picture[..., wet] += seen[3][..., wet] * _reflection(
            (horizon + (eye + standing) / z)[..., wet] * F(size), colour[..., wet], ground.height[..., wet],
            sky[..., wet], horizon[wet], u[24][wet], size,
        )  # fmt: skip
    return picture


def _reflection(
    rows: Array, colour: Array, height: Array, sky: Array, horizon: Array, wind: Array, size: int
) -> Array:
    """What still water shows: the scene from a camera as deep below the water as ours stands above it.

    `rows` are those of the slices' lower, mirrored edges; ripples smear the image upright.
    """
    rows = np.where(height > F(0), rows, F(0))
    clear = np.zeros_like(rows)
    image = _pile(rows, np.stack([*colour, clear]), np.array([0, 0, 0, 1], F), size, upside_down=True)
    below = np.rint(F(2 * size) * horizon - np.arange(size, dtype=F)[:, None] - F(1)).astype(np.intp)
    turned = np.take_along_axis(sky, np.clip(below, 0, size - 1)[None, :, None, :], axis=1)
    image = image[:3] + image[3] * turned
    smeared = image.copy()
    for reach in (1, 2, 3):
        shift = max(1, reach * size // 64)
        smeared[:, shift:] += image[:, :-shift]
        smeared[:, :shift] += image[:, :1]
        smeared[:, :-shift] += image[:, shift:]
        smeared[:, -shift:] += image[:, -1:]
    return _mix(image, smeared * F(1 / 7), F(0.35) + F(0.65) * wind)


def _develop(light: Array) -> NDArray[np.uint8]:
    """Expose and encode linear light [3, rows, columns, N] as a photograph: [N, rows, columns, 3]."""
    light = np.maximum(light, F(0))
    light = light * (F(1) + light * F(0.25)) / (F(1) + light * F(0.62))
    encoded = np.minimum(np.sqrt(light), F(1)) * F(255) + F(0.5)
    return np.ascontiguousarray(encoded.astype(np.uint8).transpose(3, 1, 2, 0))
