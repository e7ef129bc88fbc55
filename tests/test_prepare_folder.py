"""What the folder of a dataset is bound to, and what is said before anything there is made anew."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from preparing import contents, landscape, options

from inpaint.cli import main
from inpaint.errors import UsageError
from inpaint.prepare.people import PeopleFilter
from inpaint.prepare.run import WORK_FOLDER, is_finished, prepare
from inpaint.prepare.sharing import FINISHED

NUM = 20


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source in `hills` and its finished dataset in `out`, in chunks of 7."""
    root = tmp_path_factory.mktemp("begun")
    (root / "hills").mkdir()
    for index in range(NUM):
        landscape(index).save(root / "hills" / f"{index}.png")
    prepare(options(root / "hills", root / "out"))
    return root


@pytest.fixture
def out(begun: Path, tmp_path: Path) -> Path:
    """A copy of the dataset for a test's own."""
    return Path(shutil.copytree(begun / "out", tmp_path / "out"))


def chunks(out: Path) -> dict[str, int]:
    """The finished chunks, and which file each is."""
    return {path.name: path.stat().st_ino for path in (out / WORK_FOLDER / "chunks").glob("*.arrow")}


def test_another_size_or_source_is_refused_with_what_differs(
    begun: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, hills = contents(out) | chunks(out), str(begun / "hills")
    words = ["prepare", "--source", hills, "--out", str(out), "--workers", "1"]
    assert main([*words, "--size", "32"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"inpaint prepare: error: --out {out} was begun with --size 64, and this is --size 32; choose another --out, "
        "or give --size 64"
    ]
    moved = Path(shutil.copytree(hills, tmp_path / "moved"))
    for size, message in {
        64: rf"was begun with --source {hills}, and this is --source {moved}; choose another --out, or give --source "
        rf"{hills} \(if they are the same images in another place, delete {out / WORK_FOLDER / 'settings.json'}\)$",
        32: rf"was begun with --source {hills} --size 64, and this is --source {moved} --size 32; choose another "
        rf"--out, or give --source {hills} --size 64$",
    }.items():
        with pytest.raises(UsageError, match=message):
            prepare(replace(options(moved, out), size=size))
    assert contents(out) | chunks(out) == before
    (out / WORK_FOLDER / "settings.json").unlink()
    assert prepare(options(moved, out)) is not None and chunks(out).items() <= before.items()


@pytest.mark.parametrize("is_whole", [True, False])
def test_other_chunks_than_those_there_are_not_made(
    is_whole: bool, begun: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, before = contents(out), chunks(out)
    if not is_whole:
        lost = next((out / WORK_FOLDER / "chunks").glob("*.arrow"))
        lost.unlink()
        (out / WORK_FOLDER / FINISHED).unlink()
        del before[lost.name]
    told = replace(options(begun / "hills", out), chunk_images=5)
    prepare(told)
    assert "begun with --chunk-images 7 and keeps it" in capsys.readouterr().out
    assert before.items() <= chunks(out).items() and len(chunks(out)) == 3
    assert contents(out) == whole and is_finished(told)


def test_chunks_are_as_asked_where_there_is_none_yet(begun: Path, out: Path) -> None:
    shutil.rmtree(out / WORK_FOLDER / "chunks")
    prepare(replace(options(begun / "hills", out), chunk_images=5))
    assert len(chunks(out)) == NUM / 5


def test_who_leaves_the_chunks_of_before_the_settings_were_kept_loses_none(begun: Path, out: Path) -> None:
    before = chunks(out)
    (out / WORK_FOLDER / "settings.json").write_text(f'{{"source": "{begun / "hills"}", "size": 64, "key_rule": 2}}')
    prepare(options(begun / "hills", out))
    assert chunks(out) == before


ANEW: dict[str, tuple[dict[str, Any], str]] = {
    "grey": ({"grey_steps": 1.0}, "--grey-steps 2.5, and this is --grey-steps 1.0"),
    "limit": ({"limit": 12}, "no --limit, and this is --limit 12"),
    "resplit": ({"resplit": True}, "no --resplit, and this is --resplit"),
    "classes": ({"classes": "all"}, "no --classes, and this is --classes all"),
    "chunks": (
        {"limit": 12, "chunk_images": 5},
        "no --limit --chunk-images 7, and this is --limit 12 --chunk-images 5",
    ),
}


@pytest.mark.parametrize("case", ANEW)
def test_before_images_are_prepared_anew_it_is_said_why(
    case: str, begun: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more, said = ANEW[case]
    told = options(begun / "hills", out)
    assert prepare(replace(told, **more)) is not None
    line = f"{out} was prepared with {said}: what that changes is made anew, and in the end replaces what is there; to "
    assert f"{line}keep both, stop and choose another --out\n" in capsys.readouterr().out
    prepare(replace(told, **more))
    assert "anew" not in capsys.readouterr().out


def test_a_person_filter_is_told_from_another_but_its_threshold_costs_nothing(
    begun: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = options(begun / "hills", out)
    settings = out / WORK_FOLDER / "settings.json"
    prepare(replace(told, people=PeopleFilter(threshold=0.5)))
    assert "anew" not in capsys.readouterr().out
    settings.write_text(settings.read_text().replace('"none"', '"darknet"'))
    prepare(told)
    assert "--people-filter darknet, and this is --people-filter none" in capsys.readouterr().out
