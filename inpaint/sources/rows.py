"""Owns what a row of a table says of its image: its bytes, name, class and hole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from inpaint.errors import InpaintError
from inpaint.sources.keys import NO_CLASS, SPLIT_NAMES, Split, class_of
from inpaint.sources.places365 import official_class
from inpaint.sources.source import Entry

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

ROWS_AT_ONCE = 256
# A parquet row group can only be read from its beginning. Larger ones are read by every process instead of by the one
# whose images it holds, or a chunk of images would have no end.
MOST_ROWS = 2000


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
        """The columns to read of a table of this schema; without data only what names images, perhaps none."""
        names = [column for column in (self.label, "source" if self.has_source else None) if column]
        if with_data:
            return [self.image, *names, *(["hole", "crop"] if self.has_coordinates else [])]
        is_cell = schema.field(self.image).type.num_fields > 0
        return [f"{self.image}.path", *names] if is_cell else names

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


class Group(NamedTuple):
    """Rows of a table that are read together: their columns, number, and what reads columns of `ROWS_AT_ONCE` a time.

    `sizes` changes with what they hold, as far as their table says that.
    """

    schema: pa.Schema
    num_rows: int
    sizes: str
    read: Callable[[list[str]], Iterator[pa.Table]]


@contextmanager
def groups_of(table: str | Dataset) -> Iterator[Sequence[Group]]:
    """The row groups of a parquet shard, here or on the Hub, or parts of a loaded dataset; to be read in the block."""
    if not isinstance(table, str):
        starts = range(0, len(table), ROWS_AT_ONCE)
        parts = [range(start, min(start + ROWS_AT_ONCE, len(table))) for start in starts]
        identity = getattr(table, "_fingerprint", "")
        yield [Group(table.data.schema, len(part), identity, partial(_read_dataset, table, part)) for part in parts]
        return
    import pyarrow.parquet as pq

    with ExitStack() as stack:
        with in_one_line(f"{table} cannot be read"):
            shard = pq.ParquetFile(stack.enter_context(opened(table)), pre_buffer=True)
        schema, footer = shard.schema_arrow, shard.metadata
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        reads = [partial(_read_group, table, shard, number) for number in range(len(groups))]
        yield [Group(schema, group.num_rows, _sizes(group), read) for group, read in zip(groups, reads, strict=True)]


def _sizes(group: pq.RowGroupMetaData) -> str:
    columns = [group.column(number) for number in range(group.num_columns)]
    return repr([(its.path_in_schema, its.total_compressed_size, its.total_uncompressed_size) for its in columns])


def _read_group(name: str, shard: pq.ParquetFile, number: int, columns: list[str]) -> Iterator[pa.Table]:
    import pyarrow as pa

    with in_one_line(f"{name}, row group {number}, cannot be read"):
        for batch in shard.iter_batches(ROWS_AT_ONCE, [number], columns):
            yield pa.Table.from_batches([batch])


def _read_dataset(dataset: Dataset, part: range, columns: list[str]) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.compute as pc

    names = [column.partition(".")[0] for column in columns]
    table = dataset.select_columns(names).with_format("arrow")[part.start : part.stop]

    def picked(column: str) -> Any:
        name, _, child = column.partition(".")
        if not child:
            return table[name]
        return pa.StructArray.from_arrays([pc.struct_field(table[name], child).combine_chunks()], [child])

    yield pa.table({name: picked(column) for name, column in zip(names, columns, strict=True)})


@dataclass(frozen=True, eq=False)
class RowGroup:
    """Which rows some entries are that `located` gave: a shard or loaded dataset, the number of its group, and what
    else `entries_of` wants to know. `identity` is equal for the same rows and no others of a source."""

    name: str
    table: str | Dataset
    number: int
    split: Split | None
    columns: Columns
    identity: str


def loaded(entries: Sequence[Entry]) -> Iterator[Entry]:
    """Entries that `located` gave, with what was left to read; each row group once, if its entries are neighbours."""
    for table, some in groupby(entries, key=lambda entry: entry.rows and entry.rows.table):
        if table is None:
            yield from some
            continue
        with groups_of(table) as groups:
            for rows, its in groupby(some, key=lambda entry: entry.rows):
                splits, group = {entry.offset: entry.split for entry in its}, groups[rows.number]
                parts = group.read(rows.columns.wanted(group.schema))
                read = (entries_of(rows.name, part, rows.columns, rows.split) for part in parts)
                for offset, entry in enumerate(chain.from_iterable(read)):
                    if offset in splits:
                        yield replace(entry, split=splits[offset])


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
