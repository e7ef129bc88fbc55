"""Where `inpaint fill` writes: what it never takes the place of, and what it finds out before it computes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inpaint.cli import main
from inpaint.errors import UsageError
from inpaint.filling import many
from inpaint.images.job import Filled, FillJob
from inpaint.images.writing import save
from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.pipeline import InpaintingPipeline

NOBODY = 65534


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with three photographs of one size, a mask and a model."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in "abc":
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{name}.png")
    Image.fromarray(np.pad(np.full((3, 4), 255, np.uint8), ((2, 4), (3, 5)))).save("mask.png")
    Generator(GeneratorConfig(width=2)).save_pretrained("model")
    return tmp_path


def fill(*images: str, output: str, model: str = "model") -> int:
    return main(["fill", *images, "--mask", "mask.png", "--model", model, "--device", "cpu", "-o", output])


@pytest.fixture
def become_nobody() -> Callable[[], None]:
    """Makes root one who may not write everywhere, until the test ends; of others it changes nothing."""
    yield lambda: os.seteuid(NOBODY) if os.getuid() == 0 else None  # type: ignore[misc]
    os.seteuid(os.getuid())


# --- what is no file


def test_a_fifo_stays_one_and_nothing_is_computed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe.png")
    Path("linked.png").symlink_to("pipe.png")
    for output in ("pipe.png", "linked.png"):
        assert fill("photos/a.png", output=output, model="none") == 2
        said = capsys.readouterr().err
        assert f"the output {output} is a FIFO" in said and said.count("\n") == 1
    assert main(["export", "none", "--format", "onnx", "-o", "pipe.png"]) == 2
    assert "the output pipe.png is a FIFO" in capsys.readouterr().err
    with pytest.raises(UsageError, match="is a FIFO"):
        save(Filled(np.zeros((2, 2), np.uint8), None, 0), Path("pipe.png"))
    assert stat.S_ISFIFO(os.lstat("pipe.png").st_mode) and Path("linked.png").is_symlink()


def test_a_folder_in_the_place_of_the_file_is_told_before(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out/a.png").mkdir(parents=True)
    assert fill("photos/a.png", output="out/", model="none") == 2
    assert "the output out/a.png is a folder" in capsys.readouterr().err


def test_among_many_it_costs_one_image_and_no_fill(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    filled: list[FillJob] = []
    fill_jobs = InpaintingPipeline.fill_jobs

    def counted(self: InpaintingPipeline, jobs: list[FillJob], how: object) -> list[Filled]:
        filled.extend(jobs)
        return fill_jobs(self, jobs, how)  # type: ignore[arg-type]

    monkeypatch.setattr(InpaintingPipeline, "fill_jobs", counted)
    Path("out").mkdir()
    os.mkfifo("out/b.png")
    assert fill("photos", output="out") == 1
    said = capsys.readouterr().err
    assert "photos/b.png: the output out/b.png is a FIFO" in said and "1 of 3 images could not be filled" in said
    assert stat.S_ISFIFO(os.lstat("out/b.png").st_mode) and len(filled) == 2
    assert Path("out/a.png").is_file() and Path("out/c.png").is_file()


def test_a_link_stays_and_what_it_leads_to_is_written(here: Path) -> None:
    Path("elsewhere").mkdir()
    Path("filled.png").symlink_to("elsewhere/there.png")
    assert fill("photos/a.png", output="filled.png") == 0
    assert Path("filled.png").is_symlink() and [*Path("elsewhere").iterdir()] == [Path("elsewhere/there.png")]
    assert Image.open("elsewhere/there.png").size == (12, 9)


# --- where nothing can be written


def test_a_folder_without_the_right_to_write_is_told_before(
    here: Path, become_nobody: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    here.chmod(0o755)
    Path("locked").mkdir(mode=0o555)
    become_nobody()
    for images, output in ((["photos/a.png"], "locked/a.png"), (["photos"], "locked")):
        assert fill(*images, output=output, model="none") == 1
        said = capsys.readouterr().err
        assert "cannot write into the folder locked: Permission denied" in said and said.count("\n") == 1


def test_a_right_to_write_that_is_taken_away_ends_it_at_once(
    here: Path, monkeypatch: pytest.MonkeyPatch, become_nobody: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    filled = 0
    fill_jobs = InpaintingPipeline.fill_jobs

    def then_locked(self: InpaintingPipeline, jobs: list[FillJob], how: object) -> list[Filled]:
        nonlocal filled
        filled += len(jobs)
        Path("out").chmod(0o555)
        become_nobody()
        return fill_jobs(self, jobs, how)  # type: ignore[arg-type]

    here.chmod(0o755)
    monkeypatch.setattr(InpaintingPipeline, "fill_jobs", then_locked)
    monkeypatch.setattr(many, "_MOST_HELD", 1)
    assert fill("photos", output="out") == 1
    said = capsys.readouterr().err
    assert said.count("Permission denied") == 1 and "could not be filled" not in said
    assert filled == 1


# --- files and folders


def test_several_images_need_a_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fill("photos/a.png", "photos/b.png", output="two.png") == 2
    assert "two.png is the name of a file; several images need a folder, such as two/" in capsys.readouterr().err
    assert not Path("two.png").exists()
    assert fill("photos/a.png", "photos/b.png", output="two.png/") == 0
    assert fill("photos/c.png", "photos/b.png", output="two.png") == 0  # it is there by now
    assert len([*Path("two.png").iterdir()]) == 3
    capsys.readouterr()
    assert fill("photos/[c].png", output="one") == 0
    assert capsys.readouterr().out == "filled 1 image: one\n"
