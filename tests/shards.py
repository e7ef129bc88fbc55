"""A prepared dataset in parquet shards of many row groups, with holes of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature

from inpaint.data.draws import stored_holes
from inpaint.data.synthetic.landscapes import render
from inpaint.holes.spec import HoleSpec
from inpaint.sources.keys import Split, key_hash

SIZE, ROWS = 16, 5
NUMS: dict[Split, int] = {"train": 103, "validation": 9, "test": 7}
FEATURES = Features(
    {
        "image": ImageFeature(),
        "label": ClassLabel(names=["coast"]),
        "source": Value("string"),
        "hole": List(Value("int32"), length=4),
        "crop": List(Value("int32"), length=2),
    }
)


def write_shards(root: Path, size: int = SIZE, nums: dict[Split, int] = NUMS, rows: int = ROWS) -> Path:
    """A prepared dataset, its train split in three shards of many row groups."""
    (root / "data").mkdir(parents=True)
    for start, (split, num) in enumerate(nums.items()):
        names = sorted((f"coast/{split}{index}.png" for index in range(num)), key=key_hash)  # as `prepare` orders them
        hashes = np.array([key_hash(name) for name in names], np.uint64)
        holes, crops = stored_holes(hashes[::-1].copy(), HoleSpec.scaled(size))  # not those that the key would give
        pixels = list(render(start, np.arange(num), size))
        columns = {"image": pixels, "label": [0] * num, "source": names, "hole": list(holes), "crop": list(crops)}
        whole = Dataset.from_dict(columns, features=FEATURES)
        num_shards = 3 if split == "train" else 1
        for shard in range(num_shards):
            part = whole.shard(num_shards, shard, contiguous=True)
            table = part.with_format("arrow")[:].cast(FEATURES.arrow_schema)
            pq.write_table(
                table, root / "data" / f"{split}-{shard:05d}-of-{num_shards:05d}.parquet", row_group_size=rows
            )
    return root
