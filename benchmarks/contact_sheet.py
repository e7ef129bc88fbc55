"""One sheet to look at: images with holes of every kind, text and given masks; Telea's fills, the model's, originals.

    python -m benchmarks.contact_sheet --model RUN/generator --images PHOTOS/ --out sheet.png [--masks DIR]

Which images and holes are seen is drawn from `--seed`, before anything is filled: what fails is shown as it comes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from inpaint import InpaintingPipeline
from inpaint.evaluation.baselines import telea
from inpaint.evaluation.grid import grid
from inpaint.evaluation.metrics import composite_u8
from inpaint.holes.kinds import HoleMixture
from inpaint.holes.spec import HoleSpec
from inpaint.images.pixels import IMAGE_SUFFIXES
from inpaint.tables import HOLES

WORDS = "the quick brown fox jumps over the lazy dog"
Pixels = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contact_sheet", description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--masks", type=Path, help="a folder of masks, white in the hole: a row of them too")
    parser.add_argument("--rows", type=int, default=4, help="of each kind of hole")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--fidelity", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)
    masks = [mask for its in holes(arguments, random) for mask in its]
    images = np.stack(list(pick(arguments.images, len(masks), arguments.size, random)))
    pipe = InpaintingPipeline.from_pretrained(arguments.model)
    pairs = [Image.fromarray(image) for image in images], [Image.fromarray(mask) for mask in masks]
    filled = np.stack([np.asarray(fill) for fill in pipe(*pairs, fidelity=arguments.fidelity)])
    hole = torch.from_numpy(np.stack(masks)[:, None] / 255.0).float()
    image = torch.from_numpy(images).movedim(3, 1)
    masked = image / 255.0 * (1 - hole)
    columns = {
        "with a hole": np.where(np.stack(masks)[..., None] > 0, 0, images).astype(np.uint8),
        "Telea": composite_u8(telea(masked, hole), image, hole).movedim(1, 3).numpy(),
        "filled": filled,
        "original": images,
    }
    grid(columns, 3).save(arguments.out)


def holes(arguments: argparse.Namespace, random: np.random.Generator) -> Iterator[list[Pixels]]:
    """Masks of 0 and 255, `rows` of every kind."""
    rows, size = arguments.rows, arguments.size
    for kind in HOLES:
        mixture = HoleMixture({kind: 1}, HoleSpec.scaled(size))
        drawn = torch.from_numpy(mixture.draw(random.random((mixture.num_uniforms, rows)), random.random(rows))[0])
        yield [*(mixture.rasterise(drawn, size)[:, 0].numpy() * np.uint8(255))]
    yield [text(size, random) for _ in range(rows)]
    if arguments.masks is not None:
        given = pick(arguments.masks, rows, size, random)
        yield [np.where(mask[..., 0] > 127, np.uint8(255), np.uint8(0)) for mask in given]


def text(size: int, random: np.random.Generator) -> Pixels:
    """Two lines of a few words, as a caption hides an image."""
    mask = Image.new("L", (size, size))
    draw, font = ImageDraw.Draw(mask), ImageFont.load_default(size / 5)
    for line in range(2):
        start = int(random.integers(0, len(WORDS) - 8))
        place = (size / 16, size * (0.15 + 0.4 * line + 0.15 * random.random()))
        draw.text(place, WORDS[start : start + 8], fill=255, font=font)
    return np.where(np.asarray(mask) > 64, np.uint8(255), np.uint8(0))


def pick(folder: Path, num: int, size: int, random: np.random.Generator) -> Iterator[Pixels]:
    """`num` of a folder's images, cut to a square in the middle, uint8 [size, size, 3]."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    for place in random.choice(len(files), num, replace=num > len(files)):
        with Image.open(files[place]) as opened:
            yield np.asarray(ImageOps.fit(opened.convert("RGB"), (size, size), Image.Resampling.BOX))


if __name__ == "__main__":
    main()
