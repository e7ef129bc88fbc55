"""What the page on which photographs are filled and its server say to each other."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import numpy as np
import pytest
import uvicorn
from browsing import free_port, until
from demo import make_model, make_photo
from PIL import Image
from running import ROOT, start
from starlette.testclient import TestClient

from inpaint.cli import main
from inpaint.demo import line
from inpaint.demo.page import DemoPage, Limits
from inpaint.errors import UsageError
from inpaint.pipeline import InpaintingPipeline

HOST = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def client(model: Path) -> TestClient:
    page = DemoPage(InpaintingPipeline.from_pretrained(model, device="cpu"), "mine", Limits(1, 0.1))
    return TestClient(page.app(), base_url=HOST, raise_server_exceptions=False)


def png(pixels: Any) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def hole(height: int = 64, width: int = 96) -> Any:
    mask = np.zeros((height, width), np.uint8)
    mask[20:40, 30:60] = 255
    return mask


def post(client: Any, photo: bytes, mask: bytes, **query: Any) -> Any:
    asked = {"job": "a job's name", "photo_bytes": len(photo), **query}
    return client.post("/api/fill", params=asked, content=photo + mask)


def test_a_fill_is_what_the_pipeline_makes_of_the_same_files(client: TestClient, model: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    photo = make_photo(tmp_path / "photo.jpg", 64, 96, exif=exif, quality=90)
    pipeline, about = InpaintingPipeline.from_pretrained(model, device="cpu"), client.get("/api/about").json()
    assert (about["model"], about["size_px"], about["has_fidelity"], about["max_bytes"]) == (
        "mine",
        32,
        True,
        1_000_000,
    )
    seen = set()
    for how in ({}, {"fidelity": 1.0}, {"strategy": "whole"}, {"detail": False}, {"grow_mask_px": 3}):
        reply = post(client, photo.read_bytes(), png(hole()), **how)
        assert reply.status_code == 200, reply.text
        filled = np.asarray(Image.open(BytesIO(reply.content)))
        expected = np.asarray(pipeline(photo, Image.fromarray(hole()), **how))
        assert np.array_equal(filled, expected) and filled.shape == (64, 96, 3), how
        seen.add(filled.tobytes())
    assert len(seen) == 5
    assert client.get("/api/queue", params={"job": "a job's name"}).json() == {"before": None, "length": 0}


def test_sixteen_bits_stay(client: TestClient, tmp_path: Path) -> None:
    import cv2

    deep = np.random.default_rng(0).integers(0, 65_536, (64, 96, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    reply = post(client, (tmp_path / "deep.png").read_bytes(), png(hole()))
    filled = cv2.imdecode(np.frombuffer(reply.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert filled.dtype == np.uint16 and np.array_equal(filled[hole() == 0], deep[hole() == 0])
    assert not np.array_equal(filled, deep)


def test_what_cannot_be_filled_is_told_in_a_line(client: TestClient, tmp_path: Path) -> None:
    photo = make_photo(tmp_path / "photo.png").read_bytes()
    large = make_photo(tmp_path / "large.png", 500, 400).read_bytes()
    for status, told, sent in (
        (422, "the image cannot be read: not a kind of image", (b"no image at all", png(hole()))),
        (422, "the image cannot be read: ", (photo[: len(photo) // 2], png(hole()))),
        (422, "the mask cannot be read: ", (photo, b"no mask")),
        (422, "the mask is 32x32 pixels and the image 96x64", (photo, png(hole(32, 32)))),
        (422, "the mask has no white: its largest value, as grey, is 100", (photo, png(hole() // 255 * 100))),
        (422, "the mask is all black, so there is nothing to fill", (photo, png(hole() * 0))),
        (400, "the mask is missing", (photo, b"")),
        (413, "500x400 pixels (0.2 megapixels); up to 0.1 megapixels", (large, png(hole()))),
        (413, "the photograph's file is too large: up to 1 MB", (b"\0" * 1_000_001, png(hole()))),
    ):
        reply = post(client, *sent)
        assert reply.status_code == status and told in reply.json()["error"], reply.text
        assert not any(mark in reply.text for mark in ("--", "BytesIO", "()")), reply.text
    warned = post(client, photo, png(hole() | 255)).headers["X-Inpaint-Warning"]
    assert "100%25%20of%20the%20image" in warned and "--" not in warned and warned.endswith("invert%20it")
    for query in (
        {"fidelity": 2},
        {"strategy": "best"},
        {"job": "short"},
        {"photo_bytes": 0},
        {"grow_mask_px": -1},
        {"a": 1},
    ):
        reply = post(client, photo, png(hole()), **query)
        assert reply.status_code == 400 and reply.json()["error"].startswith(next(iter(query))), reply.text
    assert client.post("/api/fill", headers={"Origin": "http://evil.example"}).status_code == 403
    assert post(client, photo, png(hole())).status_code == 200


def test_limits_and_flags_that_let_nothing_in_are_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flag, value in (("--max-upload-mb", "0"), ("--max-megapixels", "nan"), ("--port", "70000")):
        assert main(["demo", "--model", str(model), "--device", "cpu", flag, value]) == 2
        assert f"{flag} is {value}" in capsys.readouterr().err
    assert main(["demo", "--model", str(model), "--device", "cpu", "--host", "203.0.113.9"]) == 1
    assert "--host is '203.0.113.9', which is no address of this machine" in capsys.readouterr().err
    with pytest.raises(UsageError):
        Limits(-1)


def test_without_a_model_it_fills_with_the_one_that_comes_with_the_package() -> None:
    words = ["demo", "--device", "cpu", "--port", str(port := free_port())]
    with start(*words, script=ROOT / "inpaint" / "__main__.py") as job:
        job.until(lambda: "Ctrl-C stops" in job.stdout)
        about = httpx2.get(f"http://127.0.0.1:{port}/api/about").json()
    assert (about["model"], about["size_px"]) == ("the one that comes with inpaint", 64)


class Slow:
    """A pipeline whose fills take until they are let go, layer after layer."""

    def __init__(self, model: Path) -> None:
        self.pipeline = InpaintingPipeline.from_pretrained(model, device="cpu")
        self.generator, self.may_end, self.num_begun = self.pipeline.generator, threading.Event(), 0

    def fill(self, image: Any, mask: Any, **how: Any) -> Any:
        self.num_begun += 1
        while not self.may_end.wait(0.01):
            self.generator(*(np_zeros(channels) for channels in (3, 1)))
        return self.pipeline.fill(image, mask, **how)


def np_zeros(channels: int) -> Any:
    import torch

    return torch.zeros(1, channels, 16, 16)


def test_ten_wait_in_a_queue_and_who_goes_away_makes_room(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a real connection, since going away is the connection's end."""
    monkeypatch.setattr(line, "MOST_WAITING", 11)
    slow, photo = Slow(model), make_photo(tmp_path / "photo.png").read_bytes()
    app = DemoPage(slow, "mine", Limits()).app()  # type: ignore[arg-type]
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started, "it never started")
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    gone = HTTPConnection(address.removeprefix("http://"))

    def ask(number: int) -> Any:
        with httpx2.Client(base_url=address, timeout=300) as own:
            return post(own, photo, png(hole()), job=f"job {number:04d}").status_code

    def queue(number: int = 0) -> Any:
        return httpx2.get(f"{address}/api/queue", params={"job": f"job {number:04d}"}).json()

    with ThreadPoolExecutor(12) as users:
        first = urlencode({"job": "job 0000", "photo_bytes": len(photo)})
        gone.request("POST", f"/api/fill?{first}", photo + png(hole()))
        until(lambda: slow.num_begun == 1, "the first was never begun")
        waiting = []
        for number in range(1, 11):
            waiting.append(users.submit(ask, number))
            until(lambda number=number: queue(number)["before"] == number, f"{number} has no place")
        assert queue(5) == {"before": 5, "length": 11}
        assert ask(11) == 503 and ask(10) == 503
        # The first never ends by itself: it is stopped in the middle.
        gone.close()
        until(lambda: queue(1)["before"] == 0 and slow.num_begun == 2, "the one that went away holds the others up")
        slow.may_end.set()
        assert [user.result() for user in waiting] == [200] * 10
    assert queue()["length"] == 0 and slow.num_begun == 11
    server.should_exit = True
    thread.join(600)
    assert not thread.is_alive()
