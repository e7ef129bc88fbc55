"""Owns the third pass of `inpaint prepare`: the dataset's files, parquet shards and tables of coordinates.

Every file appears whole or not at all, its bytes depend on the plan alone, and a file that is there is not made again.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from inpaint.data.draws import stored_holes
from inpaint.files import write_atomically
from inpaint.holes.spec import HoleSpec
from inpaint.prepare.chunks import REASONS
from inpaint.prepare.plan import DUPLICATE, KEPT, Plan
from inpaint.prepare.sharing import new_file
from inpaint.sources.keys import SPLITS

# At most 500 MB, names, coordinates and parquet's own bytes among them.
SHARD_BYTES = 480_000_000
ROW_BYTES = 200
# So many bytes are gathered. A row group, which is what streaming reads at a time, holds as many images as those that
# `datasets` writes.
SLAB_BYTES = 32_000_000
ROWS_A_GROUP = 100


def features(labels: tuple[str, ...]) -> Any:
    """The columns, as `datasets` describes them."""
    from datasets import ClassLabel, Features, Image, List, Value

    return Features(
        {
            "image": Image(),
            "label": ClassLabel(names=list(labels)),
            "source": Value("string"),
            "hole": List(Value("int32"), length=4),
            "crop": List(Value("int32"), length=2),
            "person_score": Value("float32"),
        }
    )


def shard_paths(out: Path) -> list[Path]:
    """The shards that are there, train first."""
    return [path for split in SPLITS for path in sorted((out / "data").glob(f"{split}-*.parquet"))]


def write_shards(plan: Plan, out: Path, work: Path, size: int, show_progress: bool) -> None:
    """All shards of the plan; those of another plan go. A split without images has none: `datasets` refuses such."""
    state, wanted = work / "plan.json", json.dumps({"fingerprint": plan.fingerprint, "size": size})
    (out / "data").mkdir(exist_ok=True)
    if not state.exists() or state.read_bytes() != wanted.encode():
        for stale in [*shard_paths(out), out / "README.md"]:
            stale.unlink(missing_ok=True)
        write_atomically(state, wanted.encode())
    schema = features(plan.kept_labels).arrow_schema
    total = sum(map(len, plan.order.values()))
    with tqdm(desc="writing", total=total, unit="image", disable=not show_progress) as bar:
        for split, images in plan.order.items():
            shards = list(_cut(plan.num_bytes[images], SHARD_BYTES))
            for index, (start, stop) in enumerate(shards):
                path = out / "data" / f"{split}-{index:05d}-of-{len(shards):05d}.parquet"
                if path.exists() and not _is_sound(path, stop - start):
                    print(f"{path} is damaged and will be remade")
                    path.unlink()
                if not path.exists():
                    _write_shard(path, plan, images[start:stop], schema, size)
                bar.update(stop - start)


def _is_sound(shard: Path, num_rows: int) -> bool:
    """Whether all of a shard is as it was written, and has its rows."""
    try:
        with pq.ParquetFile(shard, page_checksum_verification=True) as file:
            return sum(len(batch) for batch in file.iter_batches()) == num_rows
    except (pa.ArrowException, OSError):
        return False


def write_holes(out: Path) -> None:
    """`holes.csv`: the coordinates once more, read back from the shards."""
    with _table(out / "holes.csv", ["source", "x", "y", "width", "height", "crop_x", "crop_y"]) as writer:
        for path in shard_paths(out):
            for batch in pq.ParquetFile(path).iter_batches(columns=["source", "hole", "crop"]):
                for row in batch.to_pylist():
                    writer.writerow([row["source"], *row["hole"], *row["crop"]])


def write_dropped(plan: Plan, out: Path) -> None:
    """`dropped.csv`: every image that was left out, why, and of a duplicate what it is a copy of."""
    dropped = np.flatnonzero(plan.reason != KEPT)
    dropped = dropped[np.lexsort((plan.source_hash[dropped], plan.key_hash[dropped]))]
    with _table(out / "dropped.csv", ["source", "reason", "detail", "person_score", "copy_of"]) as writer:
        for some in _thousands(dropped):
            table = plan.chunks.take(some, ["source", "detail", "person_score"]).to_pylist()
            is_copy = plan.reason[some] == DUPLICATE
            kept = iter(plan.chunks.take(plan.first[some[is_copy]], ["source"])["source"].to_pylist())
            for row, reason in zip(table, plan.reason[some], strict=True):
                score = "" if row["person_score"] is None else f"{row['person_score']:.4f}"
                partner = next(kept) if reason == DUPLICATE else ""
                writer.writerow([row["source"], REASONS[reason], row["detail"], score, partner])


def write_alike(plan: Plan, out: Path) -> None:
    """`alike.csv`: the kept images that are like others, with the first of their group, and the group's split."""
    with _table(out / "alike.csv", ["source", "like", "split"]) as writer:
        for some in _thousands(plan.alike()):
            sources, firsts = (
                plan.chunks.take(images, ["source"])["source"].to_pylist() for images in (some, plan.first[some])
            )
            splits = [SPLITS[split] for split in plan.split[some]]
            writer.writerows(zip(sources, firsts, splits, strict=True))


def _thousands(images: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """A part at a time, so that memory does not grow with their number."""
    for start in range(0, len(images), 10_000):
        yield images[start : start + 10_000]


@contextmanager
def _table(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    """A writer of rows under a row of names."""
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        yield writer


def _cut(num_bytes: NDArray[np.int64], limit: int) -> Iterator[tuple[int, int]]:
    """Runs of rows that stay within `limit` bytes each, if one row does."""
    ends = np.cumsum(num_bytes + ROW_BYTES)
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + limit, side="right")))
        yield start, stop
        start = stop


def _write_shard(path: Path, plan: Plan, images: NDArray[np.int64], schema: pa.Schema, size: int) -> None:
    # Dictionaries and statistics of compressed images are as large as the images.
    options = {"use_dictionary": ["source", "label"], "write_statistics": ["label", "person_score"]}
    with (
        new_file(path) as temporary,
        pq.ParquetWriter(temporary, schema, write_page_checksum=True, **options) as writer,
    ):
        for start, stop in _cut(plan.num_bytes[images], SLAB_BYTES):
            writer.write_table(_rows(plan, images[start:stop], schema, size), row_group_size=ROWS_A_GROUP)


def _rows(plan: Plan, images: NDArray[np.int64], schema: pa.Schema, size: int) -> pa.Table:
    table = plan.chunks.take(images, ["source", "person_score", "png"])
    holes, crops = stored_holes(plan.key_hash[images], HoleSpec.scaled(size))
    png = table["png"].combine_chunks()
    paths = pa.nulls(len(table), pa.string())
    columns = {
        "image": pa.StructArray.from_arrays([png, paths], fields=list(schema.field("image").type)),
        "label": pa.array(plan.label[images].astype(np.int64)),
        "source": table["source"].combine_chunks(),
        "hole": pa.FixedSizeListArray.from_arrays(pa.array(holes.ravel()), type=schema.field("hole").type),
        "crop": pa.FixedSizeListArray.from_arrays(pa.array(crops.ravel()), type=schema.field("crop").type),
        "person_score": table["person_score"].combine_chunks(),
    }
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
