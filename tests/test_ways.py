"""The same images from any source: the same keys, splits, holes and pixels, image by image."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from hub_server import LoopbackHub
from preparing import landscape, options

from inpaint.data.decoded import DecodedSplit, SyntheticSpec, open_images
from inpaint.data.draws import stored_holes
from inpaint.data.stream import Stream, find_shards
from inpaint.holes.spec import HoleSpec
from inpaint.prepare.run import prepare
from inpaint.sources.keys import SPLITS, Split, key_hash, split_for, split_of
from inpaint.sources.opening import open_source
from inpaint.sources.places365 import official_names

SIZE = 32
CLASSES = {
    "beach": "b/beach",
    "field-wild": "f/field/wild",
    "field-cultivated": "f/field/cultivated",
    "swamp": "s/swamp",
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files by key: the names repeat over the classes, the JPEGs are large enough to be reduced while decoding."""
    folder, files = tmp_path_factory.mktemp("originals"), {}
    for number, label in enumerate(CLASSES):
        for index in range(16):
            path = folder / label / ("plage été 海.png" if index == 0 else f"{index:08d}.jpg")
            path.parent.mkdir(exist_ok=True)
            landscape(100 * number + index, 300 + 40 * (index % 5), 280).save(path)
            files[f"{label}/{path.name}"] = path
    assert {split_of(key_hash(key)) for key in files} == set(SPLITS)
    return files


def tree(files: dict[str, Path], root: Path, place: Callable[[str, str, Split], str]) -> Path:
    """The files where `place` (of class, name, split) puts them."""
    for key, file in files.items():
        label, name = key.split("/")
        path = root / place(label, name, split_of(key_hash(key)))
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, path)
    return root


def class_folders(files: dict[str, Path], root: Path) -> Path:
    return tree(files, root, lambda label, name, _: f"{label}/{name}")


def nested(files: dict[str, Path], root: Path) -> Path:
    return tree(files, root, lambda label, name, _: f"{label.replace('-', '/')}/{name}")


def official(files: dict[str, Path], root: Path) -> Path:
    shutil.copy(next(iter(files.values())), tree(files, root / "val_256", lambda *_: "Places365_val_00000001.png"))
    return tree(files, root, lambda label, name, _: f"data_256/{CLASSES[label]}/{name}")


def split_folders(files: dict[str, Path], root: Path) -> Path:
    names = {"train": "train", "validation": "dev", "test": "test"}
    return tree(files, root, lambda label, name, split: f"{names[split]}/{label}/{name}")


def tar(files: dict[str, Path], root: Path, kind: str = "w") -> Path:
    root.mkdir()
    with tarfile.open(root / "photos.tar", kind) as archive:
        for key, file in sorted(files.items(), reverse=True):
            archive.add(file, f"photos/{key}")
    return root / "photos.tar"


def compressed_tar(files: dict[str, Path], root: Path) -> Path:
    return tar(files, root, "w:gz")


def zipped(files: dict[str, Path], root: Path) -> Path:
    root.mkdir()
    with zipfile.ZipFile(root / "photos.zip", "w") as archive:
        for number, (key, file) in enumerate(sorted(files.items(), reverse=True)):
            archive.write(file, key, zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED)
    return root / "photos.zip"


def table(
    files: dict[str, Path], image: str = "image", label: str = "label", names: list[str] | None = None
) -> Dataset:
    cells = [{"bytes": file.read_bytes(), "path": file.name} for file in files.values()]
    names = names or sorted(CLASSES)
    numbers = [names.index(key.split("/")[0]) if names[0] in CLASSES else _number(key, names) for key in files]
    features = {image: ImageFeature(), label: ClassLabel(names=names)}
    return Dataset.from_dict({image: cells, label: numbers}, features=Features(features))


def _number(key: str, names: list[str]) -> int:
    return names.index(f"/{CLASSES[key.split('/')[0]]}")


def parquet(files: dict[str, Path], root: Path) -> Path:
    root.mkdir()
    sources = [f"somewhere/{key}" for key in files]
    table(files).add_column("source", sources).to_parquet(root / "all.parquet", batch_size=10)
    return root


def other_columns(files: dict[str, Path], root: Path) -> Path:
    """The images' own paths are file names alone, which repeat; official names as in Places365's own list."""
    root.mkdir()
    dataset = table(files, "picture", "scene", list(official_names())).add_column("note", ["x"] * len(files))
    dataset.cast_column("note", Value("string")).to_parquet(root / "0.parquet")
    return root


WAYS = [
    *(class_folders, nested, official, split_folders, tar, compressed_tar, zipped),
    *(parquet, other_columns),
]


def opened(path: str | Path, cache: Path, bad: float = 0.0) -> dict[Split, DecodedSplit]:
    return open_images(
        str(path),
        HoleSpec.scaled(SIZE),
        cache_dir=cache,
        max_bad_fraction=bad,
        synthetic=SyntheticSpec(1, 1, 1, 0),
        show_progress=False,
    )


def keys_of(path: str | Path) -> dict[str, Split]:
    source = open_source(str(path))
    own_splits = source.survey().own_splits
    return {entry.key: split_for(entry.key_hash, entry.split, own_splits) for entry in source.entries()}


def assert_same(images: dict[Split, DecodedSplit], expected: dict[Split, DecodedSplit]) -> None:
    for split in SPLITS:
        names = [[str(source).rsplit("/", 1)[-1] for source in its[split].sources] for its in (images, expected)]
        assert names[0] == names[1]
        for name in ("pixels", "holes", "windows"):
            np.testing.assert_array_equal(getattr(images[split], name), getattr(expected[split], name), name)


@pytest.fixture(scope="module")
def expected(originals: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[Split, DecodedSplit]:
    """What class folders give; each image's hole is what its key says."""
    folder = tmp_path_factory.mktemp("expected")
    images = opened(class_folders(originals, folder / "photos"), folder / "cache")
    for split, its in images.items():
        assert {split_of(key_hash(str(source))) for source in its.sources} == {split}
        hashes = np.array([key_hash(str(source)) for source in its.sources], np.uint64)
        np.testing.assert_array_equal(its.holes, stored_holes(hashes, HoleSpec.scaled(SIZE))[0])
    return images


@pytest.mark.parametrize("way", WAYS)
def test_trained_on_or_prepared_they_are_the_same(
    way: Callable[[dict[str, Path], Path], Path],
    originals: dict[str, Path],
    expected: dict[Split, DecodedSplit],
    tmp_path: Path,
) -> None:
    path = way(originals, tmp_path / "source")
    assert keys_of(path) == {key: split_of(key_hash(key)) for key in originals}
    assert_same(opened(path, tmp_path / "cache"), expected)
    out = tmp_path / "out"
    plan = prepare(options(path, out, size=SIZE, classes="all"))
    assert plan is not None and plan.counts()["kept"] == len(originals)
    assert set(plan.kept_labels) == set(CLASSES)
    assert keys_of(out) == keys_of(path)
    assert_same(opened(out, tmp_path / "cache"), expected)
    assert_streamed(str(out), expected)


def assert_streamed(path: str, expected: dict[Split, DecodedSplit]) -> None:
    stream = Stream(find_shards(path), HoleSpec.scaled(SIZE), 1, 10_000, 0.0)
    order = np.arange(len(stream))
    for one, other in zip(stream.take(order), expected["train"].take(order), strict=True):
        np.testing.assert_array_equal(one, other)


def test_on_the_hub_they_are_the_same(
    datasets_hub: LoopbackHub, originals: dict[str, Path], expected: dict[Split, DecodedSplit], tmp_path: Path
) -> None:
    """As originals under other names, as class folders, and prepared and streamed."""
    from huggingface_hub import HfApi

    api = HfApi(datasets_hub.endpoint, datasets_hub.token)
    table(originals, "picture", "scene").push_to_hub("alice/originals", token=datasets_hub.token)
    for name, folder in (("folders", class_folders(originals, tmp_path / "folders")), ("prepared", tmp_path / "out")):
        if name == "prepared":
            prepare(options(tmp_path / "folders", folder, size=SIZE))
        api.create_repo(f"alice/{name}", repo_type="dataset")
        api.upload_folder(repo_id=f"alice/{name}", folder_path=folder, repo_type="dataset", ignore_patterns=".prepare*")
    for name in ("originals", "folders", "prepared"):
        assert keys_of(f"alice/{name}") == {key: split_of(key_hash(key)) for key in originals}
        assert_same(opened(f"alice/{name}", tmp_path / f"cache-{name}"), expected)
    assert_streamed("alice/prepared", expected)
    again = prepare(options("alice/originals", tmp_path / "again", size=SIZE))
    assert again is not None
    assert_same(opened(tmp_path / "again", tmp_path / "cache-again"), expected)
