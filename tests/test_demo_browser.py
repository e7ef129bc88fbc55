"""The page on which photographs are filled, as it is used: a real Chromium, a real server."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import browser, free_port
from demo import Page, make_model, make_photo
from PIL import Image, ImageOps
from running import ROOT, start

pytest.importorskip("selenium", reason="a real browser is driven by selenium: pip install it")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

THUMBNAIL, NOTE, CAMERA_AT = b"\xff\xd8thumb\xff\xd9", b"a small copy", 80


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`inpaint demo` as a user starts it, once it says where to look."""
    model, port = make_model(tmp_path_factory.mktemp("model")), free_port()
    words = ["demo", "--model", str(model), "--device", "cpu", "--port", str(port), "--max-megapixels", "13"]
    with browser(), start(*words, script=ROOT / "inpaint" / "__main__.py") as job:
        job.until(lambda: "Ctrl-C stops" in job.stdout)
        yield f"http://127.0.0.1:{port}/"


def pixels_of(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def place(changed: Any) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what changed, as shares of the width and height from the middle."""
    rows, columns = np.nonzero(changed)
    height, width = changed.shape
    left, right, top, bottom = columns.min() / width, columns.max() / width, rows.min() / height, rows.max() / height
    return left - 0.5, top - 0.5, right - 0.5, bottom - 0.5


def test_paint_erase_undo_fill_compare_and_download(address: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    photo = make_photo(tmp_path / "turned.jpg", 480, 320, exif=exif, quality=90)
    with browser() as driver:
        page = Page(driver, address, tmp_path / "downloads")
        assert not any(map(page.is_enabled, ("fill", "undo", "download", "compare", "clear")))
        page.open(photo)
        assert page.text("photo-name") == "turned.jpg, 320x480"
        untouched = page.seen()
        page.drag((-0.05, -0.2), (0.05, -0.2))
        one = page.seen()
        page.drag((-0.05, 0.2), (0.05, 0.2))
        two = page.seen()
        assert not np.array_equal(untouched, one) and not np.array_equal(one, two)
        page.press("e", "]", "]", "]")
        page.drag((-0.08, 0.2), (0.08, 0.2))
        page.press("b", "[", "[", "[")
        page.drag((-0.1, -0.4), (-0.1, -0.4))
        page.press_with_control("z")
        assert np.abs(page.seen().astype(int) - one).max() <= 3  # erased as if never painted
        page.press_with_control("z")
        assert np.array_equal(page.seen(), two)
        page.press_with_control("y")
        assert page.is_enabled("redo")
        page.fill(by="key")
        assert not page.is_enabled("redo") and page.is_enabled("compare")
        filled, known = page.download(), pixels_of(photo)
        changed = (filled != known).any(2)
        # A stroke of a tenth of the stage, which is wider than the photo, at a fifth of its height above the middle.
        left, top, right, bottom = place(changed)
        assert filled.shape == known.shape and -0.25 < top < bottom < -0.15 and -0.3 < left < -0.1 < 0.1 < right < 0.3
        after = page.seen()
        ActionChains(driver).key_down("c").perform()
        assert np.abs(page.seen().astype(int) - untouched).max() <= 1
        ActionChains(driver).key_up("c").perform()
        assert np.array_equal(page.seen(), after)
        page.run("const s = document.getElementById('split'); s.value = 50; s.dispatchEvent(new Event('input'))")
        middle, split = after.shape[1] // 2, page.seen()
        assert np.array_equal(split[:, middle + 6 :], after[:, middle + 6 :])
        assert np.abs(split[:, : middle - 6].astype(int) - untouched[:, : middle - 6]).max() <= 1
        # Back to before the fill, and on with more: what was painted is there again.
        page.click("undo")
        assert page.is_enabled("fill") and not page.is_enabled("download") and page.is_enabled("redo")
        page.run("const s = document.getElementById('fidelity'); s.value = 1; s.dispatchEvent(new Event('input'))")
        page.fill()
        other = page.download()
        assert np.array_equal((other != known).any(2) & ~changed, changed & False) and not np.array_equal(other, filled)
        page.drag((0, 0.3), (0.05, 0.3))
        page.fill()
        assert np.array_equal(page.download()[:320], other[:320]) and page.is_enabled("undo")
        assert page.said() == []


def test_a_mask_is_uploaded_grown_inverted_and_refused(address: str, tmp_path: Path) -> None:
    photo, mask = make_photo(tmp_path / "photo.png", 120, 90), np.zeros((90, 120), np.uint8)
    mask[30:50, 40:70] = 255
    for name, pixels in (("mask", mask), ("other", mask[:80]), ("grey", mask // 4)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image")
    known = pixels_of(photo)
    with browser() as driver:
        page = Page(driver, address, tmp_path / "downloads")
        for path, told in (("notes.txt", "notes.txt is not an image"), ("broken.png", "broken.png cannot be read")):
            page.give(tmp_path / path)
            page.until(f"document.getElementById('notice').textContent.includes({told!r})", told)
        large = tmp_path / "large.png"
        Image.new("L", (4000, 3500)).save(large)
        page.give(large)
        page.until("document.getElementById('notice').textContent.includes('14.0 megapixels')", "not refused")
        page.open(photo)
        for path, told in (("other", "120x80 pixels and the photo 120x90"), ("grey", "no white"), ("broken", "cannot")):
            page.give(tmp_path / f"{path}.png", to="mask-file")
            page.until(f"document.getElementById('notice').textContent.includes({told!r})", told)
        page.give(tmp_path / "mask.png", to="mask-file")
        page.until("!document.getElementById('fill').disabled", "the mask never came")
        page.fill()
        assert np.array_equal((page.download() != known).any(2) & (mask == 0), mask > 255)
        page.click("undo")
        for button in ("grow", "invert", "invert"):
            page.click(button)
        page.fill()
        grown = place((page.download() != known).any(2))
        assert grown == pytest.approx((38 / 120 - 0.5, 28 / 90 - 0.5, 71 / 120 - 0.5, 51 / 90 - 0.5), abs=0.012)
        page.click("undo")
        page.click("clear")
        page.press("e")
        page.drag((0, 0), (0.01, 0))
        page.click("fill")
        page.until("document.getElementById('notice').textContent.includes('Nothing is painted over')", "not told")
        assert page.said() == []


def exif_of(order: str) -> bytes:
    """EXIF in either order of bytes: to be turned, a maker and its note, and a thumbnail."""

    def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
        return struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")

    def number(value: int) -> bytes:
        return struct.pack(f"{order}I", value)

    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    first = [entry(0x010F, 2, 4, b"Our\0"), entry(0x0112, 3, 1, struct.pack(f"{order}H", 6))]
    first.append(entry(0x8769, 4, 1, number(CAMERA_AT)))
    second = [entry(0x0201, 4, 1, number(98)), entry(0x0202, 4, 1, number(len(THUMBNAIL)))]
    camera = [entry(0x927C, 7, len(NOTE), number(98 + len(THUMBNAIL)))]
    one, two, three = (struct.pack(f"{order}H", count) for count in (1, 2, 3))
    parts = [head, three, *first, number(50), two, *second, number(0), one, *camera, number(0)]
    assert len(b"".join(parts)) == 98
    return b"Exif\0\0" + b"".join(parts) + THUMBNAIL + NOTE


def test_a_jpeg_keeps_its_exif_without_turning_or_thumbnail(address: str, tmp_path: Path) -> None:
    with browser() as driver:
        page = Page(driver, address, tmp_path / "downloads")
        for order, given in (("<", "kept"), (">", "kept"), ("", "none"), ("", "damaged")):
            exif = {"kept": lambda o=order: exif_of(o), "none": lambda: b"", "damaged": lambda: exif_of("<")[:30]}[
                given
            ]()
            photo = make_photo(tmp_path / f"{given}{len(order)}{order == '>'}.jpg", 240, 160, exif=exif, quality=95)
            page.open(photo)
            page.drag((-0.02, 0), (0.02, 0))
            page.fill()
            png, path = page.download(), page.download_file("download-jpeg")
            written = path.read_bytes()
            assert written.startswith(b"\xff\xd8\xff\xe0") and THUMBNAIL[:4] not in written and NOTE not in written
            with Image.open(path) as image:
                assert image.format == "JPEG" and dict(image.getexif()) == (
                    {0x010F: "Our", 0x0112: 1, 0x8769: CAMERA_AT} if given == "kept" else {}
                )
                assert np.abs(np.asarray(image).astype(int) - png).mean() < 3
            path.unlink()
            assert "All its pixels were written anew" in page.text("notice")
        page.open(make_photo(tmp_path / "photo.png"))
        assert page.run("return document.getElementById('download-jpeg').hidden")
        assert page.said() == []


def test_keys_alone_paint_and_fill(address: str, tmp_path: Path) -> None:
    photo = make_photo(tmp_path / "photo.png", 120, 90)
    with browser() as driver:
        page = Page(driver, address, tmp_path / "downloads")
        page.open(photo)
        page.run("document.getElementById('view').focus()")
        page.press(Keys.ENTER, *[Keys.ARROW_RIGHT] * 4, Keys.ENTER, *[Keys.ARROW_DOWN] * 4)
        page.fill(by="key")
        left, top, right, bottom = place((page.download() != pixels_of(photo)).any(2))
        assert right > -left + 0.02 and top == pytest.approx(-bottom, abs=0.03) and bottom < 0.1


def test_twelve_megapixels_on_a_phone_by_touch(address: str, tmp_path: Path) -> None:
    photo = make_photo(tmp_path / "large.jpg", 4000, 3000, quality=80)
    with browser() as driver:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 390, "height": 844, "deviceScaleFactor": 3, "mobile": True},
        )
        driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})
        page = Page(driver, address, tmp_path / "downloads")
        page.open(photo)
        assert page.run("return document.documentElement.scrollWidth") <= 390
        box = page.run("return document.getElementById('view').getBoundingClientRect().toJSON()")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

        def touch(kind: str, *points: tuple[float, float]) -> None:
            touches = [{"x": x + dx, "y": y + dy, "id": number} for number, (dx, dy) in enumerate(points)]
            driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": touches})

        whole = page.seen()
        # A second finger makes a zoom of what began as a stroke; nothing stays painted.
        touch("Start", (-40, 0))
        touch("Move", (-45, 0))
        touch("Start", (-45, 0), (45, 0))
        touch("Move", (-90, 0), (90, 0))
        touch("End")
        zoomed = page.seen()
        assert not np.array_equal(zoomed, whole) and not page.is_enabled("undo") and not page.is_enabled("fill")
        page.click("zoom-fit")
        assert np.array_equal(page.seen(), whole)
        touch("Start", (-20, 0))
        touch("Move", (0, 0))
        touch("Move", (20, 0))
        touch("End")
        assert page.is_enabled("undo")
        page.fill()
        filled, known = page.download(), pixels_of(photo)
        left, top, right, bottom = place((filled != known).any(2))
        assert filled.shape == known.shape and left == pytest.approx(-right, abs=0.01) and 0.08 < right < 0.16
        assert -0.1 < top < bottom < 0.1
        assert page.said() == []
