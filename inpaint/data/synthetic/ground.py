"""Owns the land: its height, the trees on it, and the light that its points send to the camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inpaint.data.synthetic.camera import Camera
from inpaint.data.synthetic.noise import Array, F, Keys, mix, noise, rgb, smooth, uniform, wave
from inpaint.data.synthetic.scene import Scene

# What `surface` and `veil_of` read of a scene.
SURFACE = (
    "light", "sunlight", "ambient", "desert", "coast", "dry", "blooming", "petals", "path", "sand", "stone", "trees",
    "autumn", "winter", "snowline", "conifer", "haze", "mist", "low_mist", "sun_x", "ahead", "overcast", "veil_light",
)  # fmt: skip


@dataclass(frozen=True)
class Ground:
    """[slices, columns, N] each, or [points] of them."""

    height: Array  # below 0 the bed of water
    off: Array  # distance in x from the river, path or shore
    texture: Array  # noise some pixels wide, about [-1, 1]
    patches: Array  # noise a third of the image wide
    across: Array  # slope along x
    away: Array  # slope along z
    crown: Array  # height of a tree above the ground, 0 for none
    lit: Array  # how far a crown's surface turns to the right, about [-1, 1]; one half less in its lower half

    def take(self, points: NDArray[np.intp]) -> Ground:
        return Ground(*(value.ravel()[points] for value in vars(self).values()))


def ground_of(keys: Keys, scene: Scene, camera: Camera) -> Ground:
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
    """The height of the ground, and the distance from the line the image is composed along."""
    z = camera.z
    lake, river, coast, level = scene["lake"], scene["river"], scene["coast"], scene["level"]
    bend = wave(z * (F(0.08) + F(0.12) * scene["bend"]) + scene["phase"]) * (F(0.25) + F(0.18) * z)
    slant = coast * z * (scene["slant"] - F(0.5)) * F(0.9)
    off = camera.x - ((scene["middle"] - F(0.5)) * F(1.2) + bend * (F(1) - F(0.7) * coast) + slant)
    squared = off * off
    land = np.where(scene["side"] < F(0.5), F(-1), F(1)) * off
    height = level + scene["hills"] * F(0.5) * rolling * (z / (z + F(2)))
    begin = F(4.2) + F(6) * scene["begin"]
    valley = F(1) - (F(0.4) + F(0.45) * river) / (F(1) + squared / (F(5) + F(14) * scene["valley"]))
    coastal = F(1) + coast * (smooth(-1.0, 4.0, land) - F(1))
    massif = scene["peaks"] * smooth(begin, begin * F(2.8), z)
    height = np.maximum(height, F(0.025))  # water stands only where the scene has some
    height += massif * valley * coastal * np.maximum(F(1.15) + F(0.27) * crags, F(0))

    shore, far_shore = F(0.4) + F(1.6) * scene["shore"] * scene["shore"], F(5) + F(9) * scene["far_shore"]
    basin = smooth(shore, shore * F(1.7), z) * (F(1) - smooth(far_shore, far_shore * F(1.3), z))
    wide = squared / (F(3) + F(40) * scene["breadth"])
    height -= lake * (level + F(0.30)) * basin / (F(1) + wide * wide)
    height -= river * (level + F(0.10)) * F(1.9) / (F(1) + squared / (F(0.04) + F(0.25) * scene["stream"]))
    height -= coast * (level + F(0.4)) * (F(1) - smooth(-0.9, 0.7, land))
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
    stand = smooth(0.05, 0.13, scene["trees"] + patches[rows] * F(0.9))
    stand *= smooth(0.03, 0.07, height[rows]) * (F(1) - smooth(0.7, 1.2, height[rows]))
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
            away = np.divide(place[:, :, None] - centre, F(0.62) - F(0.10) * conifer + F(0.25) * size)
            dist = np.minimum(np.abs(away), F(1))
            teeth = dist * (F(4) + F(2) * tone)
            teeth = (teeth - np.floor(teeth)) * (F(1) - dist)
            leafy = wave(away * F(1.7) + tone) * F(0.10) + wave(away * F(3.9) + jitter) * F(0.06)
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


def surface(scene: Scene, ground: Ground, z: Array) -> tuple[Array, Array]:
    """What points of the ground send to the camera, before haze [3, points], and how much of each is a mirror."""
    height, texture, patches, light = ground.height, ground.texture, ground.patches, scene["light"]
    desert, sunlight, ambient = scene["desert"], scene["sunlight"], scene["ambient"]
    steep = ground.across * ground.across + ground.away * ground.away
    upright = F(1) / np.sqrt(F(1) + steep)
    lit = np.maximum((light[1] - ground.across * light[0] - ground.away * light[2]) * upright, F(0))

    dry = np.clip(scene["dry"] + F(0.6) * patches, F(0), F(1))
    albedo = mix(rgb(0.10, 0.20, 0.045), rgb(0.36, 0.29, 0.12), dry)
    bloom = scene["blooming"] * smooth(0.0, 0.6, texture * F(0.7) + patches + F(0.1)) * F(0.8)
    albedo = mix(albedo, scene["petals"], bloom)
    worn = scene["path"] * (F(1) - smooth(0.06, 0.10, np.abs(ground.off) + F(0.02) * texture)) * F(0.75)
    albedo = mix(albedo, rgb(0.34, 0.27, 0.19), worn)
    beach = F(1) - smooth(0.01, 0.05, height + F(0.01) * texture)
    albedo = mix(albedo, scene["sand"], np.maximum(desert * (F(1) - worn * F(0.3)), beach))
    wood = smooth(-0.15, 0.15, scene["trees"] + patches * F(0.9) + texture * F(0.15)) * smooth(0.02, 0.06, height)
    wood *= (F(1) - smooth(0.8, 1.3, height)) * smooth(3.0, 9.0, z)
    albedo = mix(albedo, mix(rgb(0.028, 0.065, 0.026), rgb(0.20, 0.09, 0.02), scene["autumn"] * F(0.7)), wood)
    rock = smooth(0.25, 0.9, steep + F(0.3) * texture + F(0.25) * height - desert * F(0.5)) * F(0.9)
    albedo = mix(albedo, scene["stone"], rock)
    cover = height + F(0.35) * patches + F(0.15) * texture - F(0.30) * steep - scene["snowline"]
    blanket = scene["winter"] * smooth(-0.75, -0.35, -steep) * smooth(0.0, 0.03, height)
    snow = np.maximum(smooth(0.0, 0.5, cover), blanket)
    albedo = mix(albedo, rgb(0.80, 0.84, 0.90), snow)
    grain = F(1) + texture * (F(0.32) - F(0.20) * snow - F(0.17) * desert)
    colour = albedo * (sunlight * (lit * grain) + ambient * (upright * grain))

    tree = smooth(0.0, 0.01, ground.crown)
    turned = mix(rgb(0.030, 0.062, 0.024), rgb(0.26, 0.10, 0.02), F(0.6) + F(0.4) * ground.lit)
    autumn = scene["autumn"] * (F(1) - F(0.85) * scene["conifer"])
    leaves = mix(rgb(0.030, 0.062, 0.024), turned, autumn)
    bright = F(0.50) + ground.lit * (light[0] * F(0.6) + F(0.35)) - F(0.35) * light[2] + F(0.3) * light[1]
    bright = np.clip(bright + F(0.25) * texture, F(0.05), F(1.3))
    leaves = mix(leaves, rgb(0.70, 0.74, 0.80), scene["winter"] * bright * F(0.12))
    colour = mix(colour, leaves * (sunlight * bright + ambient * (F(0.6) + F(0.5) * bright)), tree)

    water = smooth(-0.004, 0.004, -height)
    shallow = F(1) / (F(1) + height * height * F(400))
    above = ambient + sunlight * light[1]
    under = mix(rgb(0.010, 0.040, 0.060), rgb(0.06, 0.13, 0.11), shallow) * above
    breaker = F(0.014) - np.abs(height + F(0.02) + F(0.012) * patches)
    surf = smooth(0.0, 0.02, breaker) * scene["coast"] * np.clip(F(0.7) + F(0.5) * texture, F(0), F(1))
    under = mix(under, np.minimum(above, F(1.5)) * F(0.75), surf)
    mirror = water * (F(1) - surf) * (F(1) - tree) * z / (z + F(0.4))
    return mix(colour, under, water * (F(1) - tree)), mirror


def veil_of(scene: Scene, z: Array, x: Array, height: Array) -> tuple[Array, Array]:
    """How much haze stands before points of the ground, and its colour [3, points], warmer towards the sun."""
    clear, misty = F(0.005) + F(0.020) * scene["haze"], F(0.03) + F(0.17) * scene["haze"] * scene["haze"]
    thick = z * np.where(scene["mist"] < F(0.09), misty, clear)
    thick += thick * thick * F(0.5)
    pool = np.maximum(z - F(3), F(0)) / (F(1) + height * height * F(12))
    thick += np.where(scene["low_mist"] < F(0.22), F(0.10), F(0)) * pool
    aside = x / z - scene["sun_x"] + F(0.5)
    glow = scene["ahead"] * (F(1) - scene["overcast"]) * F(0.18) / (F(1) + aside * aside * F(14))
    return F(1) - F(1) / (F(1) + thick), scene["veil_light"] + scene["sunlight"] * glow
