"""Owns the second pass of `inpaint prepare`: from all finished chunks, which pictures are kept and where each goes.

The plan depends on what the pictures are called and look like, not on the order in which the source gave them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from inpaint.data.chunks import REASONS, SCHEMA, open_chunk, reasons
from inpaint.data.dedupe import duplicates
from inpaint.data.holes import SPLITS, Split
from inpaint.errors import InpaintError

KEPT, DUPLICATE = REASONS.index("kept"), REASONS.index("duplicate")
# Of copies in several splits the one that is tested on stays: no picture of the test may stand in train.
COPIES_STAY_IN: tuple[Split, ...] = ("test", "validation", "train")


@dataclass(frozen=True)
class Plan:
    """What is to be written, of N pictures in all; about 50 bytes each.

    Args:
        files: the chunks; picture i is row `i - starts[c]` of the last chunk c that starts at or before it.
        reason: [N], index in REASONS.
        label: [N], index in `labels`.
        key_hash, source_hash: [N]; splits and holes come from the first, the second tells equal ones apart.
        num_bytes: [N], of the stored picture.
        order: the kept pictures of each split in their order, which is that of their keys' hashes: well mixed.
        fingerprint: two plans with the same one lead to the same dataset.
    """

    files: tuple[Path, ...]
    starts: NDArray[np.int64]
    reason: NDArray[np.int8]
    split: NDArray[np.int8]
    label: NDArray[np.int32]
    labels: tuple[str, ...]
    key_hash: NDArray[np.uint64]
    source_hash: NDArray[np.uint64]
    num_bytes: NDArray[np.int64]
    order: dict[Split, NDArray[np.int64]]
    fingerprint: str

    def counts(self) -> Counter[str]:
        """Pictures by reason."""
        return Counter({name: int((self.reason == index).sum()) for index, name in enumerate(REASONS)})

    def locate(self, pictures: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The chunk and the row in it of each picture."""
        chunks = np.searchsorted(self.starts, pictures, side="right") - 1
        return chunks, pictures - self.starts[chunks]

    def take(self, pictures: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Columns of some pictures, in their order; of each chunk only the rows that are wanted are read."""
        if not len(pictures):
            return SCHEMA.empty_table().select(columns)
        chunks, rows = self.locate(pictures)
        by_chunk = np.argsort(chunks, kind="stable")
        parts = []
        for group in np.split(by_chunk, np.flatnonzero(np.diff(chunks[by_chunk])) + 1):
            with open_chunk(self.files[chunks[group[0]]]) as table:
                parts.append(table.select(columns).take(rows[group]))
        return pa.concat_tables(parts).combine_chunks().take(np.argsort(by_chunk))


def make_plan(files: Sequence[Path], threshold: float, labels: Sequence[str] | None, show_progress: bool) -> Plan:
    """Decides on every picture.

    Args:
        labels: the classes by name, in the order of their numbers; by default those found, sorted.

    Raises:
        InpaintError: nothing would be kept.
    """
    columns: dict[str, list[NDArray[np.generic]]] = {}
    found_labels: list[str] = []
    for file in tqdm(files, desc="reading chunks", unit="chunk", disable=not show_progress, leave=False):
        with open_chunk(file) as table:
            for name, values in _columns(table, threshold, found_labels).items():
                columns.setdefault(name, []).append(values)
    whole = {name: np.concatenate(parts) for name, parts in columns.items()}
    sizes = [len(part) for part in columns["reason"]]
    reason = whole["reason"].astype(np.int8)
    names = tuple(sorted(found_labels) if labels is None else labels)
    whole["label"] = np.array([names.index(name) for name in found_labels], np.int32)[whole["label"].astype(np.int64)]
    _drop_copies(whole, reason)
    kept = np.flatnonzero(reason == KEPT)
    if not len(kept):
        counts = Counter(REASONS[index] for index in reason)
        raise InpaintError(f"no picture is left of {len(reason)}: {', '.join(f'{n} {r}' for r, n in counts.items())}")
    order: dict[Split, NDArray[np.int64]] = {}
    digest = hashlib.blake2b(repr((threshold, names)).encode(), digest_size=16)
    for index, split in enumerate(SPLITS):
        pictures = kept[whole["split"][kept] == index]
        order[split] = pictures[np.lexsort((whole["source_hash"][pictures], whole["key_hash"][pictures]))]
        for name in ("key_hash", "source_hash", "label", "pixels", "person_score"):
            digest.update(whole[name][order[split]].tobytes())
    return Plan(
        files=tuple(files),
        starts=np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64),
        reason=reason,
        split=whole["split"].astype(np.int8),
        label=whole["label"].astype(np.int32),
        labels=names,
        key_hash=whole["key_hash"].astype(np.uint64),
        source_hash=whole["source_hash"].astype(np.uint64),
        num_bytes=whole["num_bytes"].astype(np.int64),
        order=order,
        fingerprint=digest.hexdigest(),
    )


def _columns(table: pa.Table, threshold: float, found_labels: list[str]) -> dict[str, NDArray[np.generic]]:
    import pyarrow.compute as pc

    names = ("key_hash", "source_hash", "split", "pixels", "outline", "person_score")
    values = {name: table[name].to_numpy().copy() for name in names}
    labels = table["label"].to_pylist()
    found_labels.extend(sorted(set(labels) - set(found_labels)))
    number = {name: index for index, name in enumerate(found_labels)}
    colours = b"".join(table["colours"].to_pylist())
    return values | {
        "reason": reasons(table, threshold),
        "label": np.array([number[name] for name in labels], np.int32),
        "colours": np.frombuffer(colours, np.uint8).reshape(len(labels), -1),
        "num_bytes": pc.binary_length(table["png"]).to_numpy().astype(np.int64),
    }


def _drop_copies(columns: dict[str, NDArray[np.generic]], reason: NDArray[np.int8]) -> None:
    kept = np.flatnonzero(reason == KEPT)
    rank = np.array([COPIES_STAY_IN.index(split) for split in SPLITS])[columns["split"][kept].astype(np.int64)]
    first_to_last = kept[np.lexsort((columns["source_hash"][kept], columns["key_hash"][kept], rank))]
    is_copy = duplicates(*(columns[name][first_to_last] for name in ("pixels", "outline", "colours")))  # type: ignore[arg-type]
    reason[first_to_last[is_copy]] = DUPLICATE
