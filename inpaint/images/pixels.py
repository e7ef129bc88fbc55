"""Owns the way from an image file, whatever its kind, to RGB pixels of the wanted size."""

from __future__ import annotations

import importlib.util
import io
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError, features

BadReason = Literal["unreadable", "truncated", "too small", "too large"]

# What Pillow takes for an image, by the ends of names.
# fmt: off
_SUFFIXES = frozenset((
    ".apng", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx", ".pbm", ".pgm", ".png",
    ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
))
# fmt: on
# What it takes with a part that not every installation has, and how to get that.
_OPTIONAL_SUFFIXES = {
    ".avif": "a Pillow that reads AVIF (11.3 or newer)",
    ".heic": "pip install 'inpaint[heic]'",
    ".heif": "pip install 'inpaint[heic]'",
}


def _add_readers() -> frozenset[str]:
    """What can be read here of the optional kinds."""
    found = {".avif"} if features.check("avif") else set()
    if importlib.util.find_spec("pillow_heif") is not None:
        import pillow_heif

        pillow_heif.register_heif_opener()
        found |= {".heic", ".heif"}
    return frozenset(found)


IMAGE_SUFFIXES = _SUFFIXES | _add_readers()
UNREAD_SUFFIXES = {end: remedy for end, remedy in _OPTIONAL_SUFFIXES.items() if end not in IMAGE_SUFFIXES}
# EXIF tag 0x0112: how a viewer must turn the stored pixels.
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FIRST_SIDEWAYS = 5

# A JPEG is decoded no smaller than so many times the wanted side, which leaves the averaging to us.
DECODED_SIDES = 4

# A damaged image is named once, by the caller, and Pillow's warning at 89 million pixels is no fault: cameras make
# such images. What it refuses, twice as many, is refused here too.
warnings.filterwarnings("ignore", module=r"PIL\.")


class BadImage(Exception):  # noqa: N818 - it is about the image, not an error of the program
    """An image that cannot be used; the caller skips and counts it by its reason, or tells the user."""

    def __init__(self, reason: BadReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def open_image(source: bytes | Path | Image.Image, at_least: int | None = None) -> Image.Image:
    """The image as RGB, upright: what a viewer would show, transparent parts over white.

    Of a moving image the first frame. More than 8 bits a channel are scaled to 8, never clipped.

    Args:
        source: a file's bytes, its path, or an open image (left as it is).
        at_least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, both sides still this many pixels: about four
            times as fast for a camera's. By default at its full size.

    Raises:
        BadImage: not an image, damaged, or so large that it must be an attack or a mistake.
    """
    return _open(source, at_least)[0]


def decode_square(
    source: bytes | Path, size: int, min_side: int | None = None
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The one way from a file to what is stored or trained on, so that an image has the same pixels on every way.

    As `open_image` and `square`. Returns [size, size, 3], and the width and height of the whole image, upright, in
    its own pixels.
    """
    image, full = _open(source, DECODED_SIDES * size)
    return square(image, size, min_side), full


def _open(source: bytes | Path | Image.Image, at_least: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """The image, and its full size."""
    try:
        if isinstance(source, Image.Image):
            return _to_rgb(source), source.size
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            width, height = image.size
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            rgb = _to_rgb(image)
            return rgb, (height, width) if orientation(image) >= FIRST_SIDEWAYS else (width, height)
    except Image.DecompressionBombError as error:
        raise BadImage("too large", str(error).split(", could be")[0]) from error
    except UnidentifiedImageError as error:
        raise BadImage("unreadable", "not a kind of image that Pillow knows") from error
    except Exception as error:  # Pillow's readers raise whatever the broken bytes lead them to
        raise BadImage(*_fault(error)) from error


def square(image: Image.Image, size: int, min_side: int | None = None) -> NDArray[np.uint8]:
    """The largest centred square of an RGB image at `size` pixels: [size, size, 3].

    Smaller by area: each new pixel is the mean of the ones it covers, parts of pixels by their share. Larger by
    bicubic interpolation.

    Args:
        min_side: smallest shorter side allowed, in pixels; by default half of `size`, since an image enlarged more
            than twice teaches blur.

    Raises:
        BadImage: the image is smaller than that.
    """
    min_side = (size + 1) // 2 if min_side is None else min_side
    side = min(image.size)
    if side < min_side:
        raise BadImage("too small", f"{image.width}x{image.height}; the shorter side must be at least {min_side}")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side < size:
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    import cv2

    # Pillow's BOX gives a pixel to one neighbour whole: unevenly sharp at fractional ratios such as 100 to 64.
    return np.asarray(cv2.resize(np.asarray(image), (size, size), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()  # first, since some formats keep the orientation behind the pixels
    turn = TURNS.get(orientation(image))
    profile = image.info.get("icc_profile")
    if image.mode.startswith(("I", "F")):
        image = _to_eight_bits(image)
    elif image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGB", layer.size, "white")
        image.paste(layer, mask=layer.getchannel("A"))
    rgb = _to_srgb(image, profile) if profile else image.convert("RGB")
    return rgb if turn is None else rgb.transpose(turn)


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The image in the colours that its profile means; a profile that cannot be used is passed over."""
    mode, transform = _transform(profile)
    image = image if image.mode == mode else image.convert("RGB")
    if transform is None or image.mode != mode:
        return image.convert("RGB")
    return ImageCms.applyTransform(image, transform) or image


@lru_cache(maxsize=64)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The mode that a profile is about, and what makes sRGB of it; None if it is that, or no profile."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"GRAY": "L"}.get(opened.profile.xcolor_space.strip(), opened.profile.xcolor_space.strip())
        if "sRGB" in ImageCms.getProfileDescription(opened):
            return mode, None
        return mode, ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return "", None


def orientation(image: Image.Image) -> int:
    """How a viewer must turn the image, a key of `TURNS` or 1: as it lies."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - an image with broken EXIF is still an image; taken as it lies
        return 1


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Grey images of 16 or 32 bits or floats: their full scale becomes 255.

    The scale is the smallest usual one that holds the brightest pixel: 65,535, for floats also 1 and 255.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0)
    brightest = values.max()
    usual = (1.0, 255.0, 65_535.0) if image.mode == "F" else (65_535.0,)
    scale = next((top for top in usual if brightest <= top), brightest)
    return Image.fromarray((np.clip(values / scale, 0, 1) * 255 + 0.5).astype(np.uint8))


def _fault(error: Exception) -> tuple[BadReason, str]:
    """Which kind of fault an exception of Pillow's is."""
    text = " ".join(str(error).split()) or type(error).__name__
    damaged = ("truncated", "broken data stream", "incomplete", "unexpected end")
    if isinstance(error, EOFError) or any(word in text.lower() for word in damaged):
        return "truncated", text
    return "unreadable", text
