"""`inpaint fill` on many files: what it takes for done, what a fault costs, how much it holds at once."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tqdm
from PIL import Image

from inpaint.cli import main
from inpaint.errors import InpaintError
from inpaint.filling import many
from inpaint.filling.files import Files
from inpaint.images.job import Filled, FillJob
from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.pipeline import InpaintingPipeline


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with twelve photographs of three sizes in two folders, a mask and a model."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for number in range(12):
        folder = Path("photos", "more" if number % 2 else "")
        folder.mkdir(parents=True, exist_ok=True)
        shape = (20 + 4 * (number % 3), 28, 3)
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{number:02}.png")
    hole = np.zeros((20, 28), np.uint8)
    hole[5:12, 3:14] = 255
    Image.fromarray(hole).save("mask.png")
    Generator(GeneratorConfig(width=2)).save_pretrained("model")
    return tmp_path


def fill(*words: str) -> int:
    flags = ["--mask", "mask.png", "--model", "model", "--device", "cpu", "--resize-mask", "-o", "out"]
    return main(["fill", *words, *flags])


def made() -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path("out").iterdir()}


@pytest.mark.parametrize("inverted", [False, True])
def test_one_mask_serves_all_and_each_is_filled_as_alone(here: Path, inverted: bool) -> None:
    assert fill("photos/**/*.png", "photos", *["--invert-mask"] * inverted) == 0
    assert len(made()) == 12
    pipe = InpaintingPipeline.from_pretrained("model", device="cpu")
    for path in here.glob("photos/**/*.png"):
        image, filled = (np.asarray(Image.open(file)) for file in (path, Path("out", path.name)))
        mask = np.asarray(Image.open("mask.png").resize(image.shape[1::-1], Image.Resampling.BILINEAR)) >= 128
        assert np.array_equal(filled, pipe(image, ~mask if inverted else mask))
        assert np.array_equal(filled[mask == inverted], image[mask == inverted])


def test_the_same_command_goes_on_where_it_was_stopped(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    filled: list[int] = []
    fill_jobs, most = InpaintingPipeline.fill_jobs, 3

    def interrupted(self: InpaintingPipeline, jobs: list[FillJob], how: object) -> list[Filled]:
        if len(filled) >= most:
            raise KeyboardInterrupt
        filled.extend(id(job) for job in jobs)
        return fill_jobs(self, jobs, how)  # type: ignore[arg-type]

    monkeypatch.setattr(InpaintingPipeline, "fill_jobs", interrupted)
    monkeypatch.setattr(many, "_TOGETHER", 1)
    before: dict[str, int] = {}
    for most in (3, 7, 100):
        ended = fill("photos/**/*.png")
        assert ended == (0 if most == 100 else 130)
        assert len(made()) == len(filled) == min(most, 12)
        assert made().items() >= before.items()
        before = made()
    assert "7 of 12 images are filled already; --overwrite" in capsys.readouterr().err
    assert fill("photos/**/*.png") == 0 and len(filled) == 12
    later = time.time() + 5
    os.utime("photos/04.png", (later, later))
    assert fill("photos/**/*.png") == 0 and len(filled) == 13
    assert fill("photos/**/*.png", "--overwrite") == 0 and len(filled) == 25


def test_what_cannot_be_filled_is_named_counted_and_costs_no_other(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Path("photos/02.png").read_bytes()
    Path("photos/02.png").write_bytes(whole[: len(whole) // 2])
    Path("photos/04.png").write_text("no image")
    Path("out/08.png").mkdir(parents=True)
    fill_jobs = InpaintingPipeline.fill_jobs

    def without_memory(self: InpaintingPipeline, jobs: list[FillJob], how: object) -> list[Filled]:
        if any(job.pixels.shape[0] == 24 for job in jobs):
            raise InpaintError("too little memory")
        return fill_jobs(self, jobs, how)  # type: ignore[arg-type]

    monkeypatch.setattr(InpaintingPipeline, "fill_jobs", without_memory)
    assert fill("photos") == 1
    said = capsys.readouterr().err
    for number, reason in (
        ("02", "cannot be read"),
        ("04", "cannot be read"),
        ("08", "is a folder"),
        ("10", "memory"),
    ):
        assert [line for line in said.splitlines() if line.startswith(f"photos/{number}.png: ") and reason in line]
    assert "4 of 6 images could not be filled; see above" in said
    assert [path.name for path in sorted(Path("out").iterdir()) if path.is_file()] == ["00.png", "06.png"]


def test_a_full_disk_ends_it_at_once(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert fill("photos") == 1
    said = capsys.readouterr().err
    assert said.count("No space left on device") == 1 and "could not be filled" not in said
    assert not made()


@pytest.mark.parametrize(("held_pixels", "most"), [(1000, 1), (2 * 28 * 28, 2), (10**9, 32)])
def test_no_more_is_held_than_fits(here: Path, monkeypatch: pytest.MonkeyPatch, held_pixels: int, most: int) -> None:
    """From when one is read to when it is written; a slow disk is what would let them pile up."""
    held, seen, lock = 0, [], threading.Lock()

    def read(files: Files) -> FillJob:
        nonlocal held
        with lock:
            held += 1
            seen.append(held)
        return FillJob.of(files.image, files.mask, resize_mask=True)

    def save(filled: Filled, path: Path) -> None:
        nonlocal held
        time.sleep(0.01)
        with lock:
            held -= 1

    monkeypatch.setattr(many, "HELD_PIXELS", held_pixels)
    monkeypatch.setattr(many, "save", save)
    jobs = [Files(path, Path("mask.png"), Path("out", path.name)) for path in sorted(here.glob("photos/**/*.png"))] * 6
    results = [*many.fill_many(jobs, read, lambda read_jobs: [Filled(job.pixels, None, 1) for job in read_jobs], 4)]
    assert len(results) == len(jobs) and not any(result.error for result in results)
    assert max(seen) == most or (most == 32 and 8 < max(seen) <= 32)


def test_the_bar_counts_what_is_written_while_the_next_is_filled(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[tqdm.tqdm] = []

    class Seen(tqdm.tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            bars.append(self)

    sizes: list[int] = []
    fill_jobs = InpaintingPipeline.fill_jobs

    def watched(self: InpaintingPipeline, jobs: list[FillJob], how: object) -> list[Filled]:
        deadline = time.monotonic() + 60
        while bars[-1].n < sum(sizes):
            assert time.monotonic() < deadline, "the bar does not count what was filled before"
            time.sleep(0.01)
        assert bars[-1].format_dict["rate"] is None  # of all since the start, and not of a burst
        sizes.append(len(jobs))
        return fill_jobs(self, jobs, how)  # type: ignore[arg-type]

    monkeypatch.setattr(tqdm, "tqdm", Seen)
    monkeypatch.setattr(InpaintingPipeline, "fill_jobs", watched)
    assert fill("photos/**/*.png") == 0
    assert bars[-1].n == sum(sizes) == 12
    # What is too large for the network to see together is filled one by one.
    monkeypatch.setattr(many, "_TOGETHER_PIXELS", 28 * 28 - 1)
    sizes.clear()
    Path("photos/02.png").write_text("no image")
    assert fill("photos", "--overwrite") == 1
    assert sizes == [1] * 5 and bars[-1].n == 6
