"""Folders of images of one colour each, which their names decide, and how they are opened."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from inpaint.data.decoded import DecodedSplit, SyntheticSpec, open_images
from inpaint.holes.spec import HoleSpec
from inpaint.sources.keys import Split, key_hash

SPEC = HoleSpec.scaled(16)
SYNTHETIC = SyntheticSpec(num_train=40, num_validation=8, num_test=4, seed=1)


def paint(path: Path, size: tuple[int, int] = (20, 20)) -> Path:
    """An image of one colour, which its name decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour_of(path.name)).save(path, "PNG")
    return path


def colour_of(name: str) -> tuple[int, int, int]:
    bits = key_hash(name)
    return bits & 255, bits >> 8 & 255, bits >> 16 & 255


def folder_of(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        paint(root / name)
    return root


def many(num: int = 150) -> list[str]:
    return [f"{('coast', 'lake')[index % 2]}/{index:04d}.png" for index in range(num)]


def opened(
    path: Path | str | None, cache_dir: Path, spec: HoleSpec = SPEC, bad: float = 0.0
) -> dict[Split, DecodedSplit]:
    return open_images(
        None if path is None else str(path),
        spec,
        cache_dir=cache_dir,
        max_bad_fraction=bad,
        synthetic=SYNTHETIC,
        show_progress=False,
    )


def names_in(splits: dict[Split, DecodedSplit]) -> set[str]:
    return {str(source) for split in splits.values() for source in split.sources}
