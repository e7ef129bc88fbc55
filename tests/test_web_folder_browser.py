"""The page that `inpaint export --format web` writes, as it is used: a real Chromium, a plain file server."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import browser, free_port, until
from demo import Page, make_photo
from PIL import Image
from running import Job, environment

from inpaint.cli import main
from inpaint.pipeline import InpaintingPipeline

RUNTIME = os.environ.get("ONNXRUNTIME_WEB", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the generator that comes with inpaint."""
    if not RUNTIME:
        pytest.skip("set ONNXRUNTIME_WEB to what `npm pack onnxruntime-web@1.30.0` wrote, as .ci/run does")
    page = tmp_path_factory.mktemp("exported") / "page"
    with browser():
        assert main(["export", "--format", "web", "-o", str(page), "--runtime", RUNTIME]) == 0
    return page


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, Job]]:
    """Its address, and the server."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    with Job([command], [environment()]) as job:
        address = f"http://127.0.0.1:{port}/"
        job.until(lambda: "GET" in job.stderr or _answers(address))
        yield address, job


def _answers(address: str) -> bool:
    import httpx2

    try:
        return bool(httpx2.get(f"{address}about.json").status_code == 200)
    except httpx2.TransportError:
        return False


def paint(page: Page, mask: Any, path: Path) -> None:
    Image.fromarray(mask).save(path)
    page.give(path, to="mask-file")
    page.until("!document.getElementById('fill').disabled", "the mask never came")


def test_it_fills_as_the_pipeline_does_and_goes_on_without_its_server(folder: Path, tmp_path: Path) -> None:
    """With holes of several scales at the edges and in the middle, alone and several of a piece."""
    photo, mask = make_photo(tmp_path / "photo.png", 301, 203), np.zeros((203, 301), np.uint8)
    mask[60:140, 100:180] = mask[190:, 290:] = mask[20:24] = mask[0:9, 0:9] = 255
    known = np.asarray(Image.open(photo))
    pipe = InpaintingPipeline(device="cpu")
    with served(folder) as (address, server), browser() as driver:
        page = Page(driver, address, tmp_path / "downloads")
        page.open(photo)
        paint(page, mask, tmp_path / "mask.png")
        page.fill()
        filled = page.download()
        assert np.array_equal(filled[mask == 0], known[mask == 0])
        expected = np.asarray(pipe(known, Image.fromarray(mask), strategy="crop", detail=False))
        # The network takes and gives bytes here and floats there, which is 1 of 255, and its windows see one another's.
        apart = np.abs(filled.astype(int) - expected)[mask > 0]
        assert apart.max() <= 4 and apart.mean() < 0.5, (apart.max(), apart.mean())
        assert np.abs(expected.astype(int) - known)[mask > 0].mean() > 5
        page.click("undo")
        page.run("document.getElementById('strategy').value = 'whole'")
        page.fill()
        expected = np.asarray(pipe(known, Image.fromarray(mask), strategy="whole"))
        assert np.abs(page.download().astype(int) - expected).max() <= 1
        # All that the page needs is here: what it has still to do, and opening it again, need nobody.
        cached = "return caches.open('inpaint').then((kept) => kept.keys()).then((all) => all.length)"
        until(lambda: page.run(cached) >= 15, "the page is not kept")
        said = page.said()
        asked = {line.split('"')[1].split()[1] for line in server.stderr.splitlines() if '"' in line}
        server.kill()
        page.click("undo")
        page.run("document.getElementById('strategy').value = 'crop'")
        page.click("fill")
        page.until("!document.getElementById('working').hidden", "it never began")
        page.click("cancel")
        page.until("document.getElementById('working').hidden", "it was not cancelled")
        page.fill()
        assert np.array_equal(page.download(), filled)
        driver.get(address)
        page.until("document.body.dataset.ready === 'true'", "it cannot be opened again")
        page.open(photo)
        paint(page, mask, tmp_path / "mask.png")
        page.fill()
        assert np.array_equal(page.download(), filled)
        assert said == [] and [line for line in page.said() if not line.startswith(address)] == []
    assert "/model.onnx" in asked <= {"/", *(f"/{path.name}" for path in folder.iterdir())}


def test_twelve_megapixels_fit_a_phone(folder: Path, tmp_path: Path) -> None:
    photo = make_photo(tmp_path / "large.jpg", 4000, 3000, quality=80)
    with served(folder) as (address, _), browser() as driver:
        phone = {"width": 390, "height": 844, "deviceScaleFactor": 3, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        page = Page(driver, address, tmp_path / "downloads")
        page.open(photo)
        assert page.run("return document.documentElement.scrollWidth") <= 390
        page.drag((-0.1, 0), (0.1, 0))
        page.fill()
        filled, known = page.download(), np.asarray(Image.open(photo))
        rows, columns = np.nonzero((filled != known).any(2))
        assert filled.shape == known.shape
        assert 1300 < columns.min() < 1700 and 2300 < columns.max() < 2700 and 1200 < rows.min() < rows.max() < 1800
        assert page.said() == []


def test_browsers_that_cannot_and_files_that_are_missing_are_told(folder: Path, tmp_path: Path) -> None:
    with served(folder) as (address, _), browser() as driver:

        def notice() -> str:
            driver.get(address)
            find = "return document.getElementById('notice').textContent"
            return str(until(lambda: driver.execute_script(find), "nothing is told"))

        (folder / "model.onnx").rename(tmp_path / "model.onnx")
        try:
            assert notice() == "model.onnx is missing beside this page (404): copy the whole folder to its server."
            (folder / "model.onnx").write_bytes(b"no model")
            assert notice().startswith("The network could not be run: ")
        finally:
            (tmp_path / "model.onnx").replace(folder / "model.onnx")
        without = {"source": "delete globalThis.WebAssembly"}
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", without)
        assert notice().startswith("This browser cannot run the network: it has no WebAssembly")
