"""Owns the second pass of `inpaint prepare`: from all finished chunks, which images are kept and where each goes.

The plan depends on what the images are called and look like, not on the order in which the source gave them.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from inpaint.errors import InpaintError
from inpaint.prepare.alike import Looks, compare_pairs, find_pairs, first_of_group
from inpaint.prepare.chunks import REASONS, SCHEMA, open_chunk, reasons
from inpaint.prepare.dedupe import IS_ODD, VIEWS
from inpaint.sources.keys import SPLITS, Split

# Of copies in several splits of the source's own the one that is tested on stays.
COPIES_STAY_IN: tuple[Split, ...] = ("test", "validation", "train")
KEPT, DUPLICATE = REASONS.index("kept"), REASONS.index("duplicate")
# So many images' looks are in memory at a time.
LOOKED_FOR_AT_ONCE = 20_000


@dataclass(frozen=True)
class ChunkFiles:
    """All finished chunks as one long table of N images; `starts` has the first image of each, and N."""

    files: tuple[Path, ...]
    starts: NDArray[np.int64]

    def take(self, images: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Columns of some images, in their order; of each chunk only the rows that are wanted are read."""
        if not len(images):
            return SCHEMA.empty_table().select(columns)
        chunks = np.searchsorted(self.starts, images, side="right") - 1
        by_chunk = np.argsort(chunks, kind="stable")
        parts = []
        for group in np.split(by_chunk, np.flatnonzero(np.diff(chunks[by_chunk])) + 1):
            chunk = chunks[group[0]]
            with open_chunk(self.files[chunk]) as table:
                parts.append(table.select(columns).take(images[group] - self.starts[chunk]))
        return pa.concat_tables(parts).combine_chunks().take(np.argsort(by_chunk))

    def squares(self, images: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """The pixels of some images, RGB [S, S, 3] each."""
        rows = self.take(images, ["source", "png"]).to_pylist()
        try:
            return [np.asarray(Image.open(io.BytesIO(row["png"]))) for row in rows]
        except (OSError, SyntaxError) as error:  # Pillow's for what is no PNG
            folder = self.files[0].parent
            raise InpaintError(
                f"images in {folder} are damaged ({error}); delete it and run the command again"
            ) from error

    def looks(self, is_wanted: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], Looks]]:
        """Some thousand of the wanted images at a time, and how they look: [n, V, D]."""
        waiting: list[tuple[NDArray[np.int64], Looks]] = []
        for file, start, stop in zip(self.files, self.starts, self.starts[1:], strict=False):
            rows = np.flatnonzero(is_wanted[start:stop])
            with open_chunk(file) as table:
                waiting.append((start + rows, _looks(table)[rows]))
            if sum(len(rows) for rows, _ in waiting) >= LOOKED_FOR_AT_ONCE or stop == self.starts[-1]:
                images, looks = zip(*waiting, strict=True)
                yield np.concatenate(images), np.concatenate(looks)
                waiting = []


@dataclass(frozen=True)
class Plan:
    """What is to be written, of N images in all; about 60 bytes each.

    Args:
        reason, split: [N], indices in REASONS and in SPLITS.
        first: [N], of a duplicate the image that is kept for it; of another the first of those that are alike, often
            itself; -1 where neither was looked for.
        label: [N], index in `labels`, of which the first `num_labels` have an image left.
        key_hash, source_hash: [N]; splits and holes come from the first, the second tells equal ones apart.
        order: the kept images of each split in their order, which is that of their keys' hashes: well mixed.
        fingerprint: two plans with the same one lead to the same dataset.
    """

    chunks: ChunkFiles
    reason: NDArray[np.int8]
    split: NDArray[np.int8]
    first: NDArray[np.int64]
    label: NDArray[np.int32]
    labels: tuple[str, ...]
    num_labels: int
    key_hash: NDArray[np.uint64]
    source_hash: NDArray[np.uint64]
    num_bytes: NDArray[np.int64]
    order: dict[Split, NDArray[np.int64]]
    fingerprint: str

    @property
    def kept_labels(self) -> tuple[str, ...]:
        return self.labels[: self.num_labels]

    def counts(self) -> Counter[str]:
        return Counter({name: int((self.reason == index).sum()) for index, name in enumerate(REASONS)})

    def alike(self) -> NDArray[np.int64]:
        """The kept images that are like another kept one, group by group, the first of each group at its head."""
        kept = np.flatnonzero(self.reason == KEPT)
        _, group, size = np.unique(self.first[kept], return_inverse=True, return_counts=True)
        some = kept[size[group] > 1]
        first = self.first[some]
        own, its_group = ((self.source_hash[at], self.key_hash[at]) for at in (some, first))
        return some[np.lexsort((*own, some != first, *its_group))]

    def num_straddling(self) -> int:
        """How many kept images are in another split than what they are like: where the source's own are kept."""
        kept = np.flatnonzero(self.reason == KEPT)
        return int((self.split[kept] != self.split[self.first[kept]]).sum())


def make_plan(
    files: Sequence[Path], threshold: float, labels: Sequence[str] | None, workers: int, show_progress: bool
) -> Plan:
    """Decides on every image. `labels` are the classes in the order of their numbers, by default those found, sorted;
    `workers` threads compare images, and `threshold` is the person filter's."""
    parts: list[dict[str, NDArray[Any]]] = []
    found_labels: list[str] = []
    for file in tqdm(files, desc="reading chunks", unit="chunk", disable=not show_progress, leave=False):
        with open_chunk(file) as table:
            parts.append(_columns(table, threshold, found_labels))
    chunks = ChunkFiles(tuple(files), np.cumsum([0, *(len(part["reason"]) for part in parts)]))
    # Each column leaves its parts, so that nothing is in memory twice.
    whole = {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}
    reason = whole["reason"]
    first = _group(whole, chunks, workers, show_progress)
    kept = np.flatnonzero(reason == KEPT)
    if not len(kept):
        counts = Counter(REASONS[index] for index in reason)
        raise InpaintError(f"no image is left of {len(reason)}: {', '.join(f'{n} {r}' for r, n in counts.items())}")
    has_images = {found_labels[number] for number in np.unique(whole["label"][kept])}
    known = sorted(found_labels) if labels is None else [name for name in labels if name in found_labels]
    names = tuple(sorted(known, key=lambda name: name not in has_images))
    whole["label"] = np.array([names.index(name) for name in found_labels], np.int32)[whole["label"]]
    order: dict[Split, NDArray[np.int64]] = {}
    digest = hashlib.blake2b(repr((threshold, names)).encode(), digest_size=16)
    for index, split in enumerate(SPLITS):
        images = kept[whole["split"][kept] == index]
        order[split] = images[np.lexsort((whole["source_hash"][images], whole["key_hash"][images]))]
        for name in ("key_hash", "source_hash", "label", "pixels", "person_score"):
            digest.update(whole[name][order[split]].tobytes())
    return Plan(
        chunks=chunks,
        first=first,
        labels=names,
        num_labels=len(has_images),
        order=order,
        fingerprint=digest.hexdigest(),
        **{name: whole[name] for name in ("reason", "split", "label", "key_hash", "source_hash", "num_bytes")},
    )


def _columns(table: pa.Table, threshold: float, found_labels: list[str]) -> dict[str, NDArray[Any]]:
    names = ("key_hash", "source_hash", "split", "pixels", "person_score")
    values = {name: table[name].to_numpy().copy() for name in names}
    labels = table["label"].to_pylist()
    found_labels.extend(sorted(set(labels) - set(found_labels)))
    number = {name: index for index, name in enumerate(found_labels)}
    return values | {
        "reason": reasons(table, threshold),
        "label": np.array([number[name] for name in labels], np.int32),
        "own_split": np.array(table["own_split"].to_pylist(), bool),
        "whole": _looks(table)[:, 0].copy(),  # or it would hold on to all views
        "num_bytes": pc.binary_length(table["png"]).to_numpy().astype(np.int64),
    }


def _looks(table: pa.Table) -> Looks:
    """[rows, V, D] of a chunk."""
    looks = np.frombuffer(b"".join(table["looks"].to_pylist()), np.int8)
    return looks.reshape(len(table), len(VIEWS), len(IS_ODD))


def _group(
    columns: dict[str, NDArray[Any]], chunks: ChunkFiles, workers: int, show_progress: bool
) -> NDArray[np.int64]:
    """Marks copies in the column `reason`, and puts those that are alike in one split, that of the first.

    Splits of the source's own stay as they are. Returns `Plan.first`.
    """
    reason = columns["reason"]
    kept = np.flatnonzero(reason == KEPT)
    rank = np.array([COPIES_STAY_IN.index(split) for split in SPLITS])[columns["split"][kept]]
    rank *= columns["own_split"][kept]
    ordered = kept[np.lexsort((columns["source_hash"][kept], columns["key_hash"][kept], rank))]
    _, at, again = np.unique(columns["pixels"][ordered], return_index=True, return_inverse=True)
    distinct = np.sort(at)  # places in `ordered`
    place = np.full(len(reason), -1)
    place[ordered[distinct]] = np.arange(len(distinct))
    pairs = find_pairs(
        columns["whole"][ordered[distinct]],
        ((place[images], looks) for images, looks in chunks.looks(place >= 0)),
    )
    told = compare_pairs(pairs, lambda places: chunks.squares(ordered[distinct[places]]), workers, show_progress)
    of_distinct = np.searchsorted(distinct, at[again])
    group, copy = (
        ordered[distinct[first_of_group(len(distinct), pairs["one"][chosen], pairs["other"][chosen])[of_distinct]]]
        for chosen in np.array(told, bool).reshape(-1, 2).T
    )
    is_free = ~columns["own_split"][ordered]
    columns["split"][ordered[is_free]] = columns["split"][group[is_free]]
    is_copy = copy != ordered
    reason[ordered[is_copy]] = DUPLICATE
    first = np.full(len(reason), -1)
    first[ordered] = np.where(is_copy, copy, group)
    return first
