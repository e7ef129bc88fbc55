"""Owns colour images of 16 bits a channel, which Pillow reads as 8 bits and cannot hold: read and written exactly."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin
from PIL.ExifTags import IFD

from inpaint.images.about import About

FORMATS = ("PNG", "TIFF")


def is_deep(image: Image.Image) -> TypeGuard[ImageFile.ImageFile]:
    """Whether the file behind an image that has just been opened holds more bits a channel than Pillow will give.

    Looked for in PNG, TIFF, SGI, PPM, JPEG 2000 and AVIF. Of an image that has been loaded nobody can tell.
    """
    if not isinstance(image, ImageFile.ImageFile) or image.fp is None or image.mode.startswith(("I", "F")):
        return False
    tiles, file = image.tile, image.fp
    if not tiles:
        return False
    codec, arguments = tiles[0][0], tiles[0][3]
    raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    if codec == "SGI16" or re.search(";16[BLN]$", str(raw_mode)):
        return True
    if image.format == "PPM":
        return isinstance(arguments, tuple) and arguments[1] > 255
    if image.format not in ("JPEG2000", "AVIF"):
        return False
    position = file.tell()
    file.seek(0)
    head = file.read(4096)
    file.seek(position)
    if size := re.search(rb"\xff\x4f\xff\x51.{38}(.)", head, re.DOTALL):
        return (size[1][0] & 0x7F) >= 8  # Ssiz of the first component: bits less one
    av1 = re.search(rb"av1C..(.)", head, re.DOTALL)
    return av1 is not None and bool(av1[1][0] & 0x40)  # high_bitdepth


def read(image: ImageFile.ImageFile) -> NDArray[np.uint16]:
    """The pixels behind a PNG or TIFF that has just been opened, as they lie: [H, W, 2, 3 or 4].

    Raises:
        ValueError: another format, or a kind of image that would not come back as it is.
    """
    raw_mode = str(image.tile[0][3])
    if image.format not in FORMATS or image.mode not in ("RGB", "RGBA") or "RGBa" in raw_mode:
        raise ValueError(
            f"it has more than 8 bits a channel in a form ({image.format}, {image.mode}) that cannot be kept; save it "
            "as a 16-bit PNG, or with 8 bits"
        )
    import cv2

    file, has_alpha = image.fp, image.has_transparency_data
    assert file is not None
    position = file.tell()
    file.seek(0)
    stored = np.frombuffer(file.read(), np.uint8)
    file.seek(position)
    image.load()  # tells what is truncated, and is compared with
    pixels = cv2.imdecode(stored, cv2.IMREAD_UNCHANGED)
    num_channels = 4 if has_alpha else 3
    if pixels is not None and pixels.dtype == np.uint16 and pixels.ndim == 3 and pixels.shape[2] >= num_channels:
        pixels = pixels[:, :, [2, 1, 0, 3][:num_channels]]
        seen = image if image.mode != "RGB" or not has_alpha else image.convert("RGBA")
        # Two readers have to agree: on the size, the order of the channels, and that nothing was converted.
        deep = np.ascontiguousarray(pixels, np.uint16)
        if deep.shape[:2] == seen.size[::-1] and np.array_equal((deep >> 8).astype(np.uint8), np.asarray(seen)):
            return deep[:, :, [0, 3]] if raw_mode.startswith("LA") else deep
    raise ValueError("its 16 bits a channel cannot be read exactly; save it as a plain 16-bit PNG, or with 8 bits")


def write(path: Path, kind: str, pixels: NDArray[np.uint16], about: About) -> None:
    """Save [H, W, 2, 3 or 4] as PNG or TIFF, with what is known of it.

    Raises:
        ValueError: another format.
    """
    if kind not in FORMATS:
        raise ValueError(f"{kind} cannot hold 16 bits a channel in colour; PNG and TIFF can")
    if pixels.shape[2] == 2:  # readers of grey with transparency are rare
        pixels = pixels[:, :, [0, 0, 0, 1]]
    if kind == "PNG":
        path.write_bytes(_png(pixels, about))
    else:
        _write_tiff(path, pixels, about)


def _png(pixels: NDArray[np.uint16], about: About) -> bytes:
    import cv2

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    is_written, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]))
    if not is_written:
        raise ValueError("OpenCV could not encode it")
    data = encoded.tobytes()
    told = b""
    if about.icc_profile:
        told += chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(about.icc_profile))
    if about.dpi:
        told += chunk(b"pHYs", struct.pack(">IIB", *(round(dpi / 0.0254) for dpi in about.dpi), 1))  # per metre
    if about.exif:
        told += chunk(b"eXIf", about.exif.removeprefix(b"Exif\0\0"))
    return data[:33] + told + data[33:]  # right behind the signature and IHDR


def _write_tiff(path: Path, pixels: NDArray[np.uint16], about: About) -> None:
    height, width, num_channels = pixels.shape
    strip = zlib.compress(pixels.astype("<u2").tobytes())
    directory: Any = TiffImagePlugin.ImageFileDirectory_v2(b"II\x2a\0\0\0\0\0")
    if about.exif:
        exif = Image.Exif()
        exif.load(about.exif)
        for tag in exif:
            directory[tag] = exif.get_ifd(tag) if tag in (IFD.Exif, IFD.GPSInfo) else exif[tag]
    if about.dpi:
        directory[TiffImagePlugin.RESOLUTION_UNIT] = 2  # per inch
        directory[TiffImagePlugin.X_RESOLUTION], directory[TiffImagePlugin.Y_RESOLUTION] = about.dpi
    directory[TiffImagePlugin.IMAGEWIDTH], directory[TiffImagePlugin.IMAGELENGTH] = width, height
    directory[TiffImagePlugin.BITSPERSAMPLE] = (16,) * num_channels
    directory[TiffImagePlugin.COMPRESSION] = 8  # deflate
    directory[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 2  # RGB
    directory[TiffImagePlugin.SAMPLESPERPIXEL] = num_channels
    directory[TiffImagePlugin.ROWSPERSTRIP] = height
    directory[TiffImagePlugin.STRIPOFFSETS], directory[TiffImagePlugin.STRIPBYTECOUNTS] = 0, len(strip)
    if num_channels == 4:
        directory[TiffImagePlugin.EXTRASAMPLES] = 2  # transparency that is not multiplied in
    if about.icc_profile:
        directory.tagtype[TiffImagePlugin.ICCPROFILE] = 7
        directory[TiffImagePlugin.ICCPROFILE] = about.icc_profile
    with path.open("wb") as file:
        directory.save(file)
        file.write(strip)
