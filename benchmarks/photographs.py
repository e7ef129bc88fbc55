"""Photographs larger than the training images: Telea's fills, the model's without and with detail, to look at or judge.

    python -m benchmarks.photographs sheet --model RUN/generator --images PHOTOS/ --masks MASKS/ --out sheet.png
    python -m benchmarks.photographs fills --model RUN/generator --images PHOTOS/ --num 200 --out OUT/
    inpaint evaluate --data OUT/photographs --holes OUT/masks --image-size 256 --fills OUT/telea ...

`sheet` shows a square around each hole; masks lie in MASKS/ under the photographs' names, as PNG. `--truth` adds what
detail transfer makes of a guide without fault, the photograph itself averaged down: what is wrong there is wrong in the
transfer, and what is wrong only beside it is the generator's. `fills` writes photographs cut to `--size`, with one
rectangle of 64 to 90 px each at 256, and their fills, for `inpaint evaluate` to judge at that size.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from inpaint import InpaintingPipeline
from inpaint.evaluation.grid import grid
from inpaint.images.job import FillJob
from inpaint.images.pixels import IMAGE_SUFFIXES
from inpaint.photographs.crops import Crop
from inpaint.photographs.network import Network
from inpaint.photographs.windows import plan

Pixels = NDArray[np.uint8]
Hole = NDArray[np.bool_]
# Sides of holes at 256 px: what a generator of 64 px is trained on, four times as large.
SHORTEST, LONGEST = 64 / 256, 90 / 256


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.photographs", description=__doc__)
    parser.add_argument("what", choices=("sheet", "fills"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--masks", type=Path, help="sheet: a PNG for each photograph, of its name, white in the hole")
    parser.add_argument("--truth", action="store_true", help="sheet: also with the photograph itself as the guide")
    parser.add_argument("--num", type=int, default=200, help="fills: how many photographs")
    parser.add_argument("--size", type=int, default=256, help="side of what is shown of each, or cut")
    parser.add_argument("--grow", type=int, default=0, help="sheet: grow_mask_px")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    pipe = InpaintingPipeline.from_pretrained(arguments.model)
    sheet(pipe, arguments) if arguments.what == "sheet" else fills(pipe, arguments)


def sheet(pipe: InpaintingPipeline, arguments: argparse.Namespace) -> None:
    """A row for each photograph that has a mask."""
    rows = []
    for path in files(arguments.images):
        mask = arguments.masks / f"{path.stem}.png"
        if not mask.exists():
            continue
        job = FillJob.of(path, mask, resize_mask=True).grown(arguments.grow)
        image, hole = job.rgb(), job.hole
        cells = {"with a hole": np.where(hole[..., None], np.uint8(0), image), **filled(pipe, image, hole)}
        if arguments.truth:
            cells["truth's detail"] = by_truth(pipe, image, hole)
        where, side = around(hole), arguments.size
        cells["original"] = image
        rows.append({label: cv2.resize(its[where], (side, side), None, 0, 0, 2) for label, its in cells.items()})
    grid({label: np.stack([row[label] for row in rows]) for label in rows[0]}, 1).save(arguments.out)


def fills(pipe: InpaintingPipeline, arguments: argparse.Namespace) -> None:
    """Photographs, masks and fills in folders, by the same names."""
    random, size = np.random.default_rng(arguments.seed), arguments.size
    found = [path for path in files(arguments.images) if min(Image.open(path).size) >= size]
    for index in sorted(random.permutation(len(found))[: arguments.num]):
        height, width = random.integers(round(SHORTEST * size), round(LONGEST * size) + 1, 2)
        top, left = random.integers(0, (size + 1 - height, size + 1 - width))
        hole = np.zeros((size, size), np.bool_)
        hole[top : top + height, left : left + width] = True
        image = np.asarray(ImageOps.fit(Image.open(found[index]).convert("RGB"), (size, size), Image.Resampling.BOX))
        name = f"{index}.png"
        for split in ("train", "validation"):  # with all three, `inpaint evaluate` takes the split as it is
            (arguments.out / "photographs" / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(arguments.out / "photographs" / split / "any.png")
        for folder, pixels in {"photographs/test": image, "masks": hole, **filled(pipe, image, hole)}.items():
            (arguments.out / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(arguments.out / folder / name)


def filled(pipe: InpaintingPipeline, image: Pixels, hole: Hole) -> dict[str, Pixels]:
    return {
        "telea": cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA),
        "smooth": pipe.fill(image, hole, detail=False).pixels,
        "detailed": pipe.fill(image, hole).pixels,
    }


def by_truth(pipe: InpaintingPipeline, image: Pixels, hole: Hole) -> Pixels:
    """What detail transfer makes where the generator is always right."""
    network = Network(pipe.generator, pipe.device)
    done, unknown = image.copy(), hole.copy()
    assert network.size_px is not None
    for windows in plan(hole, network.size_px):
        for window in windows:
            crop = Crop(window, done, unknown, hole, network)
            truth = Crop(window, image, np.zeros_like(hole), hole, network)
            crop.set_in(done, truth.smallest.values, detail=True)
            unknown[window.place] &= ~window.targets(unknown[window.place])
    return done


def around(hole: Hole) -> tuple[slice, slice]:
    """A square around the hole, as large as the photograph where it would reach beyond."""
    ends = [(int(each.min()), int(each.max()) + 1) for each in np.nonzero(hole)]
    side = min(2 * max(last - first for first, last in ends), *hole.shape)
    places = []
    for (first, last), whole in zip(ends, hole.shape, strict=True):
        start = min(max(0, (first + last - side) // 2), whole - side)
        places.append(slice(start, start + side))
    return places[0], places[1]


def files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
