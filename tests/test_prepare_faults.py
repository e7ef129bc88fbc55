"""What `inpaint prepare` refuses, and what neither an end, damage nor a full disk takes from it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from preparing import contents, options, ran

from inpaint.cli import main
from inpaint.errors import InpaintError
from inpaint.prepare.run import WORK_FOLDER, prepare


def test_killed_at_random_it_ends_with_the_same_bytes(places: Path, dataset: Path, tmp_path: Path) -> None:
    out, inodes = tmp_path / "out", dict[str, int]()
    rng = np.random.default_rng()
    for kill in range(3):
        process = ran(places, out)
        num_chunks = kill * 5 + int(rng.integers(1, 6))
        while process.poll() is None and len(list((out / WORK_FOLDER / "chunks").glob("*.arrow"))) < num_chunks:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        finished = {path.name: path.stat().st_ino for path in (out / WORK_FOLDER / "chunks").glob("*.arrow")}
        assert inodes.items() <= finished.items(), "a finished chunk was made again"
        inodes = finished
    assert inodes
    prepare(replace(options(places, out), chunk_images=3))
    assert contents(out) == contents(dataset)
    assert not list(out.rglob("*.tmp"))


def test_stopped_before_or_after_each_file_it_ends_with_the_same_bytes(
    places: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rename and removal in turn is the last thing that a run does, or the first that it does not."""
    out, num_points = tmp_path / "out", 0
    originals = {(module, name): getattr(module, name) for module, name in [(os, "replace"), (os, "unlink")]}
    while True:
        left = num_points

        def stop_at(*args: object, original: object, **kwargs: object) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            original(*args, **kwargs)  # type: ignore[operator]

        shutil.rmtree(out, ignore_errors=True)
        with monkeypatch.context() as patch:
            for (module, name), original in originals.items():
                patch.setattr(
                    module, name, lambda *args, original=original, **kw: stop_at(*args, original=original, **kw)
                )
            try:
                prepare(replace(options(places, out), chunk_images=20))
            except KeyboardInterrupt:
                pass
            else:
                break
        prepare(replace(options(places, out), chunk_images=20))
        assert contents(out) == contents(dataset), num_points
        num_points += 1
    assert num_points >= 10


BAD_CALLS = {
    "no such folder": (["--source", "{tmp}/none"], "none does not exist; give a folder of images"),
    "not a tar": (["--source", "{places}/train/beach/notes.txt"], "is a file, but no tar or zip"),
    "odd size": (["--size", "63"], "--size is 63; it must be a multiple of 4 from 16 to 1024"),
    "out in source": (["--out", "{places}/out"], "is inside the source"),
    "no classes in common": (
        ["--classes", "{tmp}/moon.txt"],
        "none of the 1 classes is in {places}, which has airfield",
    ),
    "empty list": (["--classes", "{tmp}/empty.yaml"], "holds no list of names"),
    "filled folder": (["--out", "{tmp}"], "holds files that are not from this command"),
    "no weights": (["--people-filter", "darknet"], "needs a file for --darknet-cfg; got None"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_bad_call_ends_in_one_line(
    case: str, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "moon.txt").write_text("/m/moon 0\n")
    (tmp_path / "empty.yaml").touch()
    flags, message = BAD_CALLS[case]
    flags, message = ([text.format(tmp=tmp_path, places=places) for text in texts] for texts in (flags, [message]))
    assert main(["prepare", "--source", str(places), "--out", str(tmp_path / "out"), "--workers", "1", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message[0] in line


def test_a_class_of_the_list_without_images_is_named(
    places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.yaml").write_text("[/b/beach, /g/glacier, /m/moon]")
    plan = prepare(replace(options(places, tmp_path / "out"), classes=str(tmp_path / "list.yaml")))
    assert "no images in 2 of the 3 classes: glacier, moon" in capsys.readouterr().out
    assert plan is not None and plan.kept_labels == ("beach",)


def test_a_tar_cut_short_is_named_and_a_whole_one_goes_on(places: Path, dataset: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.tar", tmp_path / "places.tar"
    with tarfile.open(whole, "w") as tar:
        tar.add(places, "")
    with tarfile.open(whole) as tar:
        last = tar.getmembers()[-2]
    for end in (last.offset, last.offset + 100, last.offset_data, last.offset_data + 100):
        cut.write_bytes(whole.read_bytes()[:end])
        with pytest.raises(InpaintError, match=r"can't be read to its end .*; is the download complete\?"):
            prepare(options(cut, tmp_path / "out"))
    whole.replace(cut)
    prepare(options(cut, tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(dataset)


def test_a_full_disk_is_told_before_or_while_and_loses_nothing(
    places: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
        with pytest.raises(InpaintError, match=r"has \d+\.\d KiB free and about \d+\.\d KiB are needed"):
            prepare(options(places, out))
    with monkeypatch.context() as patch:
        calls: list[int] = []

        def full(descriptor: int) -> None:
            calls.append(descriptor)
            if len(calls) == 6:
                raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "fsync", full)
        with pytest.raises(InpaintError, match="is full; free some space and run the same command again"):
            prepare(options(places, out))
    assert list((out / WORK_FOLDER / "chunks").glob("*.arrow"))
    prepare(options(places, out))
    assert contents(out) == contents(dataset)


DAMAGED = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "overwritten": lambda data: b"\xff" * (len(data) // 2) + data[len(data) // 2 :],
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_is_damaged_in_out_is_made_anew_or_told_in_one_line(
    damage: str, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings_ = replace(options(places, tmp_path / "out"), chunk_images=60)
    prepare(settings_)
    whole, work = contents(tmp_path / "out"), tmp_path / "out" / WORK_FOLDER
    shard = next((tmp_path / "out" / "data").glob("train-*"))
    for file in (work / "plan.json", *work.glob("chunks/*"), shard):
        file.write_bytes(DAMAGED[damage](file.read_bytes()))
        capsys.readouterr()
        prepare(settings_)
        assert contents(tmp_path / "out") == whole, file
        assert file.name == "plan.json" or f"{file} is damaged and will be remade" in capsys.readouterr().out
    (work / "settings.json").write_bytes(DAMAGED[damage]((work / "settings.json").read_bytes()))
    with pytest.raises(InpaintError, match=r"settings.json is damaged .*; delete it if --out .* was begun from"):
        prepare(settings_)
