"""Owns what a row of a table says of its image: its bytes, name, class and hole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from inpaint.errors import InpaintError
from inpaint.sources.keys import NO_CLASS, SPLIT_NAMES, Split, class_of
from inpaint.sources.places365 import official_class
from inpaint.sources.source import Entry

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


@dataclass(frozen=True)
class Columns:
    """Which columns of a table say what.

    Attributes:
        classes: what the numbers in `label` stand for; None: it holds names.
        has_source: whether there is a `source`, the images' paths.
        has_coordinates: whether there are `hole` and `crop`.
        are_named: whether paths tell images apart; else their content does.
    """

    image: str
    label: str | None
    classes: tuple[str, ...] | None
    has_source: bool
    has_coordinates: bool
    are_named: bool = True

    @classmethod
    def of(cls, name: str, features: Mapping[str, Any]) -> Columns:
        """Those of a table with these features of `datasets`: `image`, or the first column of images; `label`, or the
        first column of classes."""
        from datasets import ClassLabel, Image, Value

        texts, plain = (Value("string"), Value("large_string")), (Value("binary"), Value("large_binary"))

        def holds_images(feature: Any) -> bool:
            is_cell = isinstance(feature, dict) and set(feature) == {"bytes", "path"}
            return isinstance(feature, Image) or feature in plain or is_cell

        images = [column for column, feature in features.items() if holds_images(feature)]
        if not images:
            raise InpaintError(f"{name} has no column of images; its columns are {', '.join(features)}")
        labels = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
        label = "label" if "label" in labels or features.get("label") in texts else next(iter(labels), None)
        names = getattr(features[label], "names", None) if label else None
        return cls(
            image="image" if "image" in images else images[0],
            label=label,
            classes=None if names is None else tuple(names),
            has_source=features.get("source") in texts,
            has_coordinates={"hole", "crop"} <= set(features),
        )

    def wanted(self, schema: pa.Schema, with_data: bool = True) -> list[str]:
        """The columns to read of a table of this schema; without data only what names images, if anything does."""
        names = [column for column in (self.label, "source" if self.has_source else None) if column]
        if with_data or not self.are_named:
            return [self.image, *names, *(["hole", "crop"] if self.has_coordinates else [])]
        is_cell = schema.field(self.image).type.num_fields > 0
        return [f"{self.image}.path", *names] if is_cell else names or [self.image]

    def label_of(self, name: str, value: Any) -> str:
        """A row's class; "" for none."""
        if value is None or value == "" or (self.classes is not None and value < 0):
            return ""
        if self.classes is not None and value >= len(self.classes):
            raise InpaintError(
                f"column `{self.label}` of {name} holds {value}, but names {len(self.classes)} classes, 0 to "
                f"{len(self.classes) - 1}; mend the labels or the names"
            )
        label = str(value) if self.classes is None else self.classes[value]
        return official_class(label) or label


def entries_of(name: str, table: pa.Table, columns: Columns, split: Split | None) -> Iterator[Entry]:
    """The rows of a table of the dataset `name`; of a table without images, their names alone."""

    def values(column: str | None, width: int = 0) -> Any:
        if column is None or column not in table.column_names:
            return [None] * len(table)
        cells = table[column].to_pylist()
        try:
            return np.array(cells, dtype=np.int32).reshape(len(table), width) if width else cells
        except (TypeError, ValueError) as error:
            raise InpaintError(f"column `{column}` of {name} must hold {width} whole numbers a row") from error

    sources = values("source" if columns.has_source else None)
    hole, crop = ("hole", "crop") if columns.has_coordinates else (None, None)
    holes, crops = values(hole, 4), values(crop, 2)
    for cell, value, source, hole, crop in zip(
        values(columns.image), values(columns.label), sources, holes, crops, strict=True
    ):
        entry = _cell_entry(cell if isinstance(cell, dict) else {"bytes": cell})
        path = (source or entry.source) if columns.are_named else ""
        if not path and (entry.data is not None or entry.file is not None):
            path = hashlib.blake2b(entry.read(), digest_size=16).hexdigest()
        *folders, last = path.split("/")
        label = columns.label_of(name, value)
        if label in ("", NO_CLASS):
            label = class_of(folders[1:] if folders and folders[0].lower() in SPLIT_NAMES else folders)
        where = path if folders or not label else f"{label}/{last}"
        yield replace(entry, source=where, label=label or NO_CLASS, split=split, hole=hole, crop=crop)


def _cell_entry(cell: Mapping[str, Any]) -> Entry:
    """An image of a table: bytes, or the path of a file; its own path beyond its name is a place elsewhere."""
    data, path = cell.get("bytes"), cell.get("path") or ""
    name = path.rpartition("/")[2] if path.startswith("/") or "://" in path else path
    if data is None and path and "bytes" in cell:
        if "://" not in path:
            size = Path(path).stat().st_size if Path(path).exists() else 0
            return Entry(name, file=Path(path), size=size)
        with opened(path) as file:
            data = file.read()
    return Entry(name, data=data, size=len(data or b""))


@contextmanager
def opened(name: str) -> Iterator[BinaryIO]:
    """A file, here or on the Hub; the client tries again where the Hub fails for a while."""
    if "://" not in name:
        with Path(name).open("rb") as file:
            yield file
        return
    import fsspec

    with fsspec.open(name, "rb", cache_type="none") as file:
        yield file


def footer_of(shard: str) -> pq.FileMetaData:
    """A parquet shard's, here or on the Hub: its columns and row groups."""
    import pyarrow.parquet as pq

    with in_one_line(f"the parquet shard {shard} cannot be read"), opened(shard) as file:
        return pq.ParquetFile(file).metadata


@contextmanager
def in_one_line(trouble: str) -> Iterator[None]:
    """What reading a dataset raises, as an InpaintError that begins with `trouble`."""
    import pyarrow as pa
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (DatasetsError, OSError, ValueError, RuntimeError, pa.ArrowException) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # `datasets` wraps it in "An error occurred while generating the dataset"
            cause = cause.__cause__
        raise InpaintError(f"{trouble}: {(str(cause).strip() or type(cause).__name__).splitlines()[0]}") from error
