"""Owns what a reader of a prepared dataset sees first: its card, README.md, and an image like the paper's Figure 1."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from inpaint.files import write_atomically
from inpaint.holes.spec import HoleSpec
from inpaint.prepare.chunks import REASONS
from inpaint.prepare.people import PeopleFilter
from inpaint.prepare.plan import Plan
from inpaint.prepare.shards import features, shard_paths
from inpaint.sources.keys import KEY_RULE, SPLITS, Split

FIGURE = "figure.png"
FIGURE_ROWS, FIGURE_GAP_PX, FIGURE_SCALE = 4, 4, 2
SIZE_CATEGORIES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "n>10M")

PLACES365_TERMS = "http://places2.csail.mit.edu/download.html"
PAPER_BIBTEX = """\
@techreport{kovacs2020landscape,
  title       = {Landscape image inpainting using generative adversarial networks},
  author      = {Kovács, Richárd and Dulácska, Mátyás and Peőcz, Krisztián},
  institution = {Budapest University of Technology and Economics},
  year        = {2020}
}
"""
PLACES365_BIBTEX = """
@article{zhou2018places,
  title   = {Places: A 10 Million Image Database for Scene Recognition},
  author  = {Zhou, Bolei and Lapedriza, Agata and Khosla, Aditya and Oliva, Aude and Torralba, Antonio},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume  = {40},
  number  = {6},
  pages   = {1452--1464},
  year    = {2018}
}
"""
PLACES365_NOTE = """\
The images come from Places365-Standard (Zhou et al., "Places: A 10 million Image Database for Scene Recognition",
IEEE TPAMI 2018, http://places2.csail.mit.edu). Its authors hold no copyright of the images: they give them out for
non-commercial research and education only, and ask to be cited. Who publishes or uses this dataset is bound by that.
"""
OTHER_NOTE = """\
The images keep the licences of their source; preparing them changes nothing about that. Look the terms up before
publishing.
"""


def write_card(
    plan: Plan,
    out: Path,
    size: int,
    people: PeopleFilter,
    hub_id: str | None,
    is_places365: bool,
    own_splits: Collection[Split],
) -> None:
    """Writes `figure.png` and `README.md`, whose header tells `load_dataset` where the splits are."""
    from huggingface_hub import DatasetCardData

    figure = io.BytesIO()
    Image.fromarray(figure_pixels(out, size)).save(figure, "png")
    write_atomically(out / FIGURE, figure.getvalue())
    counts, spec = plan.counts(), HoleSpec.scaled(size)
    by_class = np.zeros((len(plan.labels), len(REASONS)), np.int64)
    np.add.at(by_class, (plan.label, plan.reason), 1)
    origin = "Places365-Standard" if is_places365 else f"the dataset `{hub_id}`" if hub_id else "a folder"
    data = DatasetCardData(
        pretty_name=f"Landscapes with holes, {size}x{size}",
        license="other",
        license_name="places365" if is_places365 else "of-the-source",
        license_link=PLACES365_TERMS if is_places365 else hub_id and f"https://huggingface.co/datasets/{hub_id}",
        task_categories=["image-to-image"],
        tags=["image-inpainting", "landscapes"],
        # The Hub's own name for how many rows there are.
        size_categories=[SIZE_CATEGORIES[bisect_right([10**power for power in range(3, 8)], counts["kept"])]],
        source_datasets=[hub_id] if hub_id else None,
        inpaint_key_rule=KEY_RULE,
        configs=[
            {
                "config_name": "default",
                # `datasets` knows a folder it has read before by its name and this header, not by what lies in it.
                "description": f"content {plan.fingerprint}",
                "data_files": [
                    {"split": split, "path": f"data/{split}-*.parquet"} for split in SPLITS if len(plan.order[split])
                ],
            }
        ],
    )
    _info(plan).to_dataset_card_data(data)
    text = f"""---
{data.to_yaml()}
---

# Landscapes with holes, {size}x{size}

{counts["kept"]} photographs from {origin} for training networks that fill holes. Made by
`inpaint prepare`.

![original, what is to be filled, and the local window]({FIGURE})

From left to right: the image, the image with its hole, what the local window cuts out around it.

## Loading

```python
from datasets import load_dataset

dataset = load_dataset("DIR_OR_ID")  # this folder, or its id on the Hub; also with streaming=True
image, hole = dataset["train"][0]["image"], dataset["train"][0]["hole"]
```

With pandas, `pandas.read_parquet("DIR/data")` reads all splits of a folder, and
`pandas.concat(map(pandas.read_parquet, glob.glob("DIR/data/train-*.parquet")))` one of them; `image` then holds the
PNG's bytes.

## Columns

| column | what it is |
| --- | --- |
| `image` | RGB, {size}x{size}, stored as PNG: at this size a JPEG's blocks would be learned with the image |
| `label` | the class ({plan.num_labels} of them) |
| `source` | the path in the original |
| `hole` | [x, y, width, height] in pixels; {spec.min_px} to {spec.max_px} px a side |
| `crop` | [x, y] of the {spec.window_px}x{spec.window_px} local window, which contains the hole |
| `person_score` | the person detector's highest score, 0 to 1; empty without a filter |

`holes.csv` holds the same coordinates, `dropped.csv` every image that was left out and why, `alike.csv` those that
are like one another.

## How it was made

Each image was cropped to its centred square and downsampled by area. An image's hole and window follow from a
hash of `<class>/<file name>` (rule {KEY_RULE} of keys), and {_say_splits(own_splits)}

Person filter: {people.describe()}.

Left out as duplicates are copies of an image that is kept: the same, saved again or resized; `dropped.csv` says which.
Images that are alike, since one was cropped (up to a tenth at each side), brightened, mirrored or given a border, or
since the camera hardly moved, are all kept and in one split, that of their first, unless the source had splits of its
own: {len(plan.alike())} images, listed in `alike.csv`; {plan.num_straddling()} of them are in another split than what
they are like.

| split | images |
| --- | ---: |
{_table((split, len(plan.order[split])) for split in SPLITS)}

| reason | images |
| --- | ---: |
{_table((reason, counts[reason]) for reason in REASONS)}

| class | {" | ".join(REASONS)} |
| --- |{" ---: |" * len(REASONS)}
{_table((name, *row) for name, row in zip(plan.labels, by_class, strict=True))}

## Licence

{PLACES365_NOTE if is_places365 else OTHER_NOTE}
## Citation

```bibtex
{PAPER_BIBTEX}{PLACES365_BIBTEX if is_places365 else ""}```
"""
    write_atomically(out / "README.md", text.encode())


def _say_splits(own_splits: Collection[Split]) -> str:
    if not own_splits:
        return (
            "so does its split: about 85% train, 10% validation and 5% test. Images\nadded later move only those "
            "that are like them."
        )
    missing = " and ".join(split for split in SPLITS if split not in own_splits)
    taken = f"; {missing} is taken out of train by that hash" if missing else ""
    return f"the splits of the source are kept\n({', '.join(split for split in SPLITS if split in own_splits)}{taken})."


def _info(plan: Plan) -> Any:
    """What `datasets` checks when it has read all shards: how many images there are."""
    from datasets import DatasetInfo, SplitDict, SplitInfo
    from datasets.info import DatasetInfosDict

    splits = SplitDict()
    for split, images in plan.order.items():
        if num := len(images):
            splits.add(SplitInfo(split, num_bytes=int(plan.num_bytes[images].sum()), num_examples=num))
    num_bytes = sum(split.num_bytes for split in splits.values())
    sizes = {"download_size": num_bytes, "dataset_size": num_bytes}
    return DatasetInfosDict(default=DatasetInfo(features=features(plan.kept_labels), splits=splits, **sizes))


def figure_pixels(out: Path, size: int) -> NDArray[np.uint8]:
    """Some images of the test split (or else another): whole, with the hole, and what the window cuts out. RGB."""
    window = HoleSpec.scaled(size).window_px
    last = pq.ParquetFile(shard_paths(out)[-1])
    rows = []
    for row in next(last.iter_batches(batch_size=FIGURE_ROWS, columns=["image", "hole", "crop"])).to_pylist():
        image = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        (x, y, width, height), (left, top) = row["hole"], row["crop"]
        masked = image.copy()
        masked[y : y + height, x : x + width] = 0
        local = np.full_like(image, 255)
        start = (size - window) // 2
        local[start : start + window, start : start + window] = image[top : top + window, left : left + window]
        gap = np.full((size, FIGURE_GAP_PX, 3), 255, np.uint8)
        rows.append(np.concatenate([image, gap, masked, gap, local], axis=1))
        rows.append(np.full((FIGURE_GAP_PX, rows[-1].shape[1], 3), 255, np.uint8))
    return np.concatenate(rows[:-1]).repeat(FIGURE_SCALE, axis=0).repeat(FIGURE_SCALE, axis=1)


def _table(rows: Iterator[tuple[Any, ...]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
