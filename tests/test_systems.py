"""Filling runs on every system: it asks for nothing that Windows or macOS lack. Training says where it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inpaint.models.generator import Generator, GeneratorConfig

# What Python offers on Linux and not on Windows, of what torch and its like do not ask for here; macOS lacks the end.
LACKING = """
import os, signal, sys
for name in ("fcntl", "resource", "termios", "grp", "syslog"):
    sys.modules[name] = None
for module, names in {
    signal: "SIGUSR1 SIGUSR2 SIGHUP SIGKILL SIGALRM SIGCHLD SIGQUIT SIGPIPE SIGSTOP pthread_kill pthread_sigmask",
    os: "fork forkpty getuid geteuid getgid getpgid killpg setsid pread pwrite statvfs fchmod chown mkfifo getloadavg"
        " O_DIRECTORY O_NOFOLLOW"
        " sched_getaffinity sched_setaffinity posix_fadvise posix_fallocate fdatasync",
}.items():
    for name in names.split():
        delattr(module, name)
"""


def ended(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LACKING + program], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    "program", ["import inpaint; inpaint.InpaintingPipeline", "from inpaint.cli import main; main(['fill', '--help'])"]
)
def test_nothing_is_asked_for_before_it_is_used(program: str, tmp_path: Path) -> None:
    done = ended(program, tmp_path)
    assert done.returncode == 0, done.stderr


def test_an_image_is_filled(tmp_path: Path) -> None:
    Generator(GeneratorConfig(width=2)).save_pretrained(tmp_path / "model")
    for name, channels in (("image.png", (3,)), ("mask.png", ())):
        pixels = np.random.default_rng(0).integers(0, 2, (8, 12, *channels), dtype=np.uint8) * 255
        Image.fromarray(pixels).save(tmp_path / name)
    words = ["fill", "image.png", "--mask", "mask.png", "--model", "model", "-o", "filled.png", "--device", "cpu"]
    done = ended(f"from inpaint.cli import main; sys.exit(main({words}))", tmp_path)
    assert (done.returncode, done.stdout) == (0, "filled: filled.png\n"), done.stderr
    image, mask, filled = (np.asarray(Image.open(tmp_path / name)) for name in ("image.png", "mask.png", "filled.png"))
    assert np.array_equal(filled[mask == 0], image[mask == 0]) and not np.array_equal(filled, image)


def test_training_can_be_imported_and_says_where_it_runs(tmp_path: Path) -> None:
    program = """
import importlib, pkgutil, inpaint
for module in pkgutil.walk_packages(inpaint.__path__, "inpaint."):
    if module.name != "inpaint.__main__":
        importlib.import_module(module.name)
from inpaint.training.launch import main
sys.exit(main(["--config", "quickstart", "--run-dir", "run"]))
"""
    done = ended(program, tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].endswith(
        "training needs Linux or macOS; on Windows start it in WSL, or fill images: inpaint fill --help"
    )
    assert not (tmp_path / "run").exists()
