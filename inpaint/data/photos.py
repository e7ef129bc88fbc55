"""Owns opening a source of pictures, undecoded: an image folder, parquet shards or a Hub dataset, as keyed splits.

Everything is read by `datasets.load_dataset`; the files of a folder are listed and parted into splits by
`inpaint.data.folders`, given to it by name, and counted afterwards.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inpaint.data.folders import SPLIT_NAMES, Folder, digest, list_folder, split_pictures, split_shards
from inpaint.data.holes import SPLITS, Split, key_hash, split_of
from inpaint.errors import InpaintError

if TYPE_CHECKING:
    from datasets import Dataset

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

MANY = 50_000


@dataclass(frozen=True)
class Photos:
    """One split of a source, of N pictures in a fixed order.

    Attributes:
        dataset: column `image`: {"bytes", "path"}, not decoded; the other columns as the source has them.
        sources: where each picture was: its path in the source, or its index.
        keys: what splits and holes are drawn from: `<class>/<file name>`, or the index where there is no path.
        labels: each picture's class by name, or None.
        holes: [N, 4] and
        crops: [N, 2], in pixels of the stored picture, or None where the source has no such columns.
    """

    dataset: Dataset
    sources: Sequence[str]
    keys: Sequence[str]
    labels: Sequence[str] | None = None
    holes: NDArray[np.int32] | None = None
    crops: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.sources)

    def select(self, rows: NDArray[np.intp]) -> Photos:
        """The split of these rows."""
        return Photos(
            dataset=self.dataset.select(rows),
            sources=[self.sources[row] for row in rows],
            keys=[self.keys[row] for row in rows],
            labels=None if self.labels is None else [self.labels[row] for row in rows],
            holes=None if self.holes is None else self.holes[rows],
            crops=None if self.crops is None else self.crops[rows],
        )


@dataclass(frozen=True)
class Source:
    """A source that was found and listed, not yet read.

    Attributes:
        fingerprint: changes with the pictures, not with where they lie or when they were copied.
        read: reads the splits; takes the folder for the Arrow files that `datasets` writes (None: its own cache).
        read_bytes: about how much that is.
        unusable: pictures that cannot even be handed to `datasets`: (source, why).
    """

    fingerprint: str
    read: Callable[[Path | None], dict[Split, Photos]]
    read_bytes: int = 0
    unusable: Sequence[tuple[str, str]] = ()


def find(path: str, show_progress: bool = False) -> Source:
    """The source at `path`: a folder of pictures (however nested), a folder of parquet shards, or a Hub id.

    A picture's class is the folder it lies in. A split that is missing is taken out of `train` by the hash of each
    picture's key: a source without splits is parted 85/10/5, one that has `train` and `validation` gives up the 5 in
    100 of `train` that belong to `test`. Adding pictures moves none from one split to another.

    Raises:
        InpaintError: nothing there, no pictures in it, not a dataset, or the Hub does not give it.
    """
    root = Path(path).expanduser()
    if root.is_dir():
        folder = list_folder(root.absolute())
        if folder.is_parquet:
            num_bytes = sum(folder.sizes[name] for name in folder.shards)
            return Source(folder.fingerprint(), partial(_read_shards, folder, show_progress), num_bytes)
        return Source(folder.fingerprint(), partial(_read_pictures, folder, show_progress), unusable=folder.unusable)
    refuse_no_hub_id(path)
    loaded = load(path, f"data.path {path} is no folder here, and the Hub does not give it", None, show_progress)
    # For a dataset just loaded this is the hash of its name, configuration, commit and split.
    fingerprint = digest(f"{name} {dataset._fingerprint}" for name, dataset in sorted(loaded.items()))
    return Source(f"hub-{fingerprint}", lambda _: _from_tables(path, _known_splits(loaded)))


def refuse_no_hub_id(path: str) -> None:
    """Raises InpaintError if `path`, which is no folder, can be no Hub id either."""
    if Path(path).expanduser().exists():
        raise InpaintError(f"data.path must be a folder or a Hub id; {path} is a file: give the folder that holds it")
    if not HUB_ID.fullmatch(path):
        raise InpaintError(f"data.path: there is no folder {path}; give a folder of pictures or a Hub id (owner/name)")


def picture_key(source: str) -> str:
    """`<class>/<file name>` of a path with forward slashes; the file name alone where there is no folder."""
    return "/".join(source.rsplit("/", 2)[-2:])


def _read_pictures(folder: Folder, show_progress: bool, arrow_dir: Path | None) -> dict[Split, Photos]:
    splits, in_split_folders = split_pictures(folder)
    files = {split: [glob.escape(str(folder.root / name)) for name in names] for split, names in splits.items()}
    trouble = f"the pictures in {folder.root} cannot be read"
    bars = show_progress and len(folder.pictures) > MANY  # of datasets, which calls this reading a download
    loaded = load("imagefolder", trouble, arrow_dir, bars, data_files=files, drop_labels=True, drop_metadata=True)
    photos: dict[Split, Photos] = {}
    for split, names in splits.items():
        read = _paths(loaded[split], "image")
        if [path.rpartition("/")[2] for path in read] != [name.rpartition("/")[2] for name in names]:
            raise InpaintError(f"{trouble}: datasets read {len(read)} of the {len(names)} listed; were some removed?")
        inner = [name.partition("/")[2] for name in names] if in_split_folders else names
        classes = [name.rpartition("/")[0].rpartition("/")[2] for name in inner]
        photos[split] = Photos(
            dataset=_undecoded(loaded[split], "image"),
            sources=names,
            keys=[picture_key(name) for name in inner],
            labels=classes if all(classes) else None,
        )
    return _carve(photos)


def _read_shards(folder: Folder, show_progress: bool, arrow_dir: Path | None) -> dict[Split, Photos]:
    files = {
        split: [glob.escape(str(folder.root / name)) for name in names] for split, names in split_shards(folder).items()
    }
    trouble = f"the parquet shards in {folder.root} cannot be read"
    loaded = load("parquet", trouble, arrow_dir, show_progress, data_files=files)
    return _from_tables(str(folder.root), {split: loaded[split] for split in files})


def _known_splits(loaded: Mapping[str, Dataset]) -> dict[Split, Dataset]:
    """A Hub dataset's splits by our names; a single one is all of it, whatever its name."""
    if len(loaded) == 1:
        return {"train": next(iter(loaded.values()))}
    return {SPLIT_NAMES[split.lower()]: dataset for split, dataset in loaded.items() if split.lower() in SPLIT_NAMES}


def _from_tables(name: str, loaded: Mapping[Split, Dataset]) -> dict[Split, Photos]:
    if "train" not in loaded:
        raise InpaintError(f"{name} has no split `train`, only {', '.join(loaded) or 'others with names of their own'}")
    return _carve({split: from_table(name, dataset) for split, dataset in loaded.items()})


def from_table(name: str, dataset: Dataset, first: int = 0) -> Photos:
    """The rows of a dataset `name`, or some of them from row `first` on, with what their columns say of them."""
    column = image_column(name, dataset)
    labels = _labels(dataset)
    sources, keys = _names(dataset, column, labels, first)
    has_coordinates = {"hole", "crop"} <= set(dataset.column_names)
    return Photos(
        dataset=_undecoded(dataset, column),
        sources=sources,
        keys=keys,
        labels=labels,
        holes=_coordinates(name, dataset, "hole", 4) if has_coordinates else None,
        crops=_coordinates(name, dataset, "crop", 2) if has_coordinates else None,
    )


def image_column(name: str, dataset: Dataset) -> str:
    """The column of pictures: `image`, or the first that can be one."""
    from datasets import Image, Value

    def holds_pictures(feature: Any) -> bool:
        plain = feature in (Value("binary"), Value("large_binary"))
        return isinstance(feature, Image) or plain or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})

    columns = [column for column, feature in dataset.features.items() if holds_pictures(feature)]
    if not columns:
        raise InpaintError(f"{name} has no column of pictures; its columns are {', '.join(dataset.column_names)}")
    return "image" if "image" in columns else columns[0]


def _labels(dataset: Dataset) -> list[str] | None:
    from datasets import ClassLabel

    feature = dataset.features.get("label")
    if not isinstance(feature, ClassLabel):
        return None
    return ["" if label is None or label < 0 else feature.names[label] for label in dataset["label"][:]]


def _names(dataset: Dataset, column: str, labels: Sequence[str] | None, first: int) -> tuple[list[str], list[str]]:
    """Sources and keys: from `source`, else from the pictures' own paths where these tell them apart, else indices."""
    if "source" in dataset.column_names and all(sources := list(dataset["source"][:])):
        return sources, [picture_key(source) for source in sources]
    paths = _paths(dataset, column)
    if all(paths):
        keys = [picture_key(path) for path in paths]
        if labels is not None:  # stored pictures often keep their file name alone
            keys = [key if "/" in key else f"{label}/{key}" for key, label in zip(keys, labels, strict=True)]
        if len(set(keys)) == len(keys):
            return paths, keys
    indices = [str(first + index) for index in range(len(dataset))]
    return indices, indices


def _coordinates(name: str, dataset: Dataset, column: str, width: int) -> NDArray[np.int32]:
    try:
        return np.array(dataset[column][:], dtype=np.int32).reshape(len(dataset), width)
    except (TypeError, ValueError) as error:
        raise InpaintError(f"column `{column}` of {name} must hold {width} whole numbers a row") from error


def _carve(photos: Mapping[Split, Photos]) -> dict[Split, Photos]:
    """All splits: the missing ones are taken out of `train` by the hash of each picture's key."""
    missing = set(SPLITS) - set(photos)
    if not missing:
        return dict(photos)
    train = photos["train"]
    rows: dict[Split, list[int]] = {split: [] for split in ("train", *missing)}
    for row, key in enumerate(train.keys):
        split = split_of(key_hash(key))
        rows[split if split in missing else "train"].append(row)
    carved = {split: train.select(np.array(its, dtype=np.intp)) for split, its in rows.items()}
    return {**photos, **carved}


def load(
    name: str, trouble: str, arrow_dir: Path | None, show_progress: bool = False, **options: Any
) -> dict[str, Dataset]:
    """`datasets.load_dataset`, its bars shown or not, its errors in one line that begins with `trouble`."""
    import datasets

    with in_one_line(trouble), _progress_bars(show_progress):
        return dict(datasets.load_dataset(name, cache_dir=None if arrow_dir is None else str(arrow_dir), **options))


@contextmanager
def in_one_line(trouble: str) -> Iterator[None]:
    """What reading a dataset raises, as an InpaintError that begins with `trouble`."""
    import pyarrow
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (DatasetsError, OSError, ValueError, pyarrow.ArrowException) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # `datasets` wraps it in "An error occurred while generating the dataset"
            cause = cause.__cause__
        raise InpaintError(f"{trouble}: {(str(cause).strip() or type(cause).__name__).splitlines()[0]}") from error


@contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    import datasets

    were_hidden = datasets.are_progress_bars_disabled()
    (datasets.enable_progress_bars if shown else datasets.disable_progress_bars)()
    try:
        yield
    finally:
        (datasets.disable_progress_bars if were_hidden else datasets.enable_progress_bars)()


def _undecoded(dataset: Dataset, column: str) -> Dataset:
    from datasets import Image

    if column != "image":
        dataset = dataset.remove_columns([name for name in dataset.column_names if name == "image"])
        dataset = dataset.rename_column(column, "image")
    return dataset.cast_column("image", Image(decode=False))


def _paths(dataset: Dataset, column: str) -> list[str]:
    """The pictures' own paths, read without touching their bytes; empty where there are none."""
    import pyarrow
    import pyarrow.compute

    values = dataset.data.column(column)
    if not pyarrow.types.is_struct(values.type):
        return [""] * len(dataset)
    return [path or "" for path in pyarrow.compute.struct_field(values, "path").to_pylist()]
