"""Owns the first pass of `inpaint prepare`: some hundred images of the source to one finished chunk file.

A chunk is work that is done once: its file is named by a digest of its images and of what is done to them, and
appears whole or not at all. So any process may do any chunk, a restart goes on where it was, and nothing has to be
kept in step between processes. Who makes a chunk holds it (`inpaint.prepare.sharing`), and others pass it over.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from inpaint.images.pixels import BadImage, decode_square, open_image, square
from inpaint.prepare.dedupe import IS_ODD, VIEWS, looks
from inpaint.prepare.detectors import build_detector
from inpaint.prepare.people import BATCH_SIZE, PeopleFilter
from inpaint.prepare.sharing import held, new_file
from inpaint.sources.keys import KEY_RULE, SPLITS, Split, key_hash, printable, split_for
from inpaint.sources.rows import loaded
from inpaint.sources.source import Entry

# Changes whenever chunks made before would not be made the same way now.
VERSION = 4
# Why an image is in the dataset or not; a chunk file holds the index. "person" and "duplicate" are decided later.
REASONS = ("kept", "person", "corrupt", "too small", "too large", "grey", "duplicate")
# Detectors see no more than this.
DETECTION_PX = 640
# Past this level PNGs get hardly smaller, only slower.
PNG_LEVEL = 4

SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("label", pa.string()),
        ("key_hash", pa.uint64()),
        ("source_hash", pa.uint64()),
        ("split", pa.int8()),
        ("own_split", pa.bool_()),
        ("reason", pa.int8()),
        ("detail", pa.string()),
        ("pixels", pa.uint64()),
        ("looks", pa.binary(len(VIEWS) * len(IS_ODD))),
        ("person_score", pa.float32()),
        ("png", pa.binary()),
    ]
)

# A process loads its detector once.
_detector = cache(build_detector)


@dataclass(frozen=True)
class Chunk:
    """Some images, the file they go to, and what to make of them; small enough to be sent to a worker.

    An image is grey if its largest and smallest channel differ by less than `grey_steps` of 8 bits on average.
    """

    file: Path
    entries: tuple[Entry, ...]
    size: int
    people: PeopleFilter
    own_splits: frozenset[Split]
    grey_steps: float


def chunks_of(
    entries: Iterable[Entry],
    num_pictures: int,
    folder: Path,
    size: int,
    people: PeopleFilter,
    own_splits: frozenset[Split],
    grey_steps: float,
) -> Iterator[Chunk]:
    """Parts the source's images, in its order, into chunks of `num_pictures`, or more to leave row groups whole."""
    settings = f"{VERSION} {KEY_RULE} {size} {people.identity()} {sorted(own_splits)} {grey_steps}"

    def of(members: list[Entry]) -> Chunk:
        digest = hashlib.blake2b(settings.encode(), digest_size=12)
        for entry in members:
            digest.update(json.dumps([entry.source, entry.label, entry.split, entry.size]).encode())
            digest.update(hashlib.blake2b(entry.data or b"").digest())
            if entry.rows:
                digest.update(f"{entry.rows.identity} {entry.offset}".encode())
        file = folder / f"{digest.hexdigest()}.arrow"
        return Chunk(file, tuple(members), size, people, own_splits, grey_steps)

    members: list[Entry] = []
    for entry in entries:
        if len(members) >= num_pictures and (entry.rows is None or entry.rows is not members[-1].rows):
            yield of(members)
            members = []
        members.append(entry)
    if members:
        yield of(members)


def make_chunk(chunk: Chunk) -> Counter[str] | None:
    """Makes the chunk's file if it is not there. Returns what became of its images; None: another process is at it."""
    with held(chunk.file) as is_ours:
        if not is_ours:
            return None
        if not is_sound(chunk.file):
            _make(chunk)
        with open_chunk(chunk.file) as table:
            return count_reasons(table, chunk.people.threshold)


def _make(chunk: Chunk) -> None:
    """Reads, squares, fingerprints and detects, and writes the chunk's file."""
    detector = None if chunk.people.kind == "none" else _detector(chunk.people)
    rows: list[dict[str, Any]] = []
    entries = loaded(chunk.entries)
    while batch := list(islice(entries, BATCH_SIZE)):
        waiting: list[tuple[dict[str, Any], NDArray[np.uint8]]] = []
        for entry in batch:
            row = _row(entry, chunk.own_splits)
            rows.append(row)
            try:
                waiting.append((row, _prepare(entry, row, chunk)))
            except BadImage as bad:
                reason = "corrupt" if bad.reason in ("unreadable", "truncated") else bad.reason
                row.update(reason=REASONS.index(reason), detail=printable(bad.detail))
        found = [(row, image) for row, image in waiting if row["reason"] == REASONS.index("kept")]
        if detector is not None and found:
            for (row, _), boxes in zip(found, detector.detect([image for _, image in found]), strict=True):
                row["person_score"] = chunk.people.score(boxes)
    rows.sort(key=lambda row: (row["split"], row["key_hash"], row["source_hash"]))
    with new_file(chunk.file) as temporary, pa.ipc.new_file(str(temporary), SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))


@contextmanager
def open_chunk(file: Path) -> Iterator[pa.Table]:
    """A finished chunk, mapped into memory: only what is used of it is read."""
    with pa.memory_map(str(file)) as mapped:
        yield pa.ipc.open_file(mapped).read_all()


def is_sound(file: Path) -> bool:
    """Whether a chunk's file can be read, as far as that shows without decoding its images."""
    try:
        with open_chunk(file) as table:
            table.validate(full=True)
            return table.schema.equals(SCHEMA)
    except (pa.ArrowException, OSError):
        return False


def reasons(table: pa.Table, threshold: float) -> NDArray[np.int8]:
    """The index in REASONS for each image of a chunk, people above `threshold` found out: [N]."""
    found = table["reason"].to_numpy().copy()
    # No score is no number, which reaches no threshold.
    found[(found == REASONS.index("kept")) & (table["person_score"].to_numpy() >= threshold)] = REASONS.index("person")
    return found


def count_reasons(table: pa.Table, threshold: float) -> Counter[str]:
    """What became of a chunk's images, copies not yet found out."""
    return Counter(REASONS[reason] for reason in reasons(table, threshold))


def _row(entry: Entry, own_splits: frozenset[Split]) -> dict[str, Any]:
    split = split_for(entry.key_hash, entry.split, own_splits)
    return {
        "source": entry.source,
        "label": entry.label,
        "key_hash": entry.key_hash,
        "source_hash": key_hash(entry.source),
        "split": SPLITS.index(split),
        "own_split": entry.split == split,
        "reason": REASONS.index("kept"),
        "detail": "",
        "pixels": 0,
        "looks": bytes(len(VIEWS) * len(IS_ODD)),
        "person_score": None,
        "png": b"",
    }


def _prepare(entry: Entry, row: dict[str, Any], chunk: Chunk) -> NDArray[np.uint8]:
    """Fills in `row`; returns the square as the detector is to see it."""
    data = entry.read()
    small, _ = decode_square(data, chunk.size, min_side=chunk.size)
    red, green, blue = cv2.split(small)
    if (cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue)).mean() < chunk.grey_steps:
        row["reason"] = REASONS.index("grey")
        return small
    row["pixels"] = int.from_bytes(hashlib.blake2b(small.tobytes(), digest_size=8).digest(), "little")
    row["looks"] = looks(small).tobytes()
    encoded = cv2.imencode(".png", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])[1]
    row["png"] = encoded.tobytes()
    if chunk.people.kind == "none":
        return small
    image = open_image(data, at_least=DETECTION_PX)
    return square(image, min(*image.size, DETECTION_PX))
