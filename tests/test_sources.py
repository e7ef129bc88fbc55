"""What is no image costs nothing, whatever it is; Places365 is recognised in its official trees; splits are kept."""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from coloured import opened
from datasets import ClassLabel, Dataset, DatasetDict, load_dataset
from datasets import Image as ImageFeature
from hub_server import LoopbackHub
from PIL import Image
from preparing import landscape, options
from running import tiny_config

import inpaint
from inpaint.cli import main
from inpaint.errors import InpaintError, UsageError
from inpaint.prepare.run import WORK_FOLDER, prepare
from inpaint.sources.keys import SPLITS, key_hash, split_of
from inpaint.sources.opening import open_source
from inpaint.sources.source import MAX_FILE_BYTES


def paint(root: Path, names: list[str]) -> Path:
    """Landscapes of these names, no two alike."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        landscape(number).save(path, "PNG" if name.endswith("png") else "JPEG")
    return root


def many(label: str = "lake", num: int = 60, start: int = 0) -> list[str]:
    return [f"{label}/{index:04d}.jpg" for index in range(start, start + num)]


ODD_NAMES = [
    "$HOME.jpg",
    "~.jpg",
    "~root/${PATH}.jpg",
    "lake/a::b.jpg",
    "lake/%41.jpg",
    "lake/*.jpg",
    os.fsdecode(b"lake/\xff.jpg"),
]


def test_special_files_are_passed_over_and_counted_and_odd_names_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    root = paint(tmp_path / "photos", [*many(), *ODD_NAMES])
    os.mkfifo(root / "lake" / "pipe.jpg")
    (root / "lake" / "zero.jpg").symlink_to("/dev/zero")
    (root / "lake" / "itself.jpg").symlink_to("itself.jpg")
    (root / "itself").symlink_to("itself")
    with (root / "lake" / "giant.jpg").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    why = {
        "pipe": "not a regular file",
        "zero": "not a regular file",
        "itself": "Too many levels",
        "giant": "larger than 1 GiB",
    }
    with caplog.at_level(logging.WARNING):
        images = opened(root, tmp_path / "cache", bad=0.1)
    assert sum(map(len, images.values())) == len(many()) + len(ODD_NAMES)
    for name, reason in why.items():
        assert f"lake/{name}.jpg: unreadable: {reason}" in caplog.text
    plan = prepare(options(root, tmp_path / "out", size=32))
    assert plan is not None and plan.counts()["kept"] == len(many()) + len(ODD_NAMES)
    said = capsys.readouterr().out
    assert "passed over: 2 unreadable: not a regular file, such as 'lake/pipe.jpg'" in said
    assert {"$HOME.jpg", "~.jpg", "~root/${PATH}.jpg", "lake/\\xff.jpg"} <= {
        row["source"] for split in load_dataset(str(tmp_path / "out")).values() for row in split
    }


def test_a_file_that_becomes_a_device_between_listing_and_reading_is_no_trap(tmp_path: Path) -> None:
    root = paint(tmp_path / "photos", many(num=3))
    (entry, *_) = open_source(str(root)).entries()
    assert entry.file is not None
    entry.file.unlink()
    os.mkfifo(entry.file)
    with pytest.raises(Exception, match="unreadable: not a regular file"):
        entry.read()


# --- Places365 ------------------------------------------------------------------------------------------------------

OFFICIAL = ["f/field/wild", "f/field/cultivated", "b/beach", "k/kitchen"]


@pytest.mark.parametrize(
    ("tree", "strays"),
    [
        ("data_256/{lettered}", []),
        ("data_256/{lettered}", ["val_256/Places365_val_00000001.jpg", "data_256/README_pictures/1.jpg"]),
        ("data_large_standard/{lettered}", []),
        ("somewhere/data_256/{lettered}", []),
        ("{lettered}", []),
        ("train/{flat}", ["train/stray/1.jpg", "other/1.jpg"]),
        ("places365_standard/train/{flat}", ["places365_standard/train/stray/1.jpg"]),
        ("train/{underscored}", []),
    ],
)
def test_official_trees_keep_the_natural_classes_and_the_terms(
    tree: str, strays: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = []
    for label in OFFICIAL:
        flat = "-".join(label.split("/")[1:])
        folder = tree.format(lettered=label, flat=flat, underscored=flat.replace("-", "_"))
        names += [f"{folder}/{index}.jpg" for index in range(12)]
    root = paint(tmp_path / "source", [*names, *strays])
    plan = prepare(options(root, tmp_path / "out", size=32))
    assert plan is not None and plan.counts()["kept"] == 36
    assert set(plan.kept_labels) == {"field-wild", "field-cultivated", "beach"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license_name: places365" in card and "non-commercial research" in card
    said = capsys.readouterr().out
    assert "taken for Places365: 4 of its classes" in said
    assert "has the splits" not in said, "train alone is no split"
    for stray in strays:
        stays = stray.split("/")[-2] if "stray" in stray or "README" in stray else None
        assert stays is None or f"not its classes: {stays}" in said
    again = prepare(options(tmp_path / "out", tmp_path / "again", size=32))
    assert again is not None and again.counts()["kept"] == 36
    assert "license_name: places365" in (tmp_path / "again" / "README.md").read_text()


def test_what_is_not_places365_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = paint(tmp_path / "source", [*many("train/beach"), *many("train/harbour", 5), *many("train/my dog", 5, 100)])
    plan = prepare(options(root, tmp_path / "out", size=32))
    assert plan is not None and set(plan.kept_labels) == {"beach", "harbour", "my dog"}
    assert (
        "not taken for Places365, of whose names it has only beach: harbour, my dog are none" in capsys.readouterr().out
    )


# --- Splits ---------------------------------------------------------------------------------------------------------


def test_a_sources_own_splits_are_kept_unless_it_is_to_be_parted_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [*many("train/lake"), *many("dev/lake", 9, 100), *many("test/lake", 7, 200)]
    root = paint(tmp_path / "source", names)
    kept, anew = (prepare(options(root, tmp_path / name, size=32, resplit=name == "anew")) for name in ("kept", "anew"))
    assert kept is not None and anew is not None
    assert [len(kept.order[split]) for split in SPLITS] == [60, 9, 7]
    said = capsys.readouterr().out
    assert "has the splits test, train, validation: kept; --resplit splits anew" in said
    assert "has the splits test, train, validation: --resplit: split anew by the images' keys" in said
    by_key = Counter(split_of(key_hash(f"lake/{name.rsplit('/', 1)[1]}")) for name in names)
    assert {split: len(anew.order[split]) for split in SPLITS} == {split: by_key[split] for split in SPLITS}
    cards = [(tmp_path / name / "README.md").read_text() for name in ("kept", "anew")]
    assert "splits of the source are kept" in cards[0] and "splits of the source are kept" not in cards[1]
    assert "inpaint_key_rule: 2" in cards[0]


def test_images_that_are_alike_stay_where_the_source_has_them(tmp_path: Path) -> None:
    root = paint(tmp_path / "source", [*many("train/lake", 6), *many("val/lake", 3, 100)])
    (root / "test" / "lake").mkdir(parents=True)
    landscape(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "test" / "lake" / "mirrored.png")
    kept = prepare(options(root, tmp_path / "out", size=32))
    assert kept is not None and len(kept.alike()) == 2
    assert [len(kept.order[split]) for split in SPLITS] == [6, 3, 1]


def test_what_was_begun_under_an_older_rule_of_keys_is_not_gone_on_with(tmp_path: Path) -> None:
    root = paint(tmp_path / "source", many())
    prepare(options(root, tmp_path / "out", size=32))
    settings = tmp_path / "out" / WORK_FOLDER / "settings.json"
    settings.write_text(settings.read_text().replace(', "key_rule": 2', ""))
    with pytest.raises(UsageError, match=r"was begun under rule 1 of keys, and this version has rule 2.*another --out"):
        prepare(options(root, tmp_path / "out", size=32))


def test_a_run_begun_under_an_older_rule_of_keys_is_refused_where_that_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = paint(tmp_path / "photos", many(num=120))
    config = tiny_config(tmp_path, data={"image_size": 16, "path": str(root)}, evaluation={"num_pictures": 4})
    overrides = {"training.max_steps": 1, "training.global_batch_size": 8}
    with monkeypatch.context() as older:
        older.setattr("inpaint.training.state.KEY_RULE", 1)
        inpaint.train(str(config), tmp_path / "run", overrides)
    with pytest.raises(InpaintError, match=r"begun under rule 1 of keys.*another --run-dir.*--init-from"):
        inpaint.train(str(config), tmp_path / "run", overrides | {"training.max_steps": 2})


# --- Classes --------------------------------------------------------------------------------------------------------


def test_a_list_of_classes_names_them_as_they_are(tmp_path: Path) -> None:
    root = paint(
        tmp_path / "source",
        [*many("Sea Coast"), *many("Coast", 20, 100), *many("coast", 20, 200), *many("route 66", 9, 300)],
    )
    keys = {entry.key for entry in open_source(str(root)).entries()}
    (tmp_path / "list.txt").write_text("# mine\nSea Coast\ncoast\nroute 66\n/b/beach 48\n")
    plan = prepare(options(root, tmp_path / "out", size=32, classes=str(tmp_path / "list.txt")))
    assert plan is not None and plan.kept_labels == ("Sea Coast", "coast", "route 66")
    assert {entry.key for entry in open_source(str(tmp_path / "out")).entries()} == {
        key for key in keys if not key.startswith("Coast/")
    }


def test_nested_folders_alone_have_their_whole_names(tmp_path: Path) -> None:
    root = paint(
        tmp_path / "source", [*many("f/field/wild", 2), *many("f/field/cultivated", 2), *many("europe/lake", 2)]
    )
    assert {entry.label for entry in open_source(str(root)).entries()} == {
        "field-wild",
        "field-cultivated",
        "europe-lake",
    }


def rows(num: int = 40, **columns: list) -> Dataset:
    cells = {"image": [landscape(index) for index in range(num)], **columns}
    return Dataset.from_dict(cells).cast_column("image", ImageFeature())


def test_a_label_without_a_name_is_one_line_and_classes_without_images_go(tmp_path: Path) -> None:
    dataset = rows(label=[index % 2 for index in range(40)]).cast_column(
        "label", ClassLabel(names=["a", "b", "unused"])
    )
    (tmp_path / "good").mkdir()
    dataset.to_parquet(tmp_path / "good" / "0.parquet")
    plan = prepare(options(tmp_path / "good", tmp_path / "out", size=32))
    assert plan is not None and plan.kept_labels == ("a", "b")
    assert load_dataset(str(tmp_path / "out"))["train"].features["label"].names == ["a", "b"]
    (tmp_path / "bad").mkdir()
    features = dataset.features.copy()
    features["label"] = ClassLabel(names=["a"])
    table = dataset.with_format("arrow")[:].replace_schema_metadata(features.arrow_schema.metadata)
    import pyarrow.parquet as pq

    pq.write_table(table, tmp_path / "bad" / "0.parquet")
    for read in (
        lambda: opened(tmp_path / "bad", tmp_path / "cache"),
        lambda: prepare(options(tmp_path / "bad", tmp_path / "no")),
    ):
        with pytest.raises(InpaintError, match=r"column `label` of .* holds 1, but names 1 classes, 0 to 0; mend"):
            read()


# --- The Hub, archives, a first look --------------------------------------------------------------------------------


def test_configurations_revisions_and_unknown_splits(
    datasets_hub: LoopbackHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for config, num in (("small", 40), ("large", 60)):
        parts = DatasetDict(train=rows(num), dev=rows(5), extra=rows(3))
        parts.push_to_hub("alice/lakes", config, token=datasets_hub.token)
    first = datasets_hub.head("alice/lakes", "datasets").oid
    DatasetDict(train=rows(41), dev=rows(5)).push_to_hub("alice/lakes", "small", token=datasets_hub.token)
    with pytest.raises(InpaintError, match=r"alice/lakes has the configurations .*small.*; say which, as alice/lakes:"):
        open_source("alice/lakes")
    nums = {
        name: open_source(name).survey().num_pictures
        for name in ("alice/lakes:large", "alice/lakes:small", f"alice/lakes:small@{first}")
    }
    assert list(nums.values()) == [65, 46, 45]
    survey = open_source("alice/lakes:large").survey()
    assert survey.own_splits == {"train", "validation"}
    assert survey.lost() == ["passed over: 1 split that is none of train, validation and test, such as 'extra'"]
    with pytest.raises(InpaintError, match="no-such"):
        open_source("alice/lakes:no-such")


def test_archives_are_trained_on(tmp_path: Path) -> None:
    root = paint(tmp_path / "photos", many())
    with tarfile.open(tmp_path / "cut.tar", "w") as archive:
        archive.add(root, "photos")
    whole = (tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InpaintError, match=r"the tar .*cut.tar can't be read to its end .*is the download complete"):
        opened(tmp_path / "cut.tar", tmp_path / "cache")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("photos/notes.txt", "none")
    with pytest.raises(InpaintError, match=r"no images found in .*empty.zip.*1 \.txt"):
        opened(tmp_path / "empty.zip", tmp_path / "cache")


def test_a_limit_takes_so_many_evenly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = paint(tmp_path / "source", [*many("coast", 40), *many("lake", 40, 100)])
    plan = prepare(options(root, tmp_path / "out", size=32, limit=20))
    assert plan is not None and plan.counts()["kept"] == 20
    labels = Counter(plan.label.tolist())
    assert set(labels.values()) == {10}
    splits = {entry.key: entry.split for entry in open_source(str(tmp_path / "out")).entries()}
    assert all(split == split_of(key_hash(key)) for key, split in splits.items())
    assert "80 images, 20 to be prepared" in capsys.readouterr().out
    assert main(["prepare", "--source", str(root), "--out", str(tmp_path / "no"), "--limit", "0"]) == 2
    shutil.rmtree(tmp_path / "out")
