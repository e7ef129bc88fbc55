"""What `inpaint fill` keeps of a photograph beside its pixels, and what it says of one that is likely a mistake."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import IFDRational

from inpaint.cli import main
from inpaint.errors import InpaintWarning
from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.pipeline import InpaintingPipeline

ROTATED_270 = 6


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model, and a mask of 24 x 16 pixels."""
    monkeypatch.chdir(tmp_path)
    Generator(GeneratorConfig(width=2)).save_pretrained("model")
    hole = np.zeros((16, 24), np.uint8)
    hole[3:9, 4:14] = 255
    Image.fromarray(hole).save("mask.png")
    return tmp_path


def fill(image: str, output: str, *more: str, mask: str = "mask.png") -> int:
    return main(["fill", image, "--mask", mask, "--model", "model", "--device", "cpu", "-o", output, *more])


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


# --- EXIF and resolution


def camera_exif() -> bytes:
    """As a camera writes it, of a photograph on its side, with a maker's note and a thumbnail behind it."""
    exif = Image.Exif()
    exif[Base.Make], exif[Base.DateTime], exif[Base.Orientation] = "Maker", "2026:05:04 03:02:01", ROTATED_270
    exif[Base.XResolution], exif[Base.YResolution], exif[Base.ResolutionUnit] = 300, 150, 2
    exif[Base.BitsPerSample] = (8, 8, 8)
    taken = {Base.ExposureTime: IFDRational(1, 125), Base.ExifImageWidth: 16, Base.ExifImageHeight: 24}
    exif[IFD.Exif] = {**taken, Base.MakerNote: b"SMALL COPY"}
    exif[IFD.GPSInfo] = {1: "N", 2: (IFDRational(54), IFDRational(26), IFDRational(3, 2))}
    data = exif.tobytes()
    head = int.from_bytes(data[10:14], "big") + 6
    next_at = head + 2 + 12 * int.from_bytes(data[head : head + 2], "big")
    assert data[6:8] == b"MM" and data[next_at : next_at + 4] == bytes(4)
    thumbnail = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(thumbnail, "JPEG")
    at = len(data) - 6
    entries = ((0x0201, at + 30), (0x0202, thumbnail.tell()))
    second = b"\0\2" + b"".join(tag.to_bytes(2) + b"\0\4\0\0\0\1" + value.to_bytes(4) for tag, value in entries)
    return data[:next_at] + at.to_bytes(4) + data[next_at + 4 :] + second + bytes(4) + thumbnail.getvalue()


def assert_told_of(path: str, has_dpi: bool = True) -> None:
    with Image.open(path) as filled:
        filled.load()
        exif = filled.getexif()
        assert filled.size == (24, 16) and exif[Base.Orientation] == 1
        assert (exif[Base.Make], exif[Base.DateTime]) == ("Maker", "2026:05:04 03:02:01")
        camera, place = exif.get_ifd(IFD.Exif), exif.get_ifd(IFD.GPSInfo)
        assert camera[Base.ExposureTime] == IFDRational(1, 125)
        assert (camera[Base.ExifImageWidth], camera[Base.ExifImageHeight]) == (24, 16)
        assert place == {1: "N", 2: (54, 26, 1.5)}
        assert not exif.get_ifd(IFD.IFD1)
        if has_dpi:
            assert filled.info["dpi"] == pytest.approx((150, 300), abs=0.02)
    data = Path(path).read_bytes()
    assert b"SMALL COPY" not in data and (not path.endswith("png") or b"\xff\xd8\xff" not in data)


@pytest.mark.parametrize("end", ["jpg", "png", "webp", "tiff"])
def test_a_photographs_exif_and_resolution_are_kept(here: Path, end: str) -> None:
    exif = camera_exif()
    seen = Image.Exif()
    seen.load(exif)
    assert seen.get_ifd(IFD.IFD1)
    Image.fromarray(noise(24, 16, 3)).save("photo.jpg", exif=exif, dpi=(300, 150))
    Image.fromarray(noise(24, 16, 3)).save("photo.tiff", exif=exif, dpi=(300, 150))
    for photo in ("photo.jpg", "photo.tiff"):
        assert fill(photo, f"filled.{end}") == 0
        assert_told_of(f"filled.{end}", has_dpi=end != "webp")


@pytest.mark.parametrize("end", ["png", "tiff"])
def test_it_is_kept_with_sixteen_bits_too(here: Path, end: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 65_536, (24, 16, 3), dtype=np.uint16)
    is_written, encoded = cv2.imencode(".png", pixels)
    data, exif = encoded.tobytes(), camera_exif()[6:]
    small = io.BytesIO()
    Image.new("L", (1, 1)).save(small, "PNG", exif=exif, dpi=(300, 150))
    chunks, at = small.getvalue(), small.getvalue().index
    told = chunks[at(b"pHYs") - 4 : at(b"pHYs") + 17] + chunks[at(b"eXIf") - 4 : at(b"eXIf") + 8 + len(exif)]
    Path("photo.png").write_bytes(data[:33] + told + data[33:])
    assert is_written and fill("photo.png", f"filled.{end}") == 0
    assert_told_of(f"filled.{end}")
    assert cv2.imread(f"filled.{end}", cv2.IMREAD_UNCHANGED).dtype == np.uint16


def test_broken_exif_is_no_fault(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = camera_exif()
    at = whole.index(b"\x01\x1a\0\5")
    no_number = whole[:at] + b"\x01\x1a\0\2\0\0\0\4abc\0" + whole[at + 12 :]
    cut = (whole[:end] for end in range(7, 150, 11))
    for number, exif in enumerate((b"Exif\0\0", b"Exif\0\0nonsense", no_number, *cut)):
        Image.fromarray(noise(16, 24, 3)).save("photo.jpg", exif=exif)
        for end in ("jpg", "png", "webp", "tiff"):
            code = fill("photo.jpg", f"{number}.{end}", "--resize-mask")
            assert code == 0, capsys.readouterr().err
            Image.open(f"{number}.{end}").load()
    Image.fromarray(noise(16, 24, 3)).save("photo.png", exif=whole[:6] + whole[6:14] + b"\xff" * 70_000)
    assert fill("photo.png", "filled.jpg") == 0
    long = Image.Exif()
    long[Base.ImageDescription] = "x" * 70_000
    Image.fromarray(noise(16, 24, 3)).save("photo.png", exif=long)
    assert fill("photo.png", "filled.jpg") == 0 and fill("photo.png", "filled.png") == 0
    assert len(Image.open("filled.png").getexif()[Base.ImageDescription]) == 70_000


# --- photographs without colour


@pytest.mark.parametrize("strategy", ["whole", "crop"])
@pytest.mark.parametrize("channels", [3, 4])
def test_what_has_no_colour_gets_none(strategy: Any, channels: int) -> None:
    pipe = InpaintingPipeline(Generator(GeneratorConfig(width=2, image_size=16)), "cpu")
    grey = np.repeat(noise(40, 40, 1), channels, axis=2)
    hole = np.zeros((40, 40), np.bool_)
    hole[10:20, 8:30] = True
    grey[hole] = (250, 20, 90, 7)[:channels]  # what is in the hole is none of the photograph
    filled = np.asarray(pipe(grey, hole, strategy=strategy))
    assert np.ptp(filled[hole][:, :3].astype(int), axis=1).max() == 0
    deep = pipe.fill(grey.astype(np.uint16) * 257, hole, strategy=strategy).pixels
    assert np.ptp(deep[hole][:, :3].astype(int), axis=1).max() == 0
    tinted = grey.copy()
    tinted[0, 0, 2] ^= 1
    coloured = np.asarray(pipe(tinted, hole, strategy=strategy))
    assert np.ptp(coloured[hole][:, :3].astype(int), axis=1).max() > 0
    luma = np.asarray(Image.fromarray(coloured).convert("L"))
    assert np.abs(filled[hole][:, 0].astype(int) - luma[hole]).max() <= 1


# --- what is likely a mistake


def test_a_mask_of_nearly_everything_is_warned_about(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos").mkdir()
    for name in "ab":
        Image.fromarray(noise(16, 24, 3)).save(f"photos/{name}.png")
    assert fill("photos/a.png", "out.png") == 0 and not capsys.readouterr().err
    Image.fromarray(255 - 255 * (np.arange(384).reshape(16, 24) < 38).astype(np.uint8)).save("most.png")
    assert fill("photos/a.png", "out.png", mask="most.png") == 0
    told = capsys.readouterr().err
    assert (
        told.startswith("inpaint fill: warning: photos/a.png: 90% of the image is filled") and "--invert-mask" in told
    )
    assert told.count("\n") == 1
    assert fill("photos", "out", mask="most.png") == 0
    assert capsys.readouterr().err.count("90% of the image is filled") == 2
    assert fill("photos/a.png", "out.png", "--invert-mask", mask="most.png") == 0 and not capsys.readouterr().err
    Image.fromarray(255 * (np.arange(384).reshape(16, 24) < 20).astype(np.uint8)).save("least.png")
    assert fill("photos/a.png", "out.png", "--invert-mask", mask="least.png") == 0
    assert "do not invert the mask" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["gif", "webp", "png", "tiff"])
def test_frames_that_are_not_filled_are_told_of(here: Path, capsys: pytest.CaptureFixture[str], end: str) -> None:
    frames = [Image.new("RGB", (24, 16), colour) for colour in ("red", "green", "blue")]
    frames[0].save(f"photo.{end}", save_all=True, append_images=frames[1:])
    assert fill(f"photo.{end}", "out.png") == 0
    told = capsys.readouterr().err
    assert f"warning: photo.{end}: only the first of its 3 frames or pages is filled" in told and told.count("\n") == 1
    assert Image.open("out.png").convert("RGB").getpixel((0, 0))[0] > 250  # type: ignore[index]
    with pytest.warns(InpaintWarning, match="only the first of its 3"):
        InpaintingPipeline.from_pretrained("model", device="cpu")(f"photo.{end}", "mask.png")
    frames[0].save(f"photo.{end}")
    assert fill(f"photo.{end}", "out.png") == 0 and not capsys.readouterr().err


def test_what_is_too_large_is_told_with_the_limit(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (2000, 1100)).save("huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)
    assert fill("huge.png", "out.png") == 1
    said = capsys.readouterr().err
    assert said == (
        "inpaint fill: error: the image huge.png is too large: up to 2 megapixels are read; scale it down, or cut it\n"
    )
