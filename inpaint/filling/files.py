"""Owns which files are to be filled: each image with its mask, and where the result goes."""

from __future__ import annotations

import glob
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from inpaint.errors import InpaintError, UsageError
from inpaint.files import NO_RIGHT, require_replaceable
from inpaint.images.pixels import IMAGE_SUFFIXES
from inpaint.images.writing import format_of

# What a name ends in that is a folder's.
_SEPARATORS = ("/", os.sep)


class Files(NamedTuple):
    """What to fill, where, and where to put it."""

    image: Path
    mask: Path
    output: Path

    @property
    def is_done(self) -> bool:
        """Whether the output is there and newer than what it is made from."""
        try:
            made = self.output.stat().st_mtime_ns
            return self.output.is_file() and made >= max(self.image.stat().st_mtime_ns, self.mask.stat().st_mtime_ns)
        except FileNotFoundError:
            return False


def one_of(image: Path, mask: Path, output: str) -> Files:
    """Those of one image; if `output` is a folder, the result goes there as PNG under the image's name."""
    if not image.is_file():
        raise InpaintError(f"there is no image or folder {image}")
    if mask.is_dir():
        raise UsageError(f"{image} is a file and {mask} a folder: give a mask, or a folder of images")
    if not mask.is_file():
        raise InpaintError(f"there is no mask {mask}")
    place = Path(output)
    if output.endswith(_SEPARATORS) or place.is_dir():
        place = place / f"{image.stem}.png"
    format_of(place)
    require_replaceable(place)
    return Files(image, mask, place)


def all_of(given: Sequence[str], mask: Path, folder: str) -> list[Files]:
    """Those of every image that is given, in folders, by patterns or by name; results are PNG under their names.

    The mask is one for all, or a folder with one of the same name for each; what has no partner is listed on stderr.

    Raises:
        InpaintError: there are none, or no such files.
        UsageError: two images of one name, or an output that is a file or has the name of one.
    """
    output = Path(folder)
    if output.exists() and not output.is_dir():
        raise UsageError(f"the output {output} is a file; for several images it must be a folder")
    if not output.exists() and not folder.endswith(_SEPARATORS) and output.suffix.lower() in IMAGE_SUFFIXES:
        raise UsageError(
            f"the output {output} is the name of a file; several images need a folder, such as "
            f"{output.with_suffix('')}/"
        )
    image_of = _by_stem(path for pattern in given for path in _found(pattern) if path != mask)
    where = ", ".join(given[:3]) + ", ..." * (len(given) > 3)
    if mask.is_file():
        if not image_of:
            raise InpaintError(f"there is no image in {where}")
        return [Files(path, mask, output / f"{stem}.png") for stem, path in sorted(image_of.items())]
    if not mask.is_dir():
        raise InpaintError(f"there is no mask and no folder of masks {mask}")
    mask_of = _by_stem(_found(str(mask)))
    paired = sorted(image_of.keys() & mask_of)
    if not paired:
        raise InpaintError(
            f"no image in {where} ({len(image_of)}) has the name of a mask in {mask} ({len(mask_of)}); names are "
            "compared without the extension"
        )
    for missing, lonely in (("mask", image_of.keys() - mask_of), ("image", mask_of.keys() - image_of)):
        if lonely:
            print(f"skipped, no {missing} of the same name: {', '.join(sorted(lonely))}", file=sys.stderr)
    return [Files(image_of[stem], mask_of[stem], output / f"{stem}.png") for stem in paired]


def is_pattern(given: str) -> bool:
    """Whether it stands for several files, as `photos/*.jpg` does where no shell has replaced it."""
    return glob.has_magic(given) and not os.path.exists(given)  # noqa: PTH110 - Path.exists raises for a long name


def prepare_folder(folder: Path) -> None:
    """Make it where there is none; InpaintError, before the time that filling takes, unless files can be put there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InpaintError(f"cannot create the folder {folder}: {error.strerror}") from error
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        if error.errno in NO_RIGHT:
            raise InpaintError(f"cannot write into the folder {folder}: {error.strerror}; give another") from error


def _found(given: str) -> list[Path]:
    """The images directly in a folder, those that a pattern matches (`**` folders of any depth), or one."""
    if is_pattern(given):
        found = [Path(name) for name in sorted(glob.glob(given, recursive=True))]  # noqa: PTH207 - absolute ones too
        if not found:
            raise InpaintError(f"no file is named like {given}")
    elif (path := Path(given)).is_dir():
        found = sorted(path.iterdir())
    elif path.is_file():
        return [path]
    else:
        raise InpaintError(f"there is no image or folder {given}")
    ends = Image.registered_extensions()
    return [p for p in found if p.suffix.lower() in ends and not p.name.startswith(".") and p.is_file()]


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Images by their names without the extension."""
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found and found[path.stem] != path:
            raise UsageError(f"{found[path.stem]} and {path} have one name but for folder and extension: rename one")
        found[path.stem] = path
    return found
