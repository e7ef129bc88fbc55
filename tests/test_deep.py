"""Colour images of 16 bits a channel: every known pixel comes back bit for bit, or the image is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from inpaint import Generator, InpaintingPipeline
from inpaint.cli import main
from inpaint.errors import InpaintError
from inpaint.images import deep
from inpaint.images.about import About
from inpaint.images.given import read_image
from inpaint.images.pixels import TURNS
from inpaint.models.generator import GeneratorConfig

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**16, shape, dtype=np.uint16)


def png(pixels: np.ndarray, **chunks: bytes) -> bytes:
    """Written by nobody's library: [H, W] or [H, W, 2, 3 or 4], and more chunks before the pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    kind = {1: 0, 2: 4, 3: 2, 4: 6}[pixels.shape[2] if pixels.ndim == 3 else 1]
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    more = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.fixture
def pipe() -> InpaintingPipeline:
    return InpaintingPipeline(Generator(GeneratorConfig(width=2)), "cpu")


def assert_kept(filled: np.ndarray, pixels: np.ndarray, hole: np.ndarray) -> None:
    assert filled.dtype == np.uint16 and filled.shape == pixels.shape
    assert np.array_equal(filled[~hole], pixels[~hole])
    colours = filled[hole][..., :3]
    assert (colours % 257 == 0).all(), "the fill has 8 bits, spread to 16"
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        assert (filled[hole][..., -1] == 65_535).all()


@pytest.mark.parametrize("num_channels", [2, 3, 4])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_known_pixels_keep_their_sixteen_bits(
    pipe: InpaintingPipeline, tmp_path: Path, kind: str, num_channels: int
) -> None:
    pixels, hole = noise(13, 9, num_channels), np.zeros((13, 9), np.bool_)
    hole[3:7, 2:6] = True
    path = tmp_path / f"deep.{kind}"
    if kind == "png":
        path.write_bytes(png(pixels, iCCP=b"x\0\0" + zlib.compress(PROFILE)))
    else:
        deep.write(path, "TIFF", pixels, About(PROFILE))
        pixels = pixels if num_channels > 2 else pixels[:, :, [0, 0, 0, 1]]
    filled = pipe.fill(path, hole)
    assert_kept(filled.pixels, pixels, hole)
    assert (filled.icc_profile, filled.num_filled) == (PROFILE, 16)
    with pytest.raises(InpaintError, match="16 bits per colour channel, which Pillow cannot hold"):
        pipe(path, hole)
    with pytest.raises(InpaintError, match="which Pillow cannot hold"):
        filled.to_image()


@pytest.mark.parametrize("output", ["out.png", "out.tiff", "out.jpg", "out.webp"])
def test_the_command_writes_sixteen_bits_or_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Generator(GeneratorConfig(width=2)).save_pretrained("model")
    pixels, hole = noise(12, 16, 3), np.zeros((12, 16), np.bool_)
    hole[:, :4] = True
    Path("photo.png").write_bytes(png(pixels, iCCP=b"x\0\0" + zlib.compress(PROFILE)))
    Image.fromarray(hole).save("mask.png")
    code = main(["fill", "photo.png", "--mask", "mask.png", "-o", output, "--model", "model", "--device", "cpu"])
    if output in ("out.png", "out.tiff"):
        assert code == 0
        assert_kept(cv2.imread(output, cv2.IMREAD_UNCHANGED)[:, :, ::-1], pixels, hole)
        assert Image.open(output).info["icc_profile"] == PROFILE
    else:
        assert code == 1 and not Path(output).exists()
        assert "cannot hold 16 bits a channel in colour" in capsys.readouterr().err


def test_grey_with_a_transparent_value_keeps_both(pipe: InpaintingPipeline, tmp_path: Path) -> None:
    pixels = noise(8, 8)
    (tmp_path / "grey.png").write_bytes(png(pixels, tRNS=struct.pack(">H", int(pixels[7, 7]))))
    filled = pipe.fill(tmp_path / "grey.png", np.zeros((8, 8), np.bool_))
    assert np.array_equal(filled.pixels[..., 0], pixels)
    assert np.array_equal(filled.pixels[..., 1] == 0, pixels == pixels[7, 7])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_deep_image_on_its_side_is_turned(orientation: int) -> None:
    pixels = noise(5, 7, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = io.BytesIO(png(pixels, eXIf=exif.tobytes().removeprefix(b"Exif\0\0")))
    turned, _ = read_image(Image.open(stored))
    eight_bits = Image.fromarray((pixels >> 8).astype(np.uint8))
    expected = eight_bits.transpose(TURNS[orientation]) if orientation > 1 else eight_bits
    assert np.array_equal(turned >> 8, np.asarray(expected))


@pytest.mark.parametrize("kind", ["ppm", "jp2", "avif"])
def test_what_cannot_be_kept_is_refused_and_not_made_eight_bits(
    pipe: InpaintingPipeline, tmp_path: Path, kind: str
) -> None:
    options = [cv2.IMWRITE_AVIF_DEPTH, 10] if kind == "avif" else []
    path = tmp_path / f"deep.{kind}"
    assert cv2.imwrite(str(path), noise(64, 64, 3) >> (6 if kind == "avif" else 0), options)
    with pytest.raises(InpaintError, match=r"more than 8 bits a channel in a form .* save it as a 16-bit PNG"):
        pipe.fill(path, np.ones((64, 64), np.bool_))


def test_a_truncated_deep_image_is_told_in_one_line(pipe: InpaintingPipeline, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(png(noise(40, 40, 3))[:5000])
    with pytest.raises(InpaintError, match=r"cut\.png cannot be read: ") as caught:
        pipe.fill(tmp_path / "cut.png", np.ones((40, 40), np.bool_))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kind", ["png", "tiff", "bmp", "jp2", "avif", "ppm", "sgi", "webp", "gif", "tga", "jpg", "pcx"]
)
def test_images_of_eight_bits_are_no_deep_ones(tmp_path: Path, kind: str) -> None:
    for mode in ("RGB", "L"):
        Image.effect_noise((29, 37), 50).convert(mode).save(tmp_path / f"plain.{kind}")
        with Image.open(tmp_path / f"plain.{kind}") as image:
            assert not deep.is_deep(image)
