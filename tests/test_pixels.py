"""Every kind of image becomes what a viewer shows, or is named as bad; squares are true means over areas."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, features

from inpaint.images.pixels import ORIENTATION, BadImage, decode_square, open_image, square
from inpaint.sources.archive import PathSource


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def transparent_palette() -> bytes:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    return encode(image, transparency=1)


def moving() -> bytes:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


def deep(value: float, dtype: type, kind: str = "TIFF") -> bytes:
    values = np.full((4, 4), value, dtype=dtype)
    values[0, 0] = 0
    return encode(Image.fromarray(values), kind)


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        pytest.param(encode(Image.new("L", (4, 4), 90)), (90, 90, 90), id="grey"),
        pytest.param(encode(Image.new("1", (4, 4), 1)), (255, 255, 255), id="one bit"),
        pytest.param(encode(Image.new("LA", (4, 4), (0, 51))), (204, 204, 204), id="grey with alpha"),
        pytest.param(encode(Image.new("RGBA", (4, 4), (255, 0, 0, 51))), (255, 204, 204), id="RGBA"),
        pytest.param(transparent_palette(), (255, 255, 255), id="transparent palette"),
        pytest.param(encode(Image.new("P", (4, 4), 0)), (0, 0, 0), id="palette"),
        pytest.param(deep(0x6000, np.uint16, "PNG"), (96, 96, 96), id="16 bit PNG"),
        pytest.param(deep(0x6000, np.uint16), (96, 96, 96), id="16 bit TIFF"),
        pytest.param(deep(0x6000, np.int32), (96, 96, 96), id="32 bit"),
        pytest.param(deep(0.4, np.float32), (102, 102, 102), id="float to 1"),
        pytest.param(deep(100.0, np.float32), (100, 100, 100), id="float to 255"),
        pytest.param(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "TIFF"), (255, 0, 0), id="CMYK"),
        pytest.param(moving(), (255, 0, 0), id="first frame"),
    ],
)
def test_each_kind_becomes_what_a_viewer_shows(data: bytes, colour: tuple[int, int, int], tmp_path: Path) -> None:
    file = tmp_path / "picture"
    file.write_bytes(data)
    for source in (data, file, Image.open(io.BytesIO(data))):
        image = open_image(source)
        assert image.mode == "RGB"
        assert image.getpixel((2, 2)) == pytest.approx(colour, abs=1)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
def test_images_stand_upright(kind: str) -> None:
    for orientation in range(1, 10):  # 9 means nothing
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        data = encode(noise(24, 16), kind, exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        np.testing.assert_array_equal(np.asarray(open_image(data)), expected)


def test_broken_exif_does_not_cost_the_image() -> None:
    assert open_image(encode(noise(24, 16), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")).size == (24, 16)


def claiming(width: int, height: int) -> bytes:
    """A PNG of one pixel whose header says otherwise."""
    data = bytearray(encode(Image.new("L", (1, 1))))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "unreadable"),
        (b"<!DOCTYPE html><p>404", "unreadable"),
        (encode(noise(64, 64), "JPEG")[:-200], "truncated"),
        (encode(noise(64, 64), "PNG")[:3000], "truncated"),
        (encode(noise(64, 64), "TIFF")[:-3000], "truncated"),
        (claiming(20_000, 20_000), "too large"),
    ],
)
def test_bad_images_are_named(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage) as caught:
        open_image(data)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value) and "object at 0x" not in str(caught.value)


def test_a_missing_file_is_a_bad_image(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="No such file"):
        open_image(tmp_path / "gone.jpg")


def test_a_very_large_image_warns_nobody(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    file.write_bytes(claiming(12_000, 9_000))
    program = """
import sys
from pathlib import Path
from inpaint.images.pixels import BadImage, open_image
try:
    open_image(Path(sys.argv[1]))
except BadImage as fault:
    print(fault.reason)
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", program, file], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("truncated\n", "")


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"]), st.data())
def test_damaged_bytes_give_an_image_or_a_bad_image(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(encode(noise(20, 20), kind))
    for _ in range(3):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = open_image(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
    except BadImage:
        return
    assert image.mode == "RGB"


def area_means(pixels: NDArray[np.uint8], size: int) -> NDArray[np.float64]:
    """By the definition: each new pixel is the mean over the area it covers."""
    edges = np.arange(size + 1) * len(pixels) / size
    low, high = edges[:-1, None], edges[1:, None]
    place = np.arange(len(pixels))
    share = np.clip(np.minimum(place + 1, high) - np.maximum(place, low), 0, None) / (high - low)
    return np.einsum("ik,klc,jl->ijc", share, pixels.astype(np.float64), share, optimize=True)


@pytest.mark.parametrize("side", [64, 96, 100, 256])
def test_square_is_the_mean_over_areas_of_the_centre(side: int) -> None:
    image = noise(side + 31, side)
    middle = np.asarray(image)[:, 15 : 15 + side]
    np.testing.assert_allclose(square(image, 64), area_means(middle, 64), atol=0.51)
    np.testing.assert_array_equal(
        square(image.transpose(Image.Transpose.TRANSPOSE), 64), square(image, 64).swapaxes(0, 1)
    )


def test_small_images_are_enlarged_up_to_twice() -> None:
    assert square(Image.new("RGB", (40, 32), "red"), 64).tolist() == np.full((64, 64, 3), (255, 0, 0)).tolist()
    assert square(noise(8, 8), 64, min_side=8).shape == (64, 64, 3)
    with pytest.raises(BadImage, match="100x31; the shorter side must be at least 32"):
        square(noise(100, 31), 64)


def test_a_reduced_jpeg_looks_the_same() -> None:
    data = encode(noise(32, 32).resize((1024, 768), Image.Resampling.BICUBIC), "JPEG", quality=95)
    reduced = open_image(data, at_least=128)
    assert 128 <= min(reduced.size) < 768
    whole = square(open_image(data), 64).astype(int)
    assert np.abs(square(reduced, 64) - whole).mean() < 2


def test_a_reduced_jpeg_tells_its_full_size_upright() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for orientation, size in ((None, (900, 700)), (exif, (700, 900))):
        data = encode(noise(900, 700), "JPEG", **({"exif": orientation} if orientation else {}))
        pixels, full = decode_square(data, 32)
        assert (pixels.shape, full) == ((32, 32, 3), size)
        assert open_image(data, at_least=4 * 32).size != size


def profile(gamma: float, swap: bool = False) -> bytes:
    """An ICC profile of RGB whose curve is a power, its red and green swapped or not, from sRGB's own."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {
        bytes(data[at : at + 4]): struct.unpack(">II", data[at + 4 : at + 12])
        for at in range(132, 132 + 12 * data[131], 12)
    }
    if swap:
        (red, size), (green, _) = tags[b"rXYZ"], tags[b"gXYZ"]
        data[red : red + size], data[green : green + size] = data[green : green + size], data[red : red + size]
    start, size = tags[b"rTRC"]
    data[start : start + size] = (b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(size))[:size]
    start, size = tags[b"desc"]
    data[start : start + size] = (
        bytes(data[start : start + size]).replace(b"\0s\0R\0G\0B", b"\0m\0i\0n\0e").replace(b"sRGB", b"mine")
    )
    return bytes(data)


def with_profile(colour: object, mode: str, icc: bytes) -> bytes:
    data = io.BytesIO()
    Image.new(mode, (64, 64), colour).save(data, "jpeg" if mode == "CMYK" else "png", icc_profile=icc, quality=100)  # type: ignore[arg-type]
    return data.getvalue()


def test_a_profile_decides_the_colours() -> None:
    """Twice the light at half the value: sRGB's curve inverted."""
    seen = np.asarray(open_image(with_profile((128, 128, 128), "RGB", profile(1.0))))[0, 0].tolist()
    assert seen == pytest.approx([188, 188, 188], abs=2)  # 128 of 255 in light, as sRGB writes it
    swapped = np.asarray(open_image(with_profile((200, 30, 30), "RGB", profile(2.2, swap=True))))[0, 0]
    assert swapped[1] > swapped[0]
    square_, _ = decode_square(with_profile((128, 128, 128), "RGB", profile(1.0)), 64)
    assert square_[0, 0].tolist() == pytest.approx([188, 188, 188], abs=2)


def test_sRGB_stays_to_the_bit_and_a_broken_or_foreign_profile_costs_nothing() -> None:  # noqa: N802
    usual = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc in (usual, b"rubbish", profile(1.0)[:200]):
        assert np.asarray(open_image(with_profile((10, 128, 250), "RGB", icc)))[0, 0].tolist() == [10, 128, 250]
    assert np.asarray(open_image(with_profile(128, "L", profile(1.0))))[0, 0].tolist() == [188] * 3
    assert open_image(with_profile((0, 255, 255, 0), "CMYK", profile(1.0))).mode == "RGB"


@pytest.mark.skipif(not features.check("avif"), reason="about AVIF files, which this build of Pillow cannot read")
def test_avif_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "red.avif")
    (entry,) = PathSource(tmp_path).entries()
    assert np.asarray(open_image(entry.read()))[0, 0].tolist() == pytest.approx([200, 30, 30], abs=6)


def test_heic_is_read_or_named(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    try:
        import pillow_heif
    except ImportError:
        (tmp_path / "b.HEIC").write_bytes(b"x")
        survey = PathSource(tmp_path).survey()
        assert survey.lost() == ["passed over: 1 HEIC images, which need pip install 'inpaint[heic]', such as 'b.HEIC'"]
    else:
        pillow_heif.from_pillow(Image.new("RGB", (64, 64), (200, 30, 30))).save(tmp_path / "b.heic")
        _, entry = PathSource(tmp_path).entries()
        assert np.asarray(open_image(entry.read()))[0, 0].tolist() == pytest.approx([200, 30, 30], abs=6)
