"""Owns how a filled image becomes a file: whole or not at all, and exactly or not at all, but for JPEG."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from inpaint.errors import InpaintError, UsageError
from inpaint.files import require_replaceable
from inpaint.images import deep
from inpaint.images.about import About
from inpaint.images.job import Filled

# Of the formats that lose something, or most of their time, unless they are told otherwise: the fastest level of PNG
# takes a sixth of the time of the usual one, and a tenth more bytes of a photograph.
_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95},
    "WEBP": {"lossless": True, "exact": True},
    "PNG": {"compress_level": 1},
}
# These hold every kind of image that there is here, so that what was written need not be read back.
_HOLDS_ALL = ("PNG", "JPEG")
_HOLDS_EXIF = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF")
_HOLDS_DPI = ("PNG", "JPEG", "TIFF", "BMP")
_MOST_EXIF_OF_JPEG = 65_533


def save(filled: Filled, path: Path) -> None:
    """Write an image in the format of the path's extension, with what this can hold of its EXIF.

    A symbolic link stays, and what it leads to is written.

    Raises:
        InpaintError: the place cannot be written to, or the format cannot hold the image exactly.
        UsageError: no format has this extension, or there is something that is no file, as a device.
    """
    kind = format_of(path)
    # A file put in a link's place would leave what it leads to as it was.
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    part = place.with_name(f".{place.name}.part")
    try:
        require_replaceable(path)
        if filled.pixels.dtype == "uint16" and filled.pixels.ndim == 3:
            deep.write(part, kind, filled.pixels, About(filled.icc_profile, filled.exif, filled.dpi))
        else:
            image = filled.to_image()
            image.save(part, kind, icc_profile=filled.icc_profile, **_about(filled, kind), **_OPTIONS.get(kind, {}))
            if kind not in _HOLDS_ALL and not _holds(part, image):
                raise ValueError(f"{kind} cannot hold an image of this kind ({image.mode}) exactly")
        part.replace(place)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or f"{error}; PNG can hold every kind of image"
        raise InpaintError(f"cannot write {path}: {reason}") from error
    finally:
        with suppress(OSError):  # where nothing can be written, nothing is left
            part.unlink()


def format_of(path: Path) -> str:
    """Pillow's name of the format that the extension stands for; PNG where there is none.

    Raises:
        UsageError: no format that can be written has this extension.
    """
    kind = Image.registered_extensions().get(path.suffix.lower(), "") if path.suffix else "PNG"
    Image.init()
    if kind not in Image.SAVE:
        raise UsageError(f"no image can be written as {path.suffix!r} ({path}); use .png, .jpg, .webp or .tiff")
    return kind


def _about(filled: Filled, kind: str) -> dict[str, Any]:
    """What of EXIF and resolution a format can hold, as Pillow's options."""
    exif = filled.exif if kind in _HOLDS_EXIF else None
    if kind == "JPEG" and exif and len(exif) > _MOST_EXIF_OF_JPEG:
        exif = None
    options: dict[str, Any] = {"exif": exif, "dpi": filled.dpi if kind in _HOLDS_DPI else None}
    return {name: value for name, value in options.items() if value}


def _holds(path: Path, image: Image.Image) -> bool:
    """Whether reading the file gives exactly the image that was written."""
    with Image.open(path) as back:
        if image.mode.startswith("I"):
            return back.mode == image.mode and back.tobytes() == image.tobytes()
        return back.size == image.size and back.convert(image.mode).tobytes() == image.tobytes()
