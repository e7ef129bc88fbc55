"""The package as a wheel, in an environment of its own far from the repository: all that its users call is in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inpaint.models.generator import Generator, GeneratorConfig

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with nothing in it but the wheel, and what the wheel depends on, which lies here already."""
    if not find_spec("setuptools") or int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip("a wheel is built by setuptools 77 or newer, which is not installed here")
    folder = tmp_path_factory.mktemp("wheel")
    source, environment = folder / "source", folder / "environment"
    shutil.copytree(ROOT / "inpaint", source / "inpaint", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    offline = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", *offline, "--no-build-isolation", "-w", folder, source], check=True)
    venv.create(environment, with_pip=False, symlinks=True)
    (site,) = environment.glob("lib/python*/site-packages")
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", environment / "bin" / "python", "install", *offline, wheel], check=True)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # after the wheel's own place
    return environment / "bin" / "python"


def run(python: Path, *words: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    clean |= {"HF_ENDPOINT": "http://127.0.0.1:9"}  # where nobody answers: the Hub is not needed
    done = subprocess.run([python, *words], cwd=python.parents[2], env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_that_the_package_reads_is_in_it(python: Path) -> None:
    home = Path(run(python, "-c", "import inpaint; print(inpaint.__path__[0])").strip())
    assert home.is_relative_to(python.parents[1])
    kept = {path.relative_to(home) for path in home.rglob("*") if path.suffix not in (".py", ".pyc") and path.is_file()}
    ours = {path.relative_to(ROOT / "inpaint") for path in (ROOT / "inpaint").rglob("*") if path.is_file()}
    assert kept == {path for path in ours if path.suffix not in (".py", ".pyc")}
    assert {path.suffix for path in kept} == {".yaml", ".md", ".typed", ".html", ".css", ".js", ".json", ".safetensors"}


def test_the_commands_start(python: Path) -> None:
    help_text = run(python, "-m", "inpaint", "--help")
    assert "inpaint fill" in help_text
    assert subprocess.check_output([python.parent / "inpaint", "--help"], text=True) == help_text
    assert "steps_per_phase" in run(python, "-m", "inpaint.training", "--config", "paper/final", "--dry-run")


@pytest.mark.parametrize("model", ["", "--model model"])
def test_an_image_is_filled(python: Path, model: str) -> None:
    here = python.parents[2]
    Generator(GeneratorConfig(width=2)).save_pretrained(here / "model")
    for name, shape in (("image.png", (8, 12, 3)), ("mask.png", (8, 12))):
        Image.fromarray(np.random.default_rng(0).integers(0, 2, shape, dtype=np.uint8) * 255).save(here / name)
    words = ["fill", "image.png", "--mask", "mask.png", *model.split(), "-o", "filled.png", "--device", "cpu"]
    assert run(python, "-m", "inpaint", *words) == "filled: filled.png\n"
    image, mask, filled = (np.asarray(Image.open(here / name)) for name in ("image.png", "mask.png", "filled.png"))
    assert np.array_equal(filled[mask == 0], image[mask == 0]) and not np.array_equal(filled, image)
