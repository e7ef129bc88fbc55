"""Owns how what a user gives as image or mask (a file, open image, array or tensor) becomes a plain array.

An image becomes uint8 or uint16 pixels, [H, W] if grey, else [H, W, 2 (grey, alpha), 3 or 4], upright. A mask becomes
booleans [H, W], true = hole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from inpaint.errors import InpaintError
from inpaint.images import deep
from inpaint.images.about import About, is_sideways, num_frames, upright_dpi, upright_exif
from inpaint.images.pixels import TURNS, orientation

ImageLike = Image.Image | NDArray[np.generic] | Tensor | str | Path
Pixels = NDArray[Any]

# Premultiplied by their transparency.
_PLAIN = {"La": "LA", "RGBa": "RGBA"}
# The kinds of image that are kept; others become the nearest of these that loses nothing visible.
_KINDS = ("L", "LA", "RGB", "RGBA", "I;16")


def read_image(source: ImageLike) -> tuple[Pixels, About]:
    """The pixels, and what else is known: the colour profile where it still holds, EXIF and resolution turned upright.

    Raises:
        InpaintError: it is not an image, is damaged, or is of a kind that cannot be kept.
    """
    if isinstance(source, np.ndarray | Tensor):
        return _from_array(source, "image"), About()
    with _opened(source, "image") as image:
        num = 1 if isinstance(source, Image.Image) else num_frames(image)
        was_turned = image.format == "TIFF" and is_sideways(image)  # others would be loaded for it
        if deep.is_deep(image):
            pixels = deep.read(image)
            if (turn := TURNS.get(orientation(image))) is not None:
                places = np.arange(pixels[..., 0].size, dtype=np.int32).reshape(pixels.shape[:2])
                pixels = pixels.reshape(-1, pixels.shape[2])[np.asarray(Image.fromarray(places).transpose(turn))]
            about = _about(image, was_turned, num)
            return np.ascontiguousarray(pixels), about
        upright = _upright(image)
        about = _about(image, was_turned, num)
    kept = _to_kind(upright)
    profile = upright.info.get("icc_profile") if upright.mode in (kept.mode, "P") else None
    pixels = np.asarray(kept)
    if kept.mode == "I;16" and upright.has_transparency_data:
        alpha = np.where(pixels == upright.info["transparency"], 0, 65_535)
        pixels = np.stack([pixels, alpha.astype(np.uint16)], axis=-1)
    return pixels, about._replace(icc_profile=profile)


def _about(image: Image.Image, was_turned: bool, num: int) -> About:
    """Of a loaded image; Pillow turns a TIFF as it loads it, so that it has to be known from before."""
    is_turned = was_turned or is_sideways(image)
    return About(image.info.get("icc_profile"), upright_exif(image, is_turned), upright_dpi(image, is_turned), num)


def read_mask(source: ImageLike, size: tuple[int, int], resize: bool) -> NDArray[np.bool_]:
    """The hole, of the image's `size` (height, width).

    Raises:
        InpaintError: it is not an image, has another size and is not to be resized, or is neither black nor has white.
    """
    if isinstance(source, np.ndarray | Tensor):
        mask = Image.fromarray(_from_array(source, "mask"))
    else:
        with _opened(source, "mask") as image:
            mask = _upright(image)
    grey = _to_grey(mask)
    brightest = int(np.asarray(grey).max())
    if grey.size != size[::-1]:
        if not resize:
            raise InpaintError(
                f"the mask is {grey.width}x{grey.height} pixels and the image {size[1]}x{size[0]}; they must have "
                "the same size (or have the mask scaled: resize_mask=True, --resize-mask)"
            )
        grey = grey.resize(size[::-1], Image.Resampling.BILINEAR)
    hole = np.asarray(grey) >= 128
    if brightest == 1:
        raise InpaintError("the mask's largest value is 1, but white is 255: multiply it by 255, or give booleans")
    if 0 < brightest < 128:
        raise InpaintError(
            f"the mask has no white: its largest value, as grey, is {brightest} of 255, and only 128 or more is "
            "filled; paint the hole white"
        )
    if brightest and not hole.any():
        raise InpaintError(
            f"the white in the mask is too thin: none of it is left at {size[1]}x{size[0]} pixels; paint it thicker"
        )
    return hole


@contextmanager
def _opened(source: object, what: str) -> Iterator[Image.Image]:
    """The image, not yet decoded; any error within becomes one line about `what` it is (image or mask)."""
    try:
        if isinstance(source, Image.Image):
            yield source
        elif isinstance(source, str | PathLike) or hasattr(source, "read"):
            with Image.open(source) as image:  # type: ignore[arg-type]
                yield image
        else:
            raise TypeError(
                f"it is a {type(source).__name__}; allowed: an open image, a file's path, a NumPy array or a tensor"
            )
    except FileNotFoundError as error:
        raise InpaintError(f"there is no {what} {source}") from error
    except InpaintError:
        raise
    except UnidentifiedImageError as error:
        raise InpaintError(
            f"the {what}{_name(source)} cannot be read: not a kind of image that Pillow knows"
        ) from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise InpaintError(
            f"the {what}{_name(source)} is too large: up to {most:.0f} megapixels are read; scale it down, or cut it"
        ) from error
    except Exception as error:  # Pillow's readers raise whatever the broken bytes lead them to
        raise InpaintError(f"the {what}{_name(source)} cannot be read: {' '.join(str(error).split())}") from error


def _name(source: object) -> str:
    return f" {source}" if isinstance(source, str | PathLike) else ""


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # first, since some formats keep the orientation behind the pixels
    turn = TURNS.get(orientation(image))
    upright = image if turn is None else image.transpose(turn)
    return upright.convert(_PLAIN[upright.mode]) if upright.mode in _PLAIN else upright


def _from_array(array: NDArray[Any] | Tensor, what: str) -> Pixels:
    kind = "a tensor" if isinstance(array, Tensor) else "an array"
    if isinstance(array, Tensor):
        given = array.detach().cpu()
        pixels: Pixels = (given.float() if given.is_floating_point() else given).numpy()
        pixels = pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels  # channels come first
    else:
        pixels = array
    pixels = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    is_shaped = pixels.size and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4)))
    if what == "mask" and is_shaped and pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * 255
    if is_shaped and pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1:
        return np.rint(pixels * 255).astype(np.uint8)
    if is_shaped and (
        pixels.dtype == np.uint8 or (pixels.dtype == np.uint16 and not (what == "mask" and pixels.ndim == 3))
    ):
        return pixels
    seen = f" from {pixels.min():g} to {pixels.max():g}" if pixels.size and pixels.dtype.kind in "fiu" else ""
    allowed = "[H, W] or [H, W, 3 or 4] (a tensor: [C, H, W]) of uint8, uint16 or floats in [0, 1]"
    allowed += ", or booleans" if what == "mask" else ""
    raise InpaintError(f"the {what} is {kind} {pixels.dtype} {list(array.shape)}{seen}; allowed: {allowed}")


def _to_kind(image: Image.Image) -> Image.Image:
    """The image as one of `_KINDS`."""
    if image.mode.startswith("I"):
        return _sixteen_bits(image)
    if image.mode == "F":
        raise InpaintError("it is not known which value is white in an image of floats; save it with 8 or 16 bits")
    if image.has_transparency_data:
        return image.convert("LA" if image.mode in ("L", "LA") else "RGBA")
    return image.convert(image.mode if image.mode in _KINDS else {"1": "L"}.get(image.mode, "RGB"))


def _sixteen_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65_535:
        raise InpaintError(
            f"the image's values range from {values.min()} to {values.max()}; save it with 8 or 16 bits (0 to 65535)"
        )
    return Image.fromarray(values.astype(np.uint16))


def _to_grey(mask: Image.Image) -> Image.Image:
    """The mask as 8-bit grey, transparent parts black."""
    if mask.mode.startswith("I"):
        values = np.asarray(_sixteen_bits(mask))
        # Some programs write values of 8 bits into wider ones.
        mask = Image.fromarray(
            values.astype(np.uint8) if values.max() < 256 else np.rint(values / 257).astype(np.uint8)
        )
    elif mask.has_transparency_data:
        layer = mask.convert("RGBA")
        mask = Image.new("RGB", layer.size)
        mask.paste(layer, mask=layer.getchannel("A"))
    return mask.convert("L")
