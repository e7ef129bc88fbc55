"""No image is lost, moved between splits or decoded twice, and every fault of a source is one clear line."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest
from coloured import folder_of, many, names_in, opened, paint
from datasets import ClassLabel, Dataset, DatasetDict
from datasets import Image as ImageFeature
from hub_server import LoopbackHub
from PIL import Image

from inpaint.data.stream import find_shards
from inpaint.errors import InpaintError, UsageError
from inpaint.holes.spec import HoleSpec
from inpaint.sources.keys import SPLITS, Split, key_hash, split_for, split_of
from inpaint.sources.opening import open_source
from inpaint.sources.source import Entry


def read(root: Path) -> dict[Split, list[Entry]]:
    """The entries of each split, in the source's order."""
    source = open_source(str(root))
    own_splits = source.survey().own_splits
    splits: dict[Split, list[Entry]] = {split: [] for split in SPLITS}
    for entry in source.entries():
        splits[split_for(entry.key_hash, entry.split, own_splits)].append(entry)
    return splits


def keys(entries: list[Entry]) -> list[str]:
    return [entry.key for entry in entries]


# --- What is found --------------------------------------------------------------------------------------------------


def test_names_that_look_like_splits_or_patterns_lose_nothing(tmp_path: Path) -> None:
    names = {
        "train_station/a.jpg", "test_p1.jpg", "lake/test_p1.jpg", "lake/validation.png", "train/one.png",
        "a/b/c/deep.JPG", "lake/b[1].jpg", "lake/b1.jpg", "lake/b*.jpg", "coast/what?.png", "coast/ü 雪 #50%.JPEG",
        "lake/{1,2}.png", "lake/line\nbreak.png",
    }  # fmt: skip
    root = folder_of(tmp_path / "photos", names)
    for hidden in (".hidden.png", "lake/._b1.jpg", ".thumbnails/b1.jpg", "__MACOSX/x.png"):
        paint(root / hidden)
    (root / "lake" / "notes.txt").write_text("no image")
    (root / "lake" / "round").symlink_to(root)
    (root / "again").symlink_to(root / "coast")
    elsewhere = folder_of(tmp_path / "elsewhere", ["far.png"])
    (elsewhere / "round").symlink_to(elsewhere)
    (root / "linked").symlink_to(elsewhere)
    names.add("linked/far.png")
    splits = read(root)
    entries = [entry for split in splits.values() for entry in split]
    assert sorted(entry.source for entry in entries) == sorted(names)
    for entry in entries:
        *folders, name = entry.source.split("/")
        label = "-".join(folders)
        assert entry.file == root / entry.source and entry.read() == entry.file.read_bytes()
        assert (entry.label, entry.key) == ((label, f"{label}/{name}") if label else ("unlabelled", name))


def test_split_folders_are_kept_and_missing_ones_carved(tmp_path: Path) -> None:
    names = many()
    root = folder_of(tmp_path / "photos", [f"train/{name}" for name in names] + ["Val/coast/v.png"])
    splits = read(root)
    assert keys(splits["validation"]) == ["coast/v.png"]
    assert set(keys(splits["test"])) == {name for name in names if split_of(key_hash(name)) == "test"}
    assert sum(map(len, splits.values())) == len(names) + 1

    paint(root / "test" / "coast" / "t.png")
    splits = read(root)
    assert [len(splits[split]) for split in SPLITS] == [len(names), 1, 1]

    paint(root / "stray.png")
    with pytest.raises(InpaintError, match=r"images outside them, such as in the folder itself: move"):
        read(root)


def test_adding_images_moves_none(tmp_path: Path) -> None:
    before = read(folder_of(tmp_path / "photos", many(150)))
    after = read(folder_of(tmp_path / "photos", many(200)))
    for split in SPLITS:
        assert set(keys(before[split])) <= set(keys(after[split]))
        assert set(keys(before[split])) == {key for key in many(150) if split_of(key_hash(key)) == split}


def table(num: int, side: tuple[int, int] = (32, 32)) -> Dataset:
    rows = {"image": [Image.new("RGB", side, (index, 0, 0)) for index in range(num)]}
    return Dataset.from_dict(rows, features=None).cast_column("image", ImageFeature())


def write_shards(dataset: Dataset, root: Path, **splits: range) -> Path:
    (root / "data").mkdir(parents=True)
    for split, rows in splits.items():
        dataset.select(rows).to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")
    return root


def test_shards_bring_their_names_and_scaled_coordinates(tmp_path: Path) -> None:
    num = 6
    dataset = table(num, side=(160, 128))
    dataset = dataset.add_column("source", [f"data/coast/{index}.jpg" for index in range(num)])
    dataset = dataset.add_column("label", [0] * num).cast_column("label", ClassLabel(names=["coast"]))
    dataset = dataset.add_column("hole", [[36, 40, 30, 50]] * num).add_column("crop", [[26, 36]] * num)
    root = write_shards(dataset, tmp_path / "shards", train=range(3), validation=range(3, 5), test=range(5, 6))
    images = opened(root, tmp_path / "cache", HoleSpec.scaled(64))
    assert [sorted(images[split].pixels[:, 0, 0, 0]) for split in SPLITS] == [[0, 1, 2], [3, 4], [5]]
    assert sorted(map(str, images["validation"].sources)) == ["data/coast/3.jpg", "data/coast/4.jpg"]
    # The centred square leaves out 16 of 160 at the left; 128 becomes 64.
    assert images["train"].holes.tolist() == [[10, 20, 15, 25]] * 3
    assert images["train"].windows.tolist() == [[5, 18]] * 3
    assert keys(read(root)["test"]) == ["coast/5.jpg"]


@pytest.mark.parametrize("all_called", [None, "image.png"])
def test_images_without_names_are_known_by_their_content(tmp_path: Path, all_called: str | None) -> None:
    """Wherever they stand in the table: adding some moves none."""
    dataset = table(100)
    if all_called:
        dataset = dataset.add_column("source", [all_called] * len(dataset))
    splits = read(write_shards(dataset, tmp_path / "shards", part=range(100)))
    for split, entries in splits.items():
        for entry in entries:
            assert entry.key == hashlib.blake2b(entry.read(), digest_size=16).hexdigest()
            assert split_of(key_hash(entry.key)) == split
    later = read(write_shards(dataset, tmp_path / "later", part=range(99, 20, -1)))
    assert all(set(keys(later[split])) <= set(keys(splits[split])) for split in SPLITS)
    images = opened(tmp_path / "shards", tmp_path / "cache")
    assert {split: set(map(str, its.sources)) for split, its in images.items()} == {
        split: set(keys(entries)) for split, entries in splits.items()
    }


def test_a_dataset_on_the_hub(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "arrow"))
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "arrow")
    table(100).rename_column("image", "jpg").push_to_hub("alice/lakes", token=hub.token, split="everything")
    images = opened("alice/lakes", tmp_path / "cache")
    assert sum(len(split.pixels) for split in images.values()) == 100
    with pytest.raises(InpaintError, match="alice/no-lakes is no file or folder here, and the Hub does not give it: "):
        opened("alice/no-lakes", tmp_path / "cache")


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    dataset = table(100)
    dataset.save_to_disk(tmp_path / "one")
    assert sum(map(len, read(tmp_path / "one").values())) == 100
    splits = {"train": dataset.select(range(5)), "test": dataset.select(range(5, 8)), "valid": dataset.select([8])}
    DatasetDict(splits).save_to_disk(tmp_path / "several")
    images = opened(tmp_path / "several", tmp_path / "cache")
    assert [sorted(images[split].pixels[:, 0, 0, 0]) for split in SPLITS] == [[0, 1, 2, 3, 4], [8], [5, 6, 7]]
    with pytest.raises(InpaintError, match=r"data\.streaming reads parquet shards, .* so does `to_parquet` of what"):
        find_shards(str(tmp_path / "several"))
    (arrow,) = (tmp_path / "one").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:50])
    with pytest.raises(InpaintError, match="one was written by save_to_disk and cannot be read: ") as caught:
        read(tmp_path / "one")
    assert "\n" not in str(caught.value)


def test_a_dataset_that_is_nowhere_is_told_at_once(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` would ask for half a minute; here it is not even asked."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "arrow")
    monkeypatch.setattr("datasets.load_dataset_builder", lambda *_, **__: pytest.fail("asked again and again"))
    with pytest.raises(InpaintError, match="there is none of this name, or your token may not see it"):
        open_source("alice/no-lakes")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(UsageError, match="data/lakes does not exist, though the folder data does"):
        open_source("data/lakes")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9")
    with pytest.raises(InpaintError, match="it cannot be reached"):
        open_source("alice/no-lakes")


# --- What is refused ------------------------------------------------------------------------------------------------


def test_each_wrong_source_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.heic").write_text("")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "train-00000-of-00001.parquet").write_bytes(b"PAR1 and no more")
    numbers = tmp_path / "numbers"
    numbers.mkdir()
    Dataset.from_dict({"x": [1, 2]}).to_parquet(numbers / "train.parquet")
    cases = {
        tmp_path / "gone": "does not exist; give a folder of images",
        paint(tmp_path / "one.png"): "is a file, but no tar or zip; give a folder of images",
        tmp_path / "empty": "no images found in .*: it is empty",
        tmp_path / "text": r"no images found in .*1 \.heic",
        broken: "train-00000-of-00001.parquet cannot be read",
        numbers: "no column of images; its columns are x",
        folder_of(tmp_path / "few", ["a.png"]): "split of .*few is empty",
    }
    for path, message in cases.items():
        with pytest.raises(InpaintError, match=message) as caught:
            opened(path, tmp_path / "cache")
        assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_bad_images_are_left_out_and_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder_of(tmp_path / "photos", many())
    (root / "lake" / "broken.jpg").write_bytes(b"<html>404")
    (root / "lake" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (root / "lake" / "cut.png").write_bytes(paint(tmp_path / "whole.png").read_bytes()[:60])
    paint(root / "lake" / "tiny.png", size=(20, 3))
    bad = {"broken.jpg": "unreadable", "gone.jpg": "unreadable", "cut.png": "truncated", "tiny.png": "too small"}
    with pytest.raises(InpaintError, match=r"cannot be used, more than data\.max_bad_fraction = 0\.01 allows"):
        opened(root, tmp_path / "cache", bad=0.01)
    for attempt in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            images = opened(root, tmp_path / "cache", bad=0.05)
        assert names_in(images) == set(many())
        for name, why in bad.items():
            assert (f"lake/{name}: {why}: " in caplog.text) == (attempt == 0)
    listed = next((tmp_path / "cache").glob("*/bad.txt")).read_text().splitlines()
    assert sorted(line.split(": ")[:2] for line in listed) == sorted([f"lake/{n}", why] for n, why in bad.items())
    with pytest.raises(InpaintError, match=f"4 of the {len(many()) + 4} images"):
        opened(root, tmp_path / "cache", bad=0.01)
