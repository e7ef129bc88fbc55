"""Owns the decoded images: each split of a source, decoded once into a memory map that all processes share.

After that a batch is one gather of rows. The name of a cache entry says what is in it: the source's fingerprint, the
size, and the version of the decoding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inpaint.data import draws
from inpaint.data.cache import StoppedError, build_once, cache_folder
from inpaint.data.decode import COORDINATES, coordinates_at
from inpaint.data.filling import fill, refuse_too_many
from inpaint.data.helpers import Helpers, help_with
from inpaint.data.reader import Images, Reader, gather_ahead
from inpaint.data.recipes import PhotoRecipe, Recipe, SyntheticRecipe, SyntheticSpec
from inpaint.errors import InpaintError, UsageError
from inpaint.holes import rectangle
from inpaint.holes.spec import HoleSpec
from inpaint.processes import num_here
from inpaint.sources.keys import SPLITS, Split, split_for
from inpaint.sources.opening import open_source

# Raised when the same source would become another entry: other pixels, keys (`KEY_RULE`) or files.
VERSION = 3
# Images copied to the device at once.
_CHUNK = 4096

# Calls something in one of several processes and gives all of them what it gave.
Once = Callable[[Callable[[], str]], str]


@dataclass(frozen=True)
class DecodedSplit:
    """One split, decoded: N images of side S.

    Attributes:
        pixels: [N, S, S, 3], memory-mapped, read-only.
        holes: [N, 4] each image's own rectangle at S, and
        windows: [N, 2] its local window.
        sources: where each was, a path in the source or an index: a column that is memory-mapped, so that millions of
            names cost a process nothing.
    """

    pixels: NDArray[np.uint8]
    holes: NDArray[np.int32]
    windows: NDArray[np.int32]
    sources: Sequence[Any]

    def __len__(self) -> int:
        return len(self.pixels)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        return draws.epoch_order(len(self), seed, epoch)

    def take(self, chosen: NDArray[np.int64], pin: bool = False) -> Images:
        return Images.of(self.pixels[chosen], self.holes[chosen], self.windows[chosen], pin)

    def place(self, index: int) -> str:
        return str(self.sources[index])

    def masks(self, chosen: NDArray[np.int64]) -> Tensor:
        """The masks float32 [n, 1, S, S] of some images' own holes, 1 in the hole."""
        return rectangle.rasterise(torch.from_numpy(self.holes[chosen]), self.pixels.shape[1]).float()

    def reader(self, device: torch.device, device_cache: str) -> Reader:
        resident = _resident(self.pixels, device, device_cache)
        if resident is None:
            pin = device.type == "cuda"
            return Reader(torch.device("cpu"), partial(gather_ahead, lambda chosen: self.take(chosen.numpy(), pin)))
        everything = Images(resident, torch.from_numpy(np.concatenate([self.holes, self.windows], axis=1)).to(device))
        take = lambda chosen: Images(*(tensor.index_select(0, chosen) for tensor in everything))  # noqa: E731
        return Reader(device, partial(gather_ahead, take))


def open_images(
    path: str | None,
    spec: HoleSpec,
    *,
    cache_dir: Path | None,
    max_bad_fraction: float,
    synthetic: SyntheticSpec,
    show_progress: bool,
    splits: Sequence[Split] = SPLITS,
    once_a_job: Once = lambda act: act(),
    once_a_machine: Once = lambda act: act(),
    wants_stop: Callable[[], bool] = lambda: False,
) -> dict[Split, DecodedSplit]:
    """The splits of the source at `path` (see `open_source`), or synthetic landscapes, at `spec.image_size`.

    The first process to come decodes, and those of its run on the same machine help it; others that want the same wait
    for it. Bad images are left out and named once, in the log and in the entry's `bad.txt`. An image's hole and window
    are the source's own where it has such columns (scaled), else a function of the image's key.

    Args:
        cache_dir: where decoded images are kept; None: see `cache_folder`.
        max_bad_fraction: how many of all images may be bad.
        splits: which of them; all but `train` where that is streamed.
        once_a_job, once_a_machine: how one of several processes does something for all; by default the only one does.
        wants_stop: asked now and then by who decodes for its machine, or waits for another that does.

    Raises:
        StoppedError: `wants_stop` said so, in all processes of the machine; what is decoded is kept.
        InpaintError: no such source, an empty split, too many bad images, no room or no permission in the cache.
    """
    recipe: Recipe = SyntheticRecipe(synthetic, spec.image_size)
    if path is not None:
        recipe = PhotoRecipe(path, None if "train" in splits else splits, spec.image_size)
    name = once_a_job(lambda: f"{recipe.fingerprint()}-{spec.image_size}px-v{VERSION}")
    entry = cache_folder(cache_dir) / name

    helpers = Helpers()

    def build() -> str:
        try:
            build_once(
                entry,
                lambda folder: fill(
                    folder, entry, recipe, spec.image_size, max_bad_fraction, show_progress, helpers.do, wants_stop
                ),
                wants_stop,
            )
        except StoppedError:
            return "stopped"
        finally:
            helpers.close()
        return ""

    address = once_a_machine(lambda: "" if entry.is_dir() or num_here() == 1 else helpers.listen())
    if address != helpers.address:
        help_with(address)
    if once_a_machine(build):
        raise StoppedError
    try:
        facts = json.loads((entry / "entry.json").read_bytes())
        images = {split: _open_split(entry, split, spec) for split in splits}
    except (OSError, ValueError, KeyError) as error:
        raise InpaintError(f"the decoded images in {entry} are damaged ({error}): delete that folder") from error
    refuse_too_many(recipe.name, facts["bad"], facts["num_pictures"], facts["num_pictures"], max_bad_fraction)
    return images


def num_training_images(path: str) -> int:
    """How many images the training split of a source has, before any turns out to be bad."""
    source = open_source(path)
    own_splits = source.survey().own_splits
    entries = source.entries(with_data=False)
    return sum(split_for(entry.key_hash, entry.split, own_splits) == "train" for entry in entries)


def _open_split(entry: Path, split: Split, spec: HoleSpec) -> DecodedSplit:
    import pyarrow

    pixels = np.load(entry / f"{split}.npy", mmap_mode="r")
    table = pyarrow.ipc.open_file(pyarrow.memory_map(str(entry / f"{split}.arrow"))).read_all()
    # A column's own `to_numpy` would import pandas.
    numbers: dict[str, Any] = {
        name: np.from_dlpack(table[name].combine_chunks()) for name in table.column_names if name != "source"
    }
    stored = np.stack([numbers[name] for name in COORDINATES], axis=1) if COORDINATES[0] in numbers else None
    return DecodedSplit(pixels, *coordinates_at(numbers["key_hash"], stored, spec), table["source"])


def _resident(pixels: NDArray[np.uint8], device: torch.device, wish: str) -> Tensor | None:
    """The whole split in the device's memory, as `data.device_cache` has it, or None."""
    if wish == "off" or (wish == "auto" and device.type != "cuda"):
        return None
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if wish == "auto" and pixels.nbytes > free / 4:
            return None
        if pixels.nbytes > free:
            raise UsageError(
                f"data.device_cache = on: the images take {pixels.nbytes / 2**30:.1f} GiB, {free / 2**30:.1f} GiB of "
                "the GPU are free; use auto or off"
            )
    resident = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(pixels), _CHUNK):
        resident[start : start + _CHUNK] = torch.from_numpy(np.array(pixels[start : start + _CHUNK]))
    return resident
