"""`inpaint` as a user meets it: what it writes, what it says, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import inpaint
from inpaint.cli import COMMANDS, main
from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.pipeline import InpaintingPipeline

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    Generator(GeneratorConfig(width=2)).save_pretrained(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> Path:
    """A working folder with photo.png, mask.png and the generator's folder model."""
    monkeypatch.chdir(tmp_path)
    draw(Path("photo.png"), Path("mask.png"))
    (tmp_path / "model").symlink_to(model)
    return tmp_path


def draw(photo: Path, mask: Path, size: tuple[int, int] = (10, 7)) -> None:
    """An image of noise, and a mask whose left half is white."""
    for path in (photo, mask):
        path.parent.mkdir(exist_ok=True)
    width, height = size
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(photo)
    hole = np.zeros((height, width), np.uint8)
    hole[:, : width // 2] = 255
    Image.fromarray(hole).save(mask)


def fill(*arguments: str, image: str = "photo.png", mask: str = "mask.png", model: str = "model") -> int:
    return main(["fill", image, "--mask", mask, "--model", model, "--device", "cpu", *arguments])


# --- what it writes


def test_one_image(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fill("-o", "new/folders/filled.png") == 0
    filled, photo = (np.asarray(Image.open(path)) for path in ("new/folders/filled.png", "photo.png"))
    assert np.array_equal(filled[:, 5:], photo[:, 5:])
    assert not np.array_equal(filled[:, :5], photo[:, :5])
    assert capsys.readouterr().out == "filled: new/folders/filled.png\n"
    assert [path.name for path in Path("new/folders").iterdir()] == ["filled.png"]


@pytest.mark.parametrize(
    ("output", "written", "kind"), [("a.JPG", "a.JPG", "JPEG"), ("a", "a", "PNG"), (".", "photo.png", "PNG")]
)
def test_the_extension_decides_the_format(here: Path, output: str, written: str, kind: str) -> None:
    Path("in").mkdir()
    Path("photo.png").rename("in/photo.png")
    assert fill("-o", output, image="in/photo.png") == 0
    assert Image.open(written).format == kind


@pytest.mark.parametrize("program", [["-m", "inpaint"], ["train.py"]])
def test_help_that_nobody_reads_to_its_end_is_no_error(program: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command, buffered = [sys.executable, *program, "--help"], {**os.environ, "PYTHONUNBUFFERED": ""}
    ended = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, env=buffered)
    os.close(writer)
    assert ended.stderr == b""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_nobody_reads_in_the_middle_of_a_command_is_no_bug(unbuffered: str, straight: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command, environment = [sys.executable, "-m", "inpaint", "status"], {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    ended = subprocess.run([*command, straight], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, env=environment)
    os.close(writer)
    assert ended.stderr == b""


def test_without_an_extension_it_is_png_in_a_process_that_did_nothing_before(here: Path) -> None:
    """Pillow learns what it can write only when it is asked."""
    code = "import sys; from inpaint.cli import main; sys.exit(main(sys.argv[1:]))"
    flags = ["fill", "photo.png", "--mask", "mask.png", "--model", "model", "--device", "cpu", "-o"]
    for output, written in (("plain", "plain"), ("new/", "new/photo.png")):
        subprocess.run([sys.executable, "-c", code, *flags, output], check=True)
        assert Image.open(written).format == "PNG"


@pytest.mark.parametrize(
    ("mode", "output", "is_held"),
    [
        ("RGB", "a.webp", True),
        ("RGBA", "a.webp", True),
        ("RGB", "a.bmp", True),
        ("RGB", "a.tiff", True),
        ("RGBA", "a.bmp", False),
        ("RGBA", "a.gif", False),
        ("I;16", "a.webp", False),
        ("I;16", "a.tiff", True),
    ],
)
def test_known_pixels_are_kept_or_the_format_is_refused(
    here: Path, mode: str, output: str, is_held: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = Image.open("photo.png")
    if mode == "I;16":
        photo = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    elif mode == "RGBA":
        photo.putalpha(photo.getchannel("R"))
    photo.save("photo.png")
    assert fill("-o", output) == (0 if is_held else 1)
    if is_held:
        filled = np.asarray(Image.open(output).convert(photo.mode))
        assert np.array_equal(filled[:, 5:], np.asarray(photo)[:, 5:])
    else:
        assert "PNG can hold every kind of image" in capsys.readouterr().err
        assert not Path(output).exists()


def test_folders_pair_by_name_and_never_by_order(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "c"):
        draw(Path("photos", f"{name}.jpg"), Path("masks", f"{name}.png"))
    Path("masks/a.png").unlink()
    Path("photos/c.jpg").unlink()
    Path("photos/notes.txt").write_text("no image")
    assert fill("-o", "out", image="photos", mask="masks") == 0
    assert [path.name for path in Path("out").iterdir()] == ["b.png"]
    said = capsys.readouterr().err
    assert "skipped, no mask of the same name: a\n" in said
    assert "skipped, no image of the same name: c\n" in said


def test_a_bad_image_costs_itself_and_not_the_others(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "c"):
        draw(Path("photos", f"{name}.png"), Path("masks", f"{name}.png"))
    Path("photos/b.png").write_bytes(b"broken")
    assert fill("-o", "out", image="photos", mask="masks") == 1
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "c.png"]
    said = capsys.readouterr().err
    assert "b.png: the image photos/b.png cannot be read" in said
    assert "1 of 3 images could not be filled" in said


def test_a_black_mask_and_a_hole_too_large_are_warned_about(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (10, 7)).save("black.png")
    assert fill("-o", "out.png", mask="black.png") == 0
    told = capsys.readouterr().err
    assert told.startswith("inpaint fill: warning: photo.png: the mask is all black") and told.count("\n") == 1
    Generator(GeneratorConfig(width=2, image_size=16, hole_max_px=2)).save_pretrained("small")
    assert fill("-o", "out.png", model="small") == 0
    told = capsys.readouterr().err
    assert "warning: photo.png: a hole is up to 5 px" in told and "up to 2 px" in told and told.count("\n") == 1
    assert fill("-o", "out.png") == 0
    assert capsys.readouterr().err == ""


# --- how it ends


FAULTS = {
    "no image": (1, {"image": "none.png"}, "none.png"),
    "no mask": (1, {"mask": "none.png"}, "none.png"),
    "no model": (1, {"model": "folder"}, "config.json"),
    "mask of another size": (1, {"mask": "small.png"}, "4x4 pixels and the image 10x7"),
    "no image has a mask": (1, {"image": "folder", "mask": "model", "output": "out"}, "has the name of a mask"),
    "no folder can be made": (1, {"output": "photo.png/deep/out.png"}, "cannot create the folder"),
    "a name that is too long": (1, {"image": "x" * 300 + ".png"}, "error: File name too long: xxx"),
    "no place of so long a name": (1, {"output": "x" * 300 + ".png"}, "error: File name too long: "),
    "no white in the mask": (1, {"mask": "red.png"}, "largest value, as grey, is 76 of 255"),
    "no transparency in a JPEG": (1, {"image": "clear.png", "output": "out.jpg"}, "RGBA as JPEG"),
    "a file and a folder": (2, {"mask": "folder"}, "give a mask, or a folder of images"),
    "no folder of masks": (
        1,
        {"image": "folder", "mask": "none", "output": "out"},
        "no mask and no folder of masks none",
    ),
    "nothing of that name": (1, {"image": "folder/*.jpg", "output": "out"}, "no file is named like folder/*.jpg"),
    "a file for several": (2, {"image": "folder", "output": "photo.png"}, "for several images it must be a folder"),
    "unknown format": (2, {"output": "out.xyz"}, "'.xyz'"),
    "an extension of no image": (2, {"output": "out.pdf.gz"}, "'.gz'"),
    "overwrites the image": (2, {"output": "folder/../photo.png"}, "one of the inputs"),
    "overwrites the mask": (2, {"output": "mask.png"}, "one of the inputs"),
    "two images of one name": (2, {"image": "twins", "mask": "folder", "output": "out"}, "rename one"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str], fault: str) -> None:
    draw(Path("folder/a.png"), Path("small.png"), size=(4, 4))
    draw(Path("twins/a.png"), Path("twins/a.jpg"))
    Image.new("RGBA", (10, 7)).save("clear.png")
    Image.new("RGB", (10, 7), "red").save("red.png")
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    code, changed, message = FAULTS[fault]
    output = changed.get("output", "out.png")
    assert fill("-o", output, **{key: value for key, value in changed.items() if key != "output"}) == code
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.err.startswith("inpaint fill: error: ")
    assert not said.out
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_debug_shows_the_traceback(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fill("-o", "out.png", "--debug", image="none.png") == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert "\ninpaint fill: error: " in said


def test_an_unforeseen_error_is_one_line_too(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(InpaintingPipeline, "_fill", broken)
    assert fill("-o", "out.png") == 1
    assert capsys.readouterr().err.startswith("inpaint fill: unexpected RuntimeError: two lines (")


def test_an_interrupt_is_quiet_and_leaves_no_half_image(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        Path(".out.png.part").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    assert fill("-o", "out.png") == 130
    assert capsys.readouterr() == ("", "")
    assert not list(here.glob("*out.png*")) + list(here.glob(".out*"))


@pytest.mark.parametrize("arguments", [[], ["fil"], ["fill"], ["fill", "a.png", "-o", "c.png"]])
def test_bad_usage_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


def test_who_wants_to_train_is_told_how(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--config", "quickstart"])
    assert "training is started with `accelerate launch train.py ...`" in capsys.readouterr().err


# --- help


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"inpaint {inpaint.__version__}\n"


def test_help_waits_for_no_heavy_library() -> None:
    script = (
        "import sys\nfrom inpaint.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print('HEAVY', sorted({'torch', 'numpy', 'PIL', 'huggingface_hub'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.endswith("HEAVY []\n")
    assert all(f"\n    {name} " in said for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"  inpaint {name} " in capsys.readouterr().out
