"""Owns the images that are rated: the fills that `inpaint evaluate` judges, with the figures of each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpaint.evaluation.measure import Measuring, Method
from inpaint.evaluation.metrics import rows_of
from inpaint.evaluation.subject import Subject
from inpaint.rating.answers import Fill, finite
from inpaint.sources.keys import key_of, printable

_PIXELS_AT_ONCE = 2**17
_HOLE = np.array((255, 0, 255), np.uint8)


@dataclass(frozen=True)
class Gallery:
    """Some images of side S, each filled by every model.

    Attributes:
        originals: by key, uint8 [S, S, 3].
        holes: by key, bool [S, S].
        composites: by model and key, uint8 [S, S, 3].
        fills: the same, with their figures.
    """

    originals: Mapping[str, NDArray[np.uint8]]
    holes: Mapping[str, NDArray[np.bool_]]
    composites: Mapping[tuple[str, str], NDArray[np.uint8]]
    fills: Sequence[Fill]

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(fill.model for fill in self.fills))

    def marked(self, image: str) -> NDArray[np.uint8]:
        """The original with its hole in a colour that no landscape has."""
        return np.where(self.holes[image][..., None], _HOLE, self.originals[image])


def image_keys(subject: Subject) -> list[str]:
    """A name for each image: its key, or where several have the same its place in the source."""
    keys = [printable(key_of(*pair)) for pair in zip(subject.labels, subject.sources, strict=True)]
    if len(set(keys)) == len(keys):
        return keys
    return [printable(source) for source in subject.sources]


def fill_all(measuring: Measuring, methods: Mapping[str, Method], chosen: Sequence[str]) -> Gallery:
    """The gallery of some of the subject's images, by their keys."""
    subject = measuring.subject
    place = {key: index for index, key in enumerate(image_keys(subject))}
    at_once = max(1, min(32, _PIXELS_AT_ONCE // subject.size**2))
    originals: dict[str, NDArray[np.uint8]] = {}
    holes: dict[str, NDArray[np.bool_]] = {}
    composites: dict[tuple[str, str], NDArray[np.uint8]] = {}
    fills: list[Fill] = []
    for start in range(0, len(chosen), at_once):
        keys = chosen[start : start + at_once]
        indices = np.array([place[key] for key in keys], dtype=np.int64)
        for key, index, mask in zip(keys, indices, subject.masks(indices).numpy(), strict=True):
            originals[key] = np.array(subject.pixels[index])
            holes[key] = mask[0] > 0
        for model, method in methods.items():
            filled = measuring.fill(method, indices)
            figures = {
                name: metric.compute(rows).tolist()
                for (name, metric), rows in zip(
                    measuring.metrics.items(), rows_of(measuring.metrics, filled), strict=True
                )
            }
            images = filled.composite.cpu().permute(0, 2, 3, 1).numpy()
            for number, (key, index) in enumerate(zip(keys, indices, strict=True)):
                composites[model, key] = images[number]
                hole = hashlib.sha256(subject.packed[index].tobytes()).hexdigest()
                fills.append(Fill(model, key, hole, finite({name: its[number] for name, its in figures.items()})))
    return Gallery(originals, holes, composites, fills)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """An image [S, S, 3] as a file that says nothing but its pixels."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def digest_of_fills(measuring: Measuring, method: Method) -> str:
    """SHA-256 of all images of the subject as a method fills them."""
    digest = hashlib.sha256()
    for chosen in measuring.chunks:
        digest.update(measuring.fill(method, chosen).composite.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
