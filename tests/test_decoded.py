"""The cache of decoded images: what is in it belongs together, is found again, and is decoded anew where it must be."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from coloured import SPEC, SYNTHETIC, colour_of, folder_of, many, names_in, opened, paint
from PIL import Image

from inpaint.data import cache, recipes
from inpaint.data.draws import stored_holes
from inpaint.errors import InpaintError
from inpaint.sources.keys import SPLITS, key_hash


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "~/.cache/inpaint"),
        ({"XDG_CACHE_HOME": "/scratch"}, "/scratch/inpaint"),
        ({"XDG_CACHE_HOME": ""}, "~/.cache/inpaint"),
        ({"XDG_CACHE_HOME": "relative"}, "~/.cache/inpaint"),
        ({"XDG_CACHE_HOME": "/scratch", "INPAINT_CACHE": "~/mine"}, "~/mine"),
    ],
)
def test_where_the_cache_is(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "INPAINT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache.cache_folder(None) == Path(expected).expanduser()
    assert cache.cache_folder(Path("given")) == Path("given")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InpaintError, match=r"file/cache \(Not a directory\): set data\.cache_dir"):
        opened(None, tmp_path / "file" / "cache")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with pytest.raises(
        InpaintError, match=r"needs .* KiB in .*, where 1\.0 KiB are free: make room, or set data\.cache_dir"
    ):
        opened(None, tmp_path / "cache")


def test_rows_belong_together(tmp_path: Path) -> None:
    images = opened(folder_of(tmp_path / "photos", many()), tmp_path / "cache")
    for split in images.values():
        assert isinstance(split.pixels, np.memmap) and not split.pixels.flags.writeable
        assert split.pixels.shape == (len(split.sources), 16, 16, 3)
        for pixels, source in zip(split.pixels, split.sources, strict=True):
            assert (pixels == colour_of(str(source).split("/")[-1])).all()
        assert [key_hash(str(source)) for source in split.sources] == sorted(
            key_hash(str(source)) for source in split.sources
        )
        holes, crops = stored_holes(
            np.array([key_hash(str(source)) for source in split.sources], dtype=np.uint64), SPEC
        )
        np.testing.assert_array_equal(split.holes, holes)
        np.testing.assert_array_equal(split.windows, crops)


def test_a_copy_elsewhere_is_found_again_and_a_change_is_not(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "photos", many())
    opened(root, tmp_path / "cache")
    shutil.copytree(root, tmp_path / "elsewhere" / "staged")
    opened(tmp_path / "elsewhere" / "staged", tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*/entry.json"))) == 1
    paint(root / "lake" / "new.png")
    assert "lake/new.png" in names_in(opened(root, tmp_path / "cache"))


def test_images_worked_over_without_a_change_of_size_are_decoded_anew(tmp_path: Path) -> None:
    root = tmp_path / "photos" / "lake"
    root.mkdir(parents=True)
    for value in (10, 200):
        for index in range(60):
            Image.new("RGB", (32, 32), (value, index, 0)).save(root / f"{index}.bmp")
        assert opened(root.parent, tmp_path / "cache")["train"].pixels[..., 0].min() == value


def test_synthetic_splits_share_no_image(tmp_path: Path) -> None:
    images = opened(None, tmp_path / "cache")
    assert [len(images[split].pixels) for split in SPLITS] == [40, 8, 4]
    rows = np.concatenate([images[split].pixels for split in SPLITS]).reshape(52, -1)
    assert len(np.unique(rows, axis=0)) == 52 == len(names_in(images))


def test_any_change_of_the_code_that_draws_landscapes_is_another_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "CODE", Path(shutil.copytree(recipes.CODE, tmp_path / "synthetic")))
    recipe = recipes.SyntheticRecipe(SYNTHETIC, 16)
    names = [recipe.fingerprint()]
    for path in sorted(recipes.CODE.glob("*.py")):
        path.write_bytes(path.read_bytes() + b"\n")
        names.append(recipe.fingerprint())
    assert len(names) > 6 and len(set(names)) == len(names)


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    opened(None, tmp_path / "cache")
    file = next((tmp_path / "cache").glob("*/train.npy"))
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(InpaintError, match=f"{file.parent} are damaged .* delete that folder"):
        opened(None, tmp_path / "cache")


# Renders slowly and says so, so that a test can act in the middle.
BUILDER = """
import os, sys, time
from pathlib import Path
from inpaint.data.synthetic import landscapes as synthetic
from inpaint.holes.spec import HoleSpec
from inpaint.data.decoded import SyntheticSpec, open_images
render, delay = synthetic.render, float(sys.argv[2])
def slow(*arguments):
    os.write(1, b"render\\n")  # in one piece: several threads render
    time.sleep(delay)
    return render(*arguments)
synthetic.render = slow
open_images(None, HoleSpec.scaled(16), cache_dir=Path(sys.argv[1]), max_bad_fraction=0.0,
              synthetic=SyntheticSpec(40, 8, 4, 1), show_progress=False)
print("opened", flush=True)
"""


def start_builder(cache_dir: Path, delay_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(cache_dir), str(delay_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_builder_leaves_nothing_that_confuses(tmp_path: Path) -> None:
    builder = start_builder(tmp_path / "cache", delay_s=600)
    assert builder.stdout is not None and builder.stdout.readline() == "render\n"
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    assert len([path for path in (tmp_path / "cache").iterdir() if ".partial-" in path.name]) == 1
    again, fresh = opened(None, tmp_path / "cache"), opened(None, tmp_path / "fresh")
    for split in SPLITS:
        np.testing.assert_array_equal(again[split].pixels, fresh[split].pixels)
    assert not [path for path in (tmp_path / "cache").iterdir() if ".partial-" in path.name]


def test_two_processes_at_once_build_once(tmp_path: Path) -> None:
    builders = [start_builder(tmp_path / "cache", delay_s=0.1) for _ in range(2)]
    said = [builder.communicate()[0].splitlines() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0]
    assert sorted(said) == [["opened"], ["render", "render", "render", "opened"]]


def test_what_is_in_the_cache_is_opened_without_pandas(tmp_path: Path) -> None:
    """It takes a quarter of a second of every process's start, and nothing of it is used."""
    opened(None, tmp_path)
    program = f"""\
import sys
from pathlib import Path
from inpaint.holes.spec import HoleSpec
from inpaint.data.decoded import SyntheticSpec, open_images
made = SyntheticSpec(num_train=40, num_validation=8, num_test=4, seed=1)
open_images(None, HoleSpec.scaled(16), cache_dir=Path({str(tmp_path)!r}), max_bad_fraction=0, synthetic=made,
              show_progress=False)
sys.exit("pandas" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1]).returncode == 0
