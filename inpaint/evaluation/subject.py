"""Owns what fills are judged on: the images of a split, each with its name, its class and its hole."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from inpaint.config import HoleKinds
from inpaint.data.decoded import DecodedSplit
from inpaint.data.draws import keyed_uniforms
from inpaint.data.synthetic.noise import mix64
from inpaint.errors import InpaintError, UsageError, first_few
from inpaint.holes.kinds import MIXED, HoleMixture
from inpaint.holes.spec import HoleSpec
from inpaint.images.given import read_mask
from inpaint.images.pixels import IMAGE_SUFFIXES, BadImage, open_image
from inpaint.sources.keys import key_hash, key_of

SEEDED = re.compile(r"(?P<kinds>[\w-]+|\{.*\}):(?P<seed>\d+)")
# Holes are drawn and hashed so many images at a time.
AT_ONCE = 1024
NUM_NAMED = 3


@dataclass(frozen=True)
class Subject:
    """N images of side S.

    Attributes:
        pixels: uint8 [N, S, S, 3].
        sources: where each was: a path in the source, or an index.
        labels: the class of each.
        packed: uint8 [N, ceil(S * S / 8)], the masks, eight pixels a byte.
    """

    pixels: NDArray[np.uint8]
    sources: Sequence[str]
    labels: Sequence[str]
    packed: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def size(self) -> int:
        return self.pixels.shape[1]

    def masks(self, chosen: NDArray[np.int64]) -> Tensor:
        """Float [n, 1, S, S], 1 in the hole."""
        bits = np.unpackbits(self.packed[chosen], axis=1, count=self.size**2)
        return torch.from_numpy(bits).reshape(-1, 1, self.size, self.size).float()

    def hole_shares(self) -> NDArray[np.float64]:
        """[N], the hole's share of each image."""
        return np.bitwise_count(self.packed).sum(axis=1, dtype=np.int64) / self.size**2

    def digests(self) -> dict[str, str]:
        """SHA-256 of all pixels and of all masks, in their order."""
        pixels = hashlib.sha256()
        for start in range(0, len(self), AT_ONCE):
            pixels.update(self.pixels[start : start + AT_ONCE].tobytes())
        return {"data": pixels.hexdigest(), "holes": hashlib.sha256(self.packed.tobytes()).hexdigest()}


def subject_of(
    split: DecodedSplit, labels: Mapping[str, str], holes: str, spec: HoleSpec, limit: int | None
) -> Subject:
    """The first `limit` images of a split, with holes as `--holes` asks for.

    Args:
        split: all of them.
        labels: each image's class by its source; none of an image that has none.
        holes: `stored`, KINDS:SEED or a folder of masks; KINDS is a kind, `mixed` or a mapping like
            `data.hole_kinds`.
        spec: the geometry of holes that are drawn.

    Raises:
        UsageError: `holes` is none of the three.
        InpaintError: masks are missing or of another size.
    """
    num = len(split) if limit is None else min(limit, len(split))
    sources = [split.place(index) for index in range(num)]
    classes = [labels.get(source, "") for source in sources]
    size = spec.image_size
    if holes == "stored":
        packed = _packed(split.masks, num)
    elif (asked := SEEDED.fullmatch(holes)) is not None:
        mixture = HoleMixture(_weights(asked["kinds"], holes), spec)
        hashes = np.array([key_hash(key_of(*pair)) for pair in zip(classes, sources, strict=True)], np.uint64)
        # An image's hole depends on the seed and its own key alone, what kind it is of on numbers of its own.
        mixed = mix64(hashes ^ mix64(np.array([int(asked["seed"]) % 2**64], np.uint64)))
        chance = keyed_uniforms(mix64(mixed), 1)[0]
        drawn = torch.from_numpy(mixture.draw(keyed_uniforms(mixed, mixture.num_uniforms), chance)[0])
        packed = _packed(lambda chosen: mixture.rasterise(drawn[torch.from_numpy(chosen)], size), num)
    elif Path(holes).is_dir():
        files = by_name(Path(holes), sources, classes, "mask")
        packed = np.packbits(_read(files, lambda path: read_mask(path, (size, size), resize=False)), axis=None)
        packed = packed.reshape(num, -1)
    else:
        raise UsageError(
            f"--holes {holes!r} is no folder; give `stored`, KIND:SEED such as rectangle:7 or mixed:7, or a folder of "
            "masks with the images' names"
        )
    return Subject(split.pixels[:num], sources, classes, packed)


def read_fills(folder: Path, subject: Subject) -> Callable[[NDArray[np.int64]], Tensor]:
    """Another system's images, found by name and of the right size: (which) -> [n, 3, S, S] in [0, 1].

    Raises:
        UsageError: there is no such folder.
        InpaintError: fills are missing, of another size or unreadable; the first few of each are named.
    """
    if not folder.is_dir():
        raise UsageError(f"--fills {folder} is no folder; give one with an image for each that is judged, of its name")
    files = by_name(folder, subject.sources, subject.labels, "fill")

    def check(path: Path) -> None:
        with Image.open(path) as image:
            _refuse_size(image.size, subject.size)

    _read(files, check)

    def read(chosen: NDArray[np.int64]) -> Tensor:
        pixels = np.stack(_read([files[index] for index in chosen], lambda path: np.asarray(open_image(path))))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255

    return read


def by_name(folder: Path, sources: Sequence[str], labels: Sequence[str], what: str) -> list[Path]:
    """The file of each image: at its path or key in `folder`, or of its name wherever, the extension left aside.

    Raises:
        InpaintError: images have none, or more than one.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            name = _bare(path.relative_to(folder).as_posix())
            for alias in {name, PurePosixPath(name).name}:
                found.setdefault(alias, []).append(path)
    stems = Counter(PurePosixPath(_bare(source)).name for source in sources)
    files: list[Path] = []
    missing: list[str] = []
    several: list[str] = []
    for source, label in zip(sources, labels, strict=True):
        bare, key = _bare(source), _bare(key_of(label, source))
        stem = PurePosixPath(bare).name
        names = [bare, key, *([stem] if stems[stem] == 1 else [])]
        paths: list[Path] = next((found[name] for name in names if name in found), [])
        if len(paths) == 1:
            files.append(paths[0])
        else:
            (several if paths else missing).append(f"{bare} ({', '.join(map(str, paths[:2]))})" if paths else bare)
    faults = [
        f"{len(names)} of {len(sources)} images have {fault} there: {', '.join(first_few(names, NUM_NAMED))}"
        for names, fault in ((missing, f"no {what}"), (several, f"more than one {what}"))
        if names
    ]
    if faults:
        raise InpaintError(
            f"{folder}: {'; '.join(faults)}. A {what} is found by its image's path, or by its file's name where that "
            "is unique"
        )
    return files


def _weights(kinds: str, holes: str) -> dict[str, float]:
    """Of the kinds that `--holes` names; UsageError if it names none."""
    try:
        weights = yaml.safe_load(kinds) if kinds.startswith("{") else MIXED if kinds == "mixed" else {kinds: 1.0}
        return TypeAdapter(HoleKinds).validate_python(weights)
    except (yaml.YAMLError, ValidationError) as error:
        faults = error.errors() if isinstance(error, ValidationError) else []
        told = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in faults) or "it is no mapping"
        raise UsageError(
            f"--holes {holes}: {told}. Before :SEED may stand a kind, `mixed`, or their weights, such as "
            "{strokes: 2, blobs: 1}"
        ) from error


def _read(files: Iterable[Path], read: Callable[[Path], Any]) -> list[Any]:
    """What `read` makes of every file; what it refuses of any is told together."""
    found, faults = [], []
    for path in files:
        try:
            found.append(read(path))
        except (InpaintError, BadImage, OSError, Image.DecompressionBombError) as error:
            faults.append(f"{path}: {' '.join(str(error).split())}")
    if faults:
        told = "; ".join(first_few(faults, NUM_NAMED))
        raise InpaintError(f"{len(faults)} of {len(found) + len(faults)} files cannot be used: {told}")
    return found


def _refuse_size(size: tuple[int, int], side: int) -> None:
    if size != (side, side):
        raise InpaintError(f"it is {size[0]}x{size[1]} pixels, and the images are judged at {side}x{side}")


def _packed(masks: Callable[[NDArray[np.int64]], Tensor], num: int) -> NDArray[np.uint8]:
    parts = np.split(np.arange(num), range(AT_ONCE, num, AT_ONCE))
    return np.concatenate([np.packbits(masks(chosen).flatten(1).numpy() > 0, axis=1) for chosen in parts])


def _bare(name: str) -> str:
    """A path without the ending that makes it an image's."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in IMAGE_SUFFIXES else name
