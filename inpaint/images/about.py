"""Owns what an image's file says beside its pixels, and what of that still holds once holes in it are filled."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from PIL import Image
from PIL.ExifTags import IFD, Base

from inpaint.images.pixels import FIRST_SIDEWAYS, orientation

# Of the first directory, which in a TIFF also says how the pixels are stored: what is about the photograph.
_KEPT = (
    Base.ImageDescription,
    Base.Make,
    Base.Model,
    Base.XResolution,
    Base.YResolution,
    Base.ResolutionUnit,
    Base.Software,
    Base.DateTime,
    Base.Artist,
    Base.HostComputer,
    Base.Rating,
    Base.RatingPercent,
    Base.Copyright,
    Base.XPTitle,
    Base.XPComment,
    Base.XPAuthor,
    Base.XPKeywords,
    Base.XPSubject,
)
# Of the camera's: a maker's note may hold another small copy of the photograph, and leads to places in the old file.
_LEFT_OUT = (Base.MakerNote, IFD.Interop)
# Of which several pages or pictures in turn may be one file. An MPO's are other views of one photograph.
_OF_FRAMES = ("GIF", "WEBP", "PNG", "TIFF")
# What JPEG and PNG can hold.
_MOST_DPI = 65_535


class About(NamedTuple):
    """What is known of an image beside its pixels."""

    icc_profile: bytes | None = None
    exif: bytes | None = None
    """As Pillow takes it; of an image that stands upright, without a thumbnail."""
    dpi: tuple[float, float] | None = None
    """Across and down."""
    num_frames: int = 1


def num_frames(image: Image.Image) -> int:
    """How many frames or pages the file has of which `image` has just been opened; it stays at the first."""
    if image.format not in _OF_FRAMES:
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001 - a file whose later frames are broken still has its first
        image.seek(0)
        return 1


def is_sideways(image: Image.Image) -> bool:
    """Whether its EXIF says that it is to be turned by a quarter."""
    return orientation(image) >= FIRST_SIDEWAYS


def upright_exif(image: Image.Image, is_turned: bool) -> bytes | None:
    """What is kept of a loaded image's EXIF, as it `is_turned` by a quarter; None if there is none, or it is broken."""
    try:
        found, kept = image.getexif(), Image.Exif()
        kept.update({tag: found[tag] for tag in _KEPT if tag in found})
        camera = {tag: value for tag, value in found.get_ifd(IFD.Exif).items() if tag not in _LEFT_OUT}
        place = dict(found.get_ifd(IFD.GPSInfo))
        if not kept and not camera and not place:
            return None
        if is_turned:
            _swap(kept, Base.XResolution, Base.YResolution)
            _swap(camera, Base.ExifImageWidth, Base.ExifImageHeight)
        kept.update({tag: values for tag, values in ((IFD.Exif, camera), (IFD.GPSInfo, place)) if values})
        kept[Base.Orientation] = 1
        return kept.tobytes()
    except Exception:  # noqa: BLE001 - Pillow raises whatever the broken bytes lead it to
        return None


def upright_dpi(image: Image.Image, is_turned: bool) -> tuple[float, float] | None:
    """Its dots per inch across and down, as it `is_turned`; None if it has none that can be written."""
    try:
        across, down = (float(dpi) for dpi in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if not all(math.isfinite(dpi) and 1 <= dpi <= _MOST_DPI for dpi in (across, down)):
        return None
    return (down, across) if is_turned else (across, down)


def _swap(values: Any, one: int, other: int) -> None:
    if one in values and other in values:
        values[one], values[other] = values[other], values[one]
