"""`inpaint prepare`: the same bytes from a folder and its tar, by any number of workers."""

from __future__ import annotations

import csv
import hashlib
import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
from darknet import write_darknet
from datasets import load_dataset
from preparing import COUNTS, contents, landscape, options

from inpaint.data.draws import stored_holes
from inpaint.errors import UsageError
from inpaint.holes.spec import HoleSpec
from inpaint.prepare import chunks
from inpaint.prepare.check import faults
from inpaint.prepare.people import PeopleFilter
from inpaint.prepare.plan import _columns
from inpaint.prepare.run import WORK_FOLDER, prepare
from inpaint.sources import places365
from inpaint.sources.keys import SPLITS, class_of, key_hash, split_for, split_of
from inpaint.sources.opening import open_source


def test_the_fifty_classes_are_official() -> None:
    assert len(places365.official_names()) == len(set(places365.official_names())) == 365
    assert len(set(places365.natural_names())) == 50
    assert set(places365.natural_names()) <= set(places365.official_names())
    assert len({places365.official_class(name) for name in places365.official_names()}) == 365


@pytest.mark.parametrize("folders", [("f", "field", "wild"), ("field", "wild"), ("field-wild",), ("field_wild",)])
def test_nested_and_flat_trees_have_the_same_classes(folders: tuple[str, ...]) -> None:
    assert class_of(folders) == places365.official_class("/f/field/wild") == "field-wild"


@pytest.mark.parametrize("kind", ["w", "w:gz"])
@pytest.mark.parametrize("prefix", ["", "places365_standard/"])
def test_a_tar_gives_the_bytes_of_its_folder(
    places: Path, dataset: Path, tmp_path: Path, kind: str, prefix: str
) -> None:
    tar_path = tmp_path / "places.tar"
    with tarfile.open(tar_path, kind) as tar:
        files = [path for path in places.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: hashlib.md5(path.name.encode()).digest()):  # in no useful order
            tar.add(path, f"{prefix}{path.relative_to(places)}")
        for name in ("/etc/evil.jpg", "train/beach/../../../evil.jpg"):
            tar.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo(f"{prefix}train/beach/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    source = open_source(str(tar_path))
    assert source.survey().passed_over["unsafe path"] == 2
    prepare(options(tar_path, tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(dataset)


def test_the_dataset_is_what_it_says(places: Path, dataset: Path) -> None:
    loaded, streamed = load_dataset(str(dataset)), load_dataset(str(dataset), streaming=True)
    assert list(loaded) == list(SPLITS)
    assert sum(map(len, loaded.values())) == COUNTS["kept"]
    with (dataset / "holes.csv").open(encoding="utf-8") as file:
        table = {row["source"]: row for row in csv.DictReader(file)}
    assert len(table) == COUNTS["kept"] and "train/beach/plage_été_海.jpg" in table
    spec = HoleSpec.scaled(64)
    for split, rows in loaded.items():
        assert [row["source"] for row in streamed[split]] == rows["source"][:]
        for row in rows:
            key = "/".join(row["source"].split("/")[-2:])
            hole, crop = stored_holes(np.array([key_hash(key)], np.uint64), spec)
            own = "validation" if row["source"].startswith("val/") else "train"
            assert split_for(key_hash(key), own, {"train", "validation"}) == split
            assert (row["hole"], row["crop"]) == (hole[0].tolist(), crop[0].tolist())
            assert [int(value) for value in list(table[row["source"]].values())[1:]] == row["hole"] + row["crop"]
            assert rows.features["label"].int2str(row["label"]) == row["source"].split("/")[1]
            assert (row["image"].mode, row["image"].size, row["person_score"]) == ("RGB", (64, 64), None)
    assert sorted(loaded["train"].features["label"].names) == ["beach", "field-wild", "mountain"]
    assert "Places365-Standard" in (dataset / "README.md").read_text()
    assert faults(str(dataset), show_progress=False) == []


def test_what_is_left_out_is_listed_with_its_reason(dataset: Path) -> None:
    with (dataset / "dropped.csv").open(encoding="utf-8") as file:
        dropped = {Path(row["source"]).name: row["reason"] for row in csv.DictReader(file)}
    copy = {name: reason for name, reason in dropped.items() if reason == "duplicate"}
    assert set(copy) < {"cmyk.jpg", "zz_copy.jpg"}
    assert dropped == {
        "cut.jpg": "corrupt",
        "empty.jpg": "corrupt",
        "bomb.png": "too large",
        "small.jpg": "too small",
        "grey.jpg": "grey",
        **copy,
    }


def test_grey_images_are_kept_where_that_is_asked_for(places: Path, tmp_path: Path) -> None:
    plan = prepare(replace(options(places, tmp_path / "out"), grey_steps=0.0))
    assert plan is not None and plan.counts()["grey"] == 0 and plan.counts()["kept"] == COUNTS["kept"] + COUNTS["grey"]
    with pytest.raises(UsageError, match=r"--grey-steps is -1.0; it must be from 0"):
        prepare(replace(options(places, tmp_path / "other"), grey_steps=-1.0))


def test_workers_and_chunks_do_not_change_a_byte(places: Path, dataset: Path, tmp_path: Path) -> None:
    prepare(replace(options(places, tmp_path / "out"), workers=2, chunk_images=20))
    assert contents(tmp_path / "out") == contents(dataset)


def test_the_plan_keeps_little_of_an_image_in_memory(dataset: Path) -> None:
    num, found = 0, []
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for file in (dataset / WORK_FOLDER / "chunks").glob("*.arrow"):
            with chunks.open_chunk(file) as table:
                found.append(_columns(table, 0.3, []))
                num += len(table)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    overhead = sum(200 * len(columns) for columns in found)  # of arrays, which chunks of the usual size do not notice
    assert num == sum(COUNTS.values()) and after - before < 200 * num + overhead


def test_another_threshold_needs_no_new_detection(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = replace(write_darknet(tmp_path), threshold=0.94)
    strict = prepare(replace(options(places, tmp_path / "out"), people=people))
    monkeypatch.setattr(chunks, "_detector", lambda people: pytest.fail("detected again"))
    loose = prepare(replace(options(places, tmp_path / "out"), people=replace(people, threshold=0.955)))
    assert strict is not None and loose is not None
    assert strict.counts()["person"] > loose.counts()["person"]
    assert strict.counts()["kept"] < loose.counts()["kept"]
    scores = load_dataset(str(tmp_path / "out"), split="train")["person_score"][:]
    assert all(score < 0.955 for score in scores) and any(score >= 0.94 for score in scores)


def test_no_test_image_stands_in_train_not_even_saved_again(tmp_path: Path) -> None:
    source = tmp_path / "source" / "hills"
    source.mkdir(parents=True)
    for index in range(300):
        landscape(index % 100).save(source / f"{index}.jpg", quality=95 - index // 100)
    prepare(options(source.parent, tmp_path / "out"))
    first = {scene: min(range(scene, 300, 100), key=lambda i: key_hash(f"hills/{i}.jpg")) for scene in range(100)}
    loaded = load_dataset(str(tmp_path / "out"))
    kept = {Path(name).stem: split for split, rows in loaded.items() for name in rows["source"][:]}
    assert kept == {str(index): split_of(key_hash(f"hills/{index}.jpg")) for index in first.values()}
    with (tmp_path / "out" / "dropped.csv").open(encoding="utf-8") as file:
        partners = {Path(row["source"]).stem: Path(row["copy_of"]).stem for row in csv.DictReader(file)}
    assert partners == {str(i): str(first[i % 100]) for i in range(300) if i != first[i % 100]}


def test_the_card_names_no_place_on_this_machine_and_what_to_cite(places: Path, dataset: Path, tmp_path: Path) -> None:
    from huggingface_hub import DatasetCard

    people = PeopleFilter("darknet", **{name: getattr(write_darknet(tmp_path), name) for name in ("cfg", "weights")})
    prepare(replace(options(places, tmp_path / "out"), people=replace(people, threshold=0.99)))
    for folder in (dataset, tmp_path / "out"):
        text = (folder / "README.md").read_text(encoding="utf-8")
        assert str(tmp_path) not in text and str(places) not in text
        data = DatasetCard(text).data
        assert data.license_link == "http://places2.csail.mit.edu/download.html"
        assert "@techreport{kovacs2020landscape" in text and "@article{zhou2018places" in text
    assert "tiny.weights" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert PeopleFilter("transformers", model=str(tmp_path)).describe().startswith(f"transformers `{tmp_path.name}`")
    rows = pandas.read_parquet(dataset / "data")
    assert len(rows) == COUNTS["kept"] and rows["image"][0]["bytes"].startswith(b"\x89PNG")
