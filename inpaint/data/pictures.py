"""Owns the decoded pictures: each split of a source, decoded once into a memory map that all processes share.

After that a batch is one gather of rows. The name of a cache entry says what is in it: the source's fingerprint, the
size, and the version of the decoding.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
from numpy.typing import NDArray

from inpaint.data import holes
from inpaint.data.cache import build_once, cache_folder, check_room, durable
from inpaint.data.decode import Decoded, coordinates_at, decode_photos, table_of
from inpaint.data.holes import SPLITS, HoleSpec, Split
from inpaint.errors import InpaintError

# Raised when the same file would become other pixels, or an entry's files change.
VERSION = 2
# Where each split's indices begin among the made-up landscapes: far apart, so that a larger split moves no other.
SYNTHETIC_START: dict[Split, int] = {"train": 0, "validation": 1 << 40, "test": 2 << 40}
TASK_PICTURES, TASK_BYTES = 64, 4 << 20
NUM_NAMED = 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SyntheticSpec:
    """How many landscapes to make up, and from which seed."""

    num_train: int
    num_validation: int
    num_test: int
    seed: int


@dataclass(frozen=True)
class Pictures:
    """One split, decoded: N pictures of side S.

    Attributes:
        pixels: [N, S, S, 3], memory-mapped, read-only.
        holes: [N, 4] each picture's own hole at S, and
        crops: [N, 2] its local window.
        sources: where each was: a path in the source, or an index.
    """

    pixels: NDArray[np.uint8]
    holes: NDArray[np.int32]
    crops: NDArray[np.int32]
    sources: Sequence[str]

    def __len__(self) -> int:
        return len(self.pixels)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The pictures of `epoch` (from 1) in the order in which they are trained on."""
        return holes.epoch_order(len(self), seed, epoch)

    def take(self, chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The pixels [n, S, S, 3] of some of them."""
        return self.pixels[chosen]

    def place(self, index: int) -> str:
        """Where a picture was."""
        return str(self.sources[index])


def open_pictures(
    path: str | None,
    spec: HoleSpec,
    *,
    cache_dir: Path | None,
    max_bad_fraction: float,
    synthetic: SyntheticSpec,
    show_progress: bool,
    splits: Sequence[Split] = SPLITS,
) -> dict[Split, Pictures]:
    """The splits of the source at `path` (see `photos.find`), or made-up landscapes, at `spec.image_size`.

    The first process to come decodes; others that want the same wait for it. Bad pictures are left out and named once,
    in the log and in the entry's `bad.txt`. A picture's hole and window are the source's own where it has such columns
    (scaled), else a function of the picture's key.

    Args:
        cache_dir: where decoded pictures are kept; None: $INPAINT_CACHE, else ~/.cache/inpaint.
        max_bad_fraction: how many of all pictures may be bad.
        splits: which of them; all but `train` where that is streamed.

    Raises:
        InpaintError: no such source, an empty split, too many bad pictures, no room or no permission in the cache.
    """
    if path is None:
        recipe = _synthetic_recipe(synthetic, spec.image_size)
    else:
        recipe = _photo_recipe(path, spec, "train" not in splits, show_progress)
    entry = cache_folder(cache_dir) / f"{recipe.fingerprint}-{spec.image_size}px-v{VERSION}"
    build_once(entry, lambda folder: _fill(folder, entry, recipe, spec.image_size, max_bad_fraction, show_progress))
    return _open(entry, recipe.name, splits, spec, max_bad_fraction)


# --- What there is to decode ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Supply:
    """One split before decoding; `decode` may be called from several threads."""

    num: int
    decode: Callable[[range], Decoded]


@dataclass(frozen=True)
class _Recipe:
    """How to fill an entry: `read` takes a folder for `read_bytes` of scratch files."""

    name: str
    fingerprint: str
    read: Callable[[Path], Mapping[Split, _Supply]]
    read_bytes: int = 0
    bad: tuple[str, ...] = ()


def _photo_recipe(path: str, spec: HoleSpec, only_held_out: bool, show_progress: bool) -> _Recipe:
    from inpaint.data import photos
    from inpaint.data.stream import find_shards

    source = find_shards(path).held_out(show_progress) if only_held_out else photos.find(path, show_progress)

    def read(scratch: Path) -> dict[Split, _Supply]:
        return {
            split: _Supply(len(its), partial(decode_photos, its, spec.image_size))
            for split, its in source.read(scratch).items()
        }

    bad = tuple(f"{name}: {why}" for name, why in source.unusable)
    return _Recipe(path, source.fingerprint, read, source.read_bytes, bad)


def _synthetic_recipe(spec: SyntheticSpec, size: int) -> _Recipe:
    from inpaint.data import synthetic

    def decode(start: int, rows: range) -> Decoded:
        indices = np.arange(start + rows.start, start + rows.stop)
        names = [str(index) for index in indices]
        return Decoded(synthetic.render(spec.seed, indices, size), names, names)

    nums: dict[Split, int] = {"train": spec.num_train, "validation": spec.num_validation, "test": spec.num_test}
    supplies = {split: _Supply(num, partial(decode, SYNTHETIC_START[split])) for split, num in nums.items()}
    # Other code may draw other pictures, so the code is part of the name.
    code = hashlib.blake2b(Path(synthetic.__file__).read_bytes(), digest_size=6).hexdigest()
    counts = "-".join(str(num) for num in nums.values())
    return _Recipe("the made-up landscapes", f"synthetic-{spec.seed}-{counts}-{code}", lambda _: supplies)


# --- Writing an entry -----------------------------------------------------------------------------------------------


def _fill(folder: Path, entry: Path, recipe: _Recipe, size: int, max_bad_fraction: float, show_progress: bool) -> None:
    """Decodes all splits into `folder`, which will be called `entry`."""
    from tqdm import tqdm

    check_room(entry.parent, recipe.read_bytes)
    supplies = recipe.read(folder / "scratch")
    check_room(entry.parent, sum(supply.num for supply in supplies.values()) * size * size * 3)
    for split, supply in supplies.items():
        _refuse_empty(recipe.name, split, supply.num)
    bad, num_seen = list(recipe.bad), len(recipe.bad)
    total = num_seen + sum(supply.num for supply in supplies.values())
    with ThreadPoolExecutor(_num_processors(), thread_name_prefix="decode") as pool:
        for split, supply in supplies.items():
            parts: list[Decoded] = []
            bar = tqdm(total=supply.num, desc=f"decoding {split}", unit="picture", disable=not show_progress)
            with bar, durable(folder / f"{split}.npy") as file:
                _write_header(file, supply.num, size)
                for part in _decode_in_order(supply, size, pool):
                    file.write(part.pixels.data)
                    parts.append(replace(part, pixels=part.pixels[:0].copy()))
                    bad.extend(part.bad)
                    num_seen += len(part.sources) + len(part.bad)
                    bar.update(len(part.sources) + len(part.bad))
                    _refuse_too_many(recipe.name, bad, num_seen, total, max_bad_fraction)
                num_kept = sum(len(part.sources) for part in parts)
                _write_header(file, num_kept, size)
            _refuse_empty(recipe.name, split, num_kept)
            _write_table(folder / f"{split}.arrow", parts)
    shutil.rmtree(folder / "scratch", ignore_errors=True)
    with durable(folder / "entry.json") as file:
        file.write(json.dumps({"source": recipe.name, "num_pictures": total, "bad": bad}).encode())
    with durable(folder / "bad.txt") as file:
        file.write("".join(f"{line}\n" for line in bad).encode())
    if bad:
        shown = "".join(f"\n  {line}" for line in bad[:NUM_NAMED])
        more = f"\n  and {len(bad) - NUM_NAMED} more" if len(bad) > NUM_NAMED else ""
        log.warning("%d of %d pictures are left out (%s):%s%s", len(bad), total, entry / "bad.txt", shown, more)


def _num_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decode_in_order(supply: _Supply, size: int, pool: ThreadPoolExecutor) -> Iterator[Decoded]:
    """Decodes on all processors with a few parts ahead, so that memory does not grow with the split."""
    step = max(1, min(TASK_PICTURES, TASK_BYTES // (size * size * 3)))
    tasks = (range(start, min(start + step, supply.num)) for start in range(0, supply.num, step))
    ahead = deque(pool.submit(supply.decode, task) for task in islice(tasks, 2 * _num_processors()))
    while ahead:
        part = ahead.popleft().result()
        ahead.extend(pool.submit(supply.decode, task) for task in islice(tasks, 1))
        yield part


def _write_header(file: BinaryIO, num: int, size: int) -> None:
    """At the start of the file. Its length does not depend on `num`: numpy leaves room for the first axis to grow."""
    file.seek(0)
    header = {"descr": "|u1", "fortran_order": False, "shape": (num, size, size, 3)}
    np.lib.format.write_array_header_1_0(file, header)


def _write_table(path: Path, parts: Sequence[Decoded]) -> None:
    import pyarrow

    table = table_of(parts)
    with durable(path) as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _refuse_empty(name: str, split: Split, num: int) -> None:
    if num == 0:
        raise InpaintError(
            f"the {split} split of {name} is empty: a source without splits is parted 85/10/5 and needs enough "
            "pictures for all three (100 do); add some, or give it folders train/, validation/ and test/"
        )


def _refuse_too_many(name: str, bad: Sequence[str], num_seen: int, total: int, max_bad_fraction: float) -> None:
    if len(bad) > max_bad_fraction * total:
        seen = f"{total}" if num_seen == total else f"first {num_seen} (of {total})"
        raise InpaintError(
            f"{len(bad)} of the {seen} pictures of {name} cannot be used, more than data.max_bad_fraction = "
            f"{max_bad_fraction:g} allows; the first are {'; '.join(bad[:3])}. Mend or remove them, or allow more"
        )


# --- Reading an entry -----------------------------------------------------------------------------------------------


class _Strings(Sequence[str]):
    """A memory-mapped column of text, so that millions of names cost a process nothing."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        found = self._column[index]
        return found.to_pylist() if isinstance(index, slice) else found.as_py()


def _open(
    entry: Path, name: str, splits: Sequence[Split], spec: HoleSpec, max_bad_fraction: float
) -> dict[Split, Pictures]:
    try:
        facts = json.loads((entry / "entry.json").read_bytes())
        pictures = {split: _open_split(entry, split, spec) for split in splits}
    except (OSError, ValueError, KeyError) as error:
        raise InpaintError(f"the decoded pictures in {entry} are damaged ({error}): delete that folder") from error
    _refuse_too_many(name, facts["bad"], facts["num_pictures"], facts["num_pictures"], max_bad_fraction)
    return pictures


def _open_split(entry: Path, split: Split, spec: HoleSpec) -> Pictures:
    import pyarrow

    pixels = np.load(entry / f"{split}.npy", mmap_mode="r")
    table = pyarrow.ipc.open_file(pyarrow.memory_map(str(entry / f"{split}.arrow"))).read_all()
    holes, crops = coordinates_at(table, spec)
    return Pictures(pixels, holes, crops, _Strings(table["source"]))
