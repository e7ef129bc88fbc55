"""What rating is tested on: a few landscapes, two folders of fills, and the page served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from running import ROOT, Job, start

from inpaint.data.synthetic.landscapes import render

SIZE, NUM = 32, 12
NUM_IMAGES, SEED = 5, 3


@dataclass(frozen=True)
class Site:
    """Folders, and what is in them.

    Attributes:
        folder: holds `photos`, `masks`, `sharp` and `blurred`, two systems' fills.
        images, masks, fills: by key, and the fills by system first.
    """

    folder: Path
    images: dict[str, NDArray[np.uint8]]
    masks: dict[str, NDArray[np.bool_]]
    fills: dict[str, dict[str, NDArray[np.uint8]]]

    @property
    def models(self) -> list[str]:
        return [str(self.folder / name) for name in self.fills]

    def arguments(self, ratings: Path) -> list[str]:
        """Of `inpaint rate`."""
        flags = {
            "--data": self.folder / "photos",
            "--holes": self.folder / "masks",
            "--image-size": SIZE,
            "--num-images": NUM_IMAGES,
            "--seed": SEED,
            "--ratings": ratings,
            "--device": "cpu",
        }
        return [*self.models, *(str(word) for flag in flags.items() for word in flag)]


def make_site(folder: Path) -> Site:
    """NUM images in the test split, each with a hole of its own; fills that are a little and much blurred."""
    site = Site(folder, {}, {}, {"sharp": {}, "blurred": {}})
    random = np.random.default_rng(0)
    for index, pixels in enumerate(render(5, np.arange(NUM + 4), SIZE)):
        split = "test" if index < NUM else ("train", "validation")[index % 2]
        _save(folder / "photos" / split / "coast" / f"{index:03d}.png", Image.fromarray(pixels))
        if split != "test":
            continue
        key, name = f"coast/{index:03d}.png", f"{index:03d}.png"
        x, y, width, height = random.integers(4, 14, 4)
        mask = np.zeros((SIZE, SIZE), bool)
        mask[y : y + height, x : x + width] = True
        site.images[key], site.masks[key] = pixels, mask
        _save(folder / "masks" / name, Image.fromarray(mask))
        for system, radius in (("sharp", 1), ("blurred", 4)):
            fill = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius))
            _save(folder / system / name, fill)
            site.fills[system][key] = np.where(mask[..., None], np.asarray(fill), pixels)
    return site


@contextmanager
def served(site: Site, ratings: Path, port: int) -> Iterator[Job]:
    """`inpaint rate` as a user starts it, once it says where to look."""
    arguments = ["rate", *site.arguments(ratings), "--port", str(port)]
    with start(*arguments, script=ROOT / "inpaint" / "__main__.py") as job:
        job.until(lambda: "Ctrl-C stops" in job.stdout)
        yield job


def _save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
