"""What `inpaint export` writes fills as the pipeline does, at any size, where there is no PyTorch."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from inpaint.cli import main
from inpaint.exports import onnx_file
from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.models.generators import smooth_prior
from inpaint.pipeline import InpaintingPipeline
from inpaint.tables import GENERATORS

ROOT = Path(__file__).parent.parent
# Most of an export's time goes by the smooth fill's levels. `smooth_prior` has all of them.
LEVELS = {"smooth_prior": smooth_prior.NUM_LEVELS, "gated": 2}


def generator_of(architecture: str) -> Generator:
    """One that paints something: a last layer that starts at zero would hide all before it."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(width=4, architecture=architecture)).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return generator


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the saved generator and the ONNX file of every architecture."""
    folder = tmp_path_factory.mktemp("exported")
    for name in GENERATORS:
        generator_of(name).save_pretrained(folder / name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(smooth_prior, "NUM_LEVELS", LEVELS.get(name))
            assert export(folder / name, str(folder / f"{name}.onnx")) == 0
    return folder


def export(folder: Path, output: str, *more: str) -> int:
    return main(["export", str(folder), "--format", "onnx", *more, "-o", output])


def example(height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Noise, and a mask of every value whose bright half is the hole."""
    random = np.random.default_rng(height * width)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.full((height, width), 127, np.uint8)
    mask[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = 128
    return image, mask


def run(model: Path, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    (filled,) = onnxruntime.InferenceSession(model).run(["filled"], {"image": image, "mask": mask})
    return filled


@pytest.mark.parametrize("name", GENERATORS)
def test_it_fills_any_size_as_the_pipeline_does(exported: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smooth_prior, "NUM_LEVELS", LEVELS.get(name))
    pipe = InpaintingPipeline.from_pretrained(exported / name, device="cpu")
    for size in ((64, 64), (63, 65), (427, 640), (8, 300), (3, 2), (1, 1)):
        image, mask = example(*size)
        filled = run(exported / f"{name}.onnx", image[None], mask[None])[0]
        assert filled.dtype == np.uint8 and filled.shape == image.shape
        assert np.array_equal(filled[mask < 128], image[mask < 128])
        assert not np.array_equal(filled, image)
        expected = np.asarray(pipe(image, mask, strategy="whole")).astype(int)
        assert np.abs(filled - expected).max() <= 1, size


@pytest.mark.parametrize("name", GENERATORS)
def test_a_batch_is_filled_as_each_alone(exported: Path, name: str) -> None:
    image, mask = example(36, 28)
    images, masks = (
        np.stack([image, image[::-1], 255 - image]),
        np.stack([mask, 255 - mask, mask.T.reshape(mask.shape)]),
    )
    alone = [run(exported / f"{name}.onnx", *pair)[0] for pair in zip(images[:, None], masks[:, None], strict=True)]
    assert np.abs(run(exported / f"{name}.onnx", images, masks) - np.stack(alone).astype(int)).max() <= 1


@pytest.mark.parametrize("name", GENERATORS)
def test_the_file_is_one_that_every_runtime_reads(exported: Path, name: str) -> None:
    path = exported / f"{name}.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(used.domain, used.version) for used in model.opset_import] == [("", 18)] and not model.functions
    assert {facts.key: facts.value for facts in model.metadata_props}["architecture"] == name
    assert b"site-packages" not in path.read_bytes() and str(ROOT).encode() not in path.read_bytes()
    assert [file.name for file in exported.iterdir() if file.name.startswith(name)] in (
        [name, path.name],
        [path.name, name],
    )


def test_readme_exports_and_fills_where_there_is_no_torch(exported: Path, tmp_path: Path) -> None:
    """Both lines as written, the second where nothing but onnxruntime, what it needs, and Pillow can be imported."""
    wanted = r"^(?:inpaint export .*--format onnx|python examples/fill_onnx.py) .*$"
    lines = re.findall(wanted, (ROOT / "README.md").read_text(), re.M)
    assert [line.split()[0] for line in lines] == ["inpaint", "python"]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "photos").symlink_to(exported / "dilated")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    image, mask = example(50, 61)
    Image.fromarray(image).save(tmp_path / "photo.jpg")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    subprocess.run([sys.executable, "-m", *shlex.split(lines[0])], cwd=tmp_path, check=True)
    bare, installed = tmp_path / "bare", Path(sysconfig.get_path("purelib"))
    bare.mkdir()
    for name in ("numpy", "numpy.libs", "PIL", "pillow.libs", "onnxruntime", "flatbuffers", "google", "packaging"):
        if (installed / name).exists():
            (bare / name).symlink_to(installed / name)
    python = [sys.executable, "-S"]
    only_these = {"PYTHONPATH": str(bare)}
    assert subprocess.run([*python, "-c", "import torch"], env=only_these, capture_output=True).returncode == 1
    subprocess.run([*python, *shlex.split(lines[1])[1:]], cwd=tmp_path, env=only_these, check=True)
    photo, filled = (np.asarray(Image.open(tmp_path / name)) for name in ("photo.jpg", "filled.png"))
    assert np.array_equal(filled[mask < 128], photo[mask < 128]) and not np.array_equal(filled, photo)


def test_the_example_refuses_what_it_cannot_do_in_a_line(exported: Path, tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((50, 61), 3000, np.uint16))
    for name, image in (("photo", Image.new("RGB", (61, 50))), ("mask", Image.new("L", (61, 50))), ("deep", deep)):
        image.save(tmp_path / f"{name}.png")
    Image.new("L", (60, 50)).save(tmp_path / "other.png")
    Image.new("RGBA", (61, 50)).save(tmp_path / "clear.png")
    (tmp_path / "model.onnx").symlink_to(exported / "dilated.onnx")
    for words, told in (
        ("model.onnx photo.png", "2 names given; use: python fill_onnx.py model.onnx"),
        ("model.onnx deep.png mask.png out.png", "8 bits a channel and no transparency are taken, not I;16"),
        ("model.onnx photo.png deep.png out.png", "with a mask I;16"),
        ("model.onnx clear.png mask.png out.png", "not RGBA"),
        ("model.onnx photo.png other.png out.png", "the mask is 60x50 pixels and the photograph 61x50"),
        ("model.onnx photo.png none.png out.png", "No such file or directory: "),
        ("none.onnx photo.png mask.png out.png", "none.onnx failed"),
    ):
        command = [sys.executable, str(ROOT / "examples" / "fill_onnx.py"), *words.split()]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert ended.returncode == 1 and told in ended.stderr and ended.stderr.count("\n") == 1, ended.stderr
    assert not (tmp_path / "out.png").exists()


def test_fp16_halves_the_file_and_fills_alike(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smooth_prior, "NUM_LEVELS", LEVELS["gated"])
    assert export(exported / "gated", str(tmp_path / "half.onnx"), "--precision", "fp16") == 0
    image, mask = example(63, 65)
    paths = tmp_path / "half.onnx", exported / "gated.onnx"
    half, whole = (run(path, image[None], mask[None]) for path in paths)
    assert np.array_equal(half[0][mask < 128], image[mask < 128])
    assert np.abs(half - whole.astype(int)).max() <= 1
    weights_of = [sum(kept.ByteSize() for kept in onnx.load(path).graph.initializer) for path in paths]
    assert weights_of[0] < 0.6 * weights_of[1]


# --- how it ends


def test_what_fills_otherwise_is_not_kept(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that was written from other weights stands for every fault of an exporter or a runtime."""
    other = (exported / "smooth_prior.onnx").read_bytes()
    monkeypatch.setattr(onnx_file, "_save", lambda model, path: path.write_bytes(other))
    assert export(exported / "dilated", str(tmp_path / "model.onnx")) == 1
    said = capsys.readouterr().err
    *stages, error = said.splitlines()
    assert "at 64x64 pixels the ONNX file fills up to " in error
    assert stages == ["exporting the network to ONNX, in float32", "comparing its fills with PyTorch's at 5 sizes"]
    assert not list(tmp_path.iterdir())


class Unexportable(torch.nn.Module):
    """Has an operation that ONNX lacks."""

    multiple_px, inference_bytes_per_px = 1, 1

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()

    def forward(self, masked_image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(masked_image)


def test_faults_are_one_line(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends(code: int, folder: Path, output: Path, message: str) -> None:
        assert export(folder, str(output)) == code
        said = capsys.readouterr().err
        *stages, error = said.splitlines()
        assert message in error and error.startswith("inpaint export: error: "), said
        assert stages == ["exporting the network to ONNX, in float32"] * ("cannot be exported" in message)
        assert not list(tmp_path.glob("*.onnx")) + list(tmp_path.glob(".*"))

    ends(2, exported / "dilated", tmp_path, "is a folder; give a file")
    ends(1, tmp_path / "none", tmp_path / "a.onnx", "does not exist")
    monkeypatch.setitem(GENERATORS, "unexportable", f"{__name__}:Unexportable")
    Generator(GeneratorConfig(architecture="unexportable")).save_pretrained(tmp_path / "odd")
    ends(1, tmp_path / "odd", tmp_path / "a.onnx", "'unexportable' cannot be exported to ONNX: ")
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None if name == "onnxscript" else name)
    ends(1, exported / "dilated", tmp_path / "a.onnx", "onnxscript, not installed here: pip install 'inpaint[onnx]'")
