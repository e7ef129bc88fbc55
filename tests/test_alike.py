"""Images that are alike: found whatever was done to them, told from other scenes, and never in two splits."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from preparing import options

from inpaint.data.synthetic.landscapes import render
from inpaint.images.pixels import open_image, square
from inpaint.prepare import alike, dedupe
from inpaint.prepare.alike import find_pairs, first_of_group
from inpaint.prepare.run import prepare
from inpaint.sources.keys import key_hash, split_of

NUM_SCENES = 40


def saved(image: Image.Image, quality: int = 90) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "jpeg", quality=quality)
    return open_image(data.getvalue())


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """Without these shares of its sides."""
    width, height = image.size
    edges = left * width, top * height, (1 - right) * width, (1 - bottom) * height
    return image.crop(tuple(map(round, edges)))  # type: ignore[arg-type]


KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved again": lambda image: saved(image, 60),
    "resized": lambda image: image.resize((96, 96), Image.Resampling.LANCZOS),
    "cropped by 2%": lambda image: cropped(image, 0.01, 0.01, 0.01, 0.01),
    "cropped by 5%": lambda image: cropped(image, 0.025, 0.025, 0.025, 0.025),
    "cropped by 10%": lambda image: cropped(image, 0.05, 0.05, 0.05, 0.05),
    "left cut by 5%": lambda image: cropped(image, 0.05, 0, 0, 0),
    "right cut by 10%": lambda image: cropped(image, 0, 0, 0.1, 0),
    "bottom cut by 5%": lambda image: cropped(image, 0, 0, 0, 0.05),
    "mirrored": ImageOps.mirror,
    "mirrored and cropped": lambda image: ImageOps.mirror(cropped(image, 0.025, 0.025, 0.025, 0.025)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "white border": lambda image: ImageOps.expand(image, 7, "white"),
}


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    return [Image.fromarray(pixels) for pixels in render(0, np.arange(NUM_SCENES), 128)]


def likenesses(squares: list[np.ndarray]) -> dict[tuple[int, int], dedupe.Likeness]:
    """What is found among some squares."""
    looks = np.stack([dedupe.looks(picture) for picture in squares])
    pairs = find_pairs(looks[:, 0].copy(), [(np.arange(len(looks)), looks)])
    told = alike.compare_pairs(pairs, lambda wanted: [squares[index] for index in wanted], 1, False)
    return dict(zip(zip(pairs["one"].tolist(), pairs["other"].tolist(), strict=True), told, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_done_to_an_image_does_not_hide_it_and_other_scenes_are_not_taken_for_it(
    kind: str, scenes: list[Image.Image]
) -> None:
    changed = [saved(KINDS[kind](scene)) for scene in scenes]
    squares = [square(image, 64) for image in [*scenes, *changed]]
    found = {tuple(sorted(pair)): told for pair, told in likenesses(squares).items() if told.is_alike}
    right = {pair for pair in found if pair[1] - pair[0] == NUM_SCENES}
    assert len(right) >= 0.8 * NUM_SCENES
    assert set(found) == right
    num_copies = sum(told.is_copy for told in found.values())
    if kind in ("saved again", "resized"):
        assert num_copies >= 0.9 * NUM_SCENES
    elif kind != "cropped by 2%":
        assert num_copies <= 1


def test_images_of_one_colour_are_like_nothing() -> None:
    squares = [np.full((64, 64, 3), grey, np.uint8) for grey in (0, 90, 90, 255)]
    assert likenesses(squares) == {}


@pytest.fixture
def crowd(scenes: list[Image.Image]) -> np.ndarray:
    """The looks of all scenes, changed and not, in no order."""
    images = [square(change(scene), 64) for scene in scenes[:20] for change in (lambda image: image, *KINDS.values())]
    order = np.random.default_rng(0).permutation(len(images))
    return np.stack([dedupe.looks(images[index]) for index in order])


def test_lists_find_nearly_what_comparing_all_with_all_finds(
    crowd: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pairs() -> set[tuple[int, int]]:
        found = find_pairs(crowd[:, 0].copy(), [(np.arange(len(crowd)), crowd)])
        return set(zip(found["one"].tolist(), found["other"].tolist(), strict=True))

    whole = pairs()
    monkeypatch.setattr(alike, "LIST_IMAGES", 10)
    assert len(pairs() & whole) >= 0.95 * len(whole)


def test_how_the_images_come_does_not_change_what_is_found(crowd: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alike, "LIST_IMAGES", 30)
    at_once = find_pairs(crowd[:, 0].copy(), [(np.arange(len(crowd)), crowd)])
    parts = np.array_split(np.random.default_rng(1).permutation(len(crowd)), 7)
    monkeypatch.setattr(alike, "_BLOCK", 50)
    in_parts = find_pairs(crowd[:, 0].copy(), [(part, crowd[part]) for part in parts])
    assert np.array_equal(at_once, in_parts)
    per_picture = np.bincount(at_once["one"], minlength=len(crowd))
    assert per_picture.max() <= alike.NUM_NEAREST and (at_once["one"] != at_once["other"]).all()


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=60))
@settings(deadline=None)
def test_groups_are_the_connected_parts(num: int, edges: list[tuple[int, int]]) -> None:
    edges = [(one % num, other % num) for one, other in edges]
    pairs = np.array(edges, np.int64).reshape(-1, 2)
    first = first_of_group(num, pairs[:, 0], pairs[:, 1]).tolist()
    group = {index: {index} for index in range(num)}
    for one, other in edges:
        joined = group[one] | group[other]
        for index in joined:
            group[index] = joined
    assert first == [min(group[index]) for index in range(num)]


def test_no_group_straddles_splits_and_the_tables_name_the_partners(scenes: list[Image.Image], tmp_path: Path) -> None:
    num = 16
    source, out = tmp_path / "source" / "hills", tmp_path / "out"
    source.mkdir(parents=True)
    for index, scene in enumerate(scenes[:num]):
        scene.save(source / f"{index}.png")
        for name, change in KINDS.items():
            change(scene).save(source / f"{index} {name}.jpg", quality=90)
    by_key = [{split_of(key_hash(f"hills/{path.name}")) for path in source.glob(f"{i} *")} for i in range(num)]
    assert sum(len(splits) > 1 for splits in by_key) > num / 2, "nothing would have to be moved"
    plan = prepare(options(source.parent, out))
    assert plan is not None
    with (out / "alike.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(plan.alike()) > num * 8
    split_of_source = {row["source"]: row["split"] for row in rows}
    scene_of = {name: name.removeprefix("hills/").split(" ")[0].removesuffix(".png") for name in split_of_source}
    for row in rows:
        assert scene_of[row["source"]] == scene_of[row["like"]]
        assert split_of_source[row["like"]] == row["split"] == split_of(key_hash(row["like"]))
    straddling = [
        scene
        for scene in set(scene_of.values())
        if len({split for name, split in split_of_source.items() if scene_of[name] == scene}) > 1
    ]
    assert len(straddling) <= 1
    with (out / "dropped.csv").open(encoding="utf-8") as file:
        copies = [row for row in csv.DictReader(file) if row["reason"] == "duplicate"]
    assert len(copies) >= 1.8 * num
    for row in copies:
        assert row["copy_of"] != row["source"]
        assert row["copy_of"].split(" ")[0].removesuffix(".png") == row["source"].split(" ")[0].removesuffix(".png")
        assert ("mirrored" in row["source"]) == ("mirrored" in row["copy_of"])
    again = prepare(replace(options(source.parent, tmp_path / "again"), chunk_images=100))
    assert again is not None and again.fingerprint == plan.fingerprint


def test_splits_of_the_source_stay_and_copies_across_them_do_not(
    scenes: list[Image.Image], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, scene in enumerate(scenes[:12]):
        for split, change in (("train", "mirrored"), ("test", "cropped by 10%"), ("val", "saved again")):
            folder = tmp_path / "source" / split / "hills"
            folder.mkdir(parents=True, exist_ok=True)
            KINDS[change](scene).save(folder / f"{split}{index}.png")
        scene.save(tmp_path / "source" / "train" / "hills" / f"copy{index}.png")
    plan = prepare(options(tmp_path / "source", tmp_path / "out"))
    assert plan is not None
    assert {split: len(pictures) for split, pictures in plan.order.items()} == {
        "train": 12,
        "validation": 12,
        "test": 12,
    }
    assert plan.num_straddling() >= 20
    with (tmp_path / "out" / "dropped.csv").open(encoding="utf-8") as file:
        dropped = {Path(row["source"]).stem: Path(row["copy_of"]).stem for row in csv.DictReader(file)}
    assert dropped == {f"copy{index}": f"val{index}" for index in range(12)}
    again = prepare(replace(options(tmp_path / "source", tmp_path / "again"), resplit=True))
    assert again is not None and again.num_straddling() == 0
