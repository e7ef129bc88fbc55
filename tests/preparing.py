"""A small Places365 tree with one of every trouble in it, and how tests prepare it."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from inpaint.prepare.run import WORK_FOLDER, Options

NUM_GOOD = 42


COUNTS = {"kept": NUM_GOOD + 4, "corrupt": 2, "too small": 1, "too large": 1, "grey": 1, "duplicate": 1}


def landscape(seed: int, width: int = 96, height: int = 80) -> Image.Image:
    """Smooth random colours, no two seeds alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def make_tree(root: Path) -> Path:
    """A small Places365 tree with one of every trouble in it."""
    names = ["beach", "field-wild", "mountain"]
    for index in range(NUM_GOOD):
        tree = "val" if index % 7 == 1 else "train"
        path = root / tree / names[index % 3] / f"{index:08d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        landscape(index).save(path, quality=90)
    beach = root / "train" / "beach"
    landscape(900).convert("CMYK").save(beach / "cmyk.jpg")
    landscape(901).save(beach / "plage_été_海.jpg")
    landscape(902).save(beach / "really_a.jpg", format="PNG")
    landscape(903).save(beach / "moving.gif", save_all=True, append_images=[landscape(904)])
    landscape(905).convert("L").save(beach / "grey.jpg")
    landscape(906, 40, 90).save(beach / "small.jpg")
    (beach / "cut.jpg").write_bytes((beach / "cmyk.jpg").read_bytes()[:900])
    (beach / "empty.jpg").touch()
    (beach / "bomb.png").write_bytes(_bomb())
    shutil.copy(beach / "cmyk.jpg", beach / "zz_copy.jpg")
    (beach / "notes.txt").write_text("not an image")
    (beach / ".hidden.jpg").write_bytes(b"")
    (root / "train" / "airfield").mkdir()
    landscape(907).save(root / "train" / "airfield" / "1.jpg")
    (root / "train" / "glacier").mkdir()
    (beach / "loop").symlink_to(root / "train")
    return root


def _bomb() -> bytes:
    """A PNG that says it is 60,000 pixels wide and high."""
    data = io.BytesIO()
    Image.new("L", (1, 1)).save(data, "png")
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + data.getvalue()[24:29]
    return data.getvalue()[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data.getvalue()[33:]


def options(source: Path | str, out: Path, **more: Any) -> Options:
    return Options(str(source), out, workers=1, chunk_images=7, show_progress=False, **more)


def contents(out: Path) -> dict[str, str]:
    """The digest of every file of a dataset."""
    files = [path for path in out.rglob("*") if path.is_file() and WORK_FOLDER not in path.parts]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def ran(source: Path, out: Path, *program: str, **environment: str) -> subprocess.Popen[bytes]:
    """The command in a process of its own; `program` is what Python runs instead of it, with the same words."""
    words = ["prepare", "--source", str(source), "--out", str(out), "--workers", "1", "--chunk-images", "3"]
    return subprocess.Popen(
        [sys.executable, *(program or ("-m", "inpaint")), *words],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
