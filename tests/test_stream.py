"""Training from shards that are read while it goes on: nothing lost, nothing seen twice, the same on any machine."""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hub_server import LoopbackHub
from hypothesis import given, settings
from hypothesis import strategies as st
from running import differences, tiny_config, train, weights
from shards import NUMS, ROWS, SIZE, write_shards

from inpaint.config import DataConfig
from inpaint.data import stream as streams
from inpaint.data.batches import Batch, BatchLoader
from inpaint.data.decoded import DecodedSplit, SyntheticSpec, open_images
from inpaint.data.stream import Stream, find_shards
from inpaint.errors import InpaintError
from inpaint.holes.spec import HoleSpec
from inpaint.sources.keys import Split
from inpaint.sources.tables import TableSource

BATCH = 12
SPEC = HoleSpec.scaled(SIZE)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards") / "data_set")


def stream_of(root: Path, window: int = 100, batch_size: int = BATCH, bad: float = 0.0) -> Stream:
    return Stream(find_shards(str(root)), SPEC, batch_size, window, bad)


def mapped(root: Path, cache: Path) -> DecodedSplit:
    synthetic = SyntheticSpec(1, 1, 1, 0)
    return open_images(str(root), SPEC, cache_dir=cache, max_bad_fraction=0, synthetic=synthetic, show_progress=False)[
        "train"
    ]


def config(**changes: Any) -> DataConfig:
    return DataConfig(image_size=SIZE, path="x", streaming=True, flip=True, **changes)


def batches_of(feed: BatchLoader, count: int, epoch: int = 1, position: int = 0) -> list[Batch]:
    batches = feed.batches(epoch, position)
    try:
        return list(islice(batches, count))
    finally:
        batches.close()


def assert_equal(one: Batch, other: Batch) -> None:
    for name, tensor in vars(one).items():
        assert torch.equal(tensor, getattr(other, name)), name


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([1, 6, 12, 32, 96]), st.integers(20, 500))
@settings(max_examples=60, deadline=None)
def test_an_epoch_shows_no_image_twice_and_moves_none_beyond_the_window(
    root: Path, seed: int, epoch: int, batch_size: int, window: int
) -> None:
    stream = stream_of(root, window, batch_size)
    order = stream.order(seed, epoch)
    assert len(order) == len(stream) // batch_size * batch_size
    assert len(set(order.tolist())) == len(order) and order.min() >= 0 and order.max() < len(stream)
    share, length = batch_size // stream.num_lanes, len(stream) // stream.num_lanes
    lanes = order.reshape(-1, stream.num_lanes, share).swapaxes(0, 1).reshape(stream.num_lanes, -1)
    for lane in lanes:
        blocks = stream._group_of(lane)
        first = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
        assert max(np.ptp(where) for where in first) < stream.mixed + 2 * ROWS + 1
    assert length * stream.num_lanes > len(stream) - stream.num_lanes


def test_all_images_come_over_the_epochs_and_their_order_changes(root: Path) -> None:
    stream = stream_of(root)
    orders = [stream.order(0, epoch).tolist() for epoch in range(1, 9)]
    assert set().union(*orders) == set(range(NUMS["train"]))
    assert len({tuple(order) for order in orders}) == 8
    stream = stream_of(root, 40, 1)
    mixed = stream.order(0, 1)
    stream.mixed = 0
    unmixed = stream.order(0, 1)
    neighbours = [np.abs(np.diff(order)) == 1 for order in (unmixed, mixed)]
    assert neighbours[0].mean() > 0.7 and neighbours[1].mean() < 0.2


@pytest.mark.parametrize("local_real", ["random", "hole"])
@pytest.mark.parametrize("holes", ["stored", "resampled"])
def test_what_is_streamed_is_what_a_memory_map_holds(root: Path, tmp_path: Path, holes: str, local_real: str) -> None:
    whole, settings_ = mapped(root, tmp_path), config(holes=holes, local_real=local_real)
    stream = stream_of(root)

    class Reordered(DecodedSplit):
        def order(self, seed: int, epoch: int) -> Any:
            return stream.order(seed, epoch)

    expected = BatchLoader(Reordered(**vars(whole)), settings_, 3, BATCH)
    streamed = BatchLoader(stream, settings_, 3, BATCH)
    assert streamed.steps_per_epoch == NUMS["train"] // BATCH == 8
    for one, other in zip(batches_of(streamed, 20), batches_of(expected, 20), strict=True):
        assert_equal(one, other)


def test_single_images_and_where_they_are(root: Path, tmp_path: Path) -> None:
    """What is said and saved of a batch that broke a run."""
    stream, chosen = stream_of(root), np.array([102, 0, 36, 36])
    for one, other in zip(stream.take(chosen), mapped(root, tmp_path).take(chosen), strict=True):
        assert torch.equal(one, other)
    assert stream.place(36).endswith("train-00001-of-00003.parquet, row group 0, row 1")


@pytest.mark.parametrize("world_size", [2, 3, 4, 12])
def test_processes_share_the_batches_of_one_read_their_lanes_and_decode_nothing_twice(
    root: Path, world_size: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read: list[int] = []
    decoded: list[int] = []
    plain, plain_row = Stream._read, Stream._decode_row
    monkeypatch.setattr(Stream, "_read", lambda self, block: read.append(block) or plain(self, block))
    monkeypatch.setattr(
        Stream, "_decode_row", lambda self, block, *rest: decoded.append(block) or plain_row(self, block, *rest)
    )
    stream = stream_of(root)
    assert stream.num_lanes == 4
    whole = batches_of(BatchLoader(stream, config(), 0, BATCH), 8)
    read_by_one = len(read)
    read.clear()
    decoded.clear()
    stream.warn_of_sharing(world_size)
    feeds = [BatchLoader(stream_of(root), config(), 0, BATCH, rank, world_size) for rank in range(world_size)]
    shares = [batches_of(feed, 8) for feed in feeds]
    for batch, *parts in zip(whole, *shares, strict=True):
        joined = [torch.cat(tensors) for tensors in zip(*(vars(part).values() for part in parts), strict=True)]
        assert_equal(Batch(*joined), batch)
    num_blocks = len(stream._places)
    ahead = 2 * stream.num_lanes  # of the next epoch, and blocks cut by a lane's end
    assert read_by_one <= num_blocks + ahead
    times = 3 if world_size == 12 else 1 if stream.num_lanes % world_size == 0 else 2
    assert len(read) <= times * num_blocks + world_size * ahead
    assert len(decoded) <= 8 * BATCH + streams.STEPS_DECODED * BATCH
    warned = "each row group is read by 3 processes; each would read its own with data.stream_window 240"
    assert (warned in caplog.text) == (world_size == 12)


@given(st.integers(0, 20))
@settings(max_examples=12, deadline=None)
def test_a_resume_from_anywhere_sees_what_would_have_come(root: Path, done: int) -> None:
    feed = BatchLoader(stream_of(root), config(), 1, BATCH)
    expected = batches_of(feed, done + 3)[done:]
    for batch, later in zip(batches_of(feed, 3, 1 + done // 8, done % 8), expected, strict=True):
        assert_equal(batch, later)


@pytest.fixture(scope="module")
def long_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    nums: dict[Split, int] = {"train": 600, "validation": 3, "test": 3}
    return write_shards(tmp_path_factory.mktemp("long") / "data_set", nums=nums)


@pytest.mark.parametrize(("window", "batch_size", "world_size"), [(20, 4, 1), (50, 1, 1), (100, 12, 2), (400, 32, 4)])
def test_all_processes_together_hold_no_more_than_the_window(
    long_root: Path, window: int, batch_size: int, world_size: int
) -> None:
    most = 0
    for rank in range(world_size):
        stream = stream_of(long_root, window, batch_size)
        assert stream.num_lanes >= world_size
        order = stream.order(0, 1).reshape(-1, world_size, batch_size // world_size)[:, rank]
        held = 0
        for _ in stream.follow(iter([torch.from_numpy(order)])):
            held = max(held, len(stream._read_ahead) * ROWS)
        assert not stream._read_ahead
        most += held
    assert window / 3 < most <= window


def test_a_window_too_small_for_the_row_groups_is_refused_with_the_figure(root: Path) -> None:
    message = r"stream_window is 19, but the row groups of .* hold up to 5 images .* must be 20 or more \([\d.]+ KiB"
    with pytest.raises(InpaintError, match=message):
        stream_of(root, window=19)
    assert stream_of(root, window=20).num_lanes == 1


def damage(root: Path, rows: range) -> Path:
    """The images of these rows of the first shard become rubbish."""
    path = root / "data" / "train-00000-of-00003.parquet"
    table = pq.read_table(path)
    cells = [
        {"bytes": b"x", "path": None} if row in rows else cell for row, cell in enumerate(table["image"].to_pylist())
    ]
    index = table.column_names.index("image")
    column = datasets.table.pa.array(cells, table.schema.field("image").type)
    pq.write_table(table.set_column(index, table.schema.field("image"), column), path, row_group_size=ROWS)
    return root


def test_bad_images_are_stood_in_for_and_named_and_too_many_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = damage(write_shards(tmp_path / "some"), range(1, 3))
    with caplog.at_level(logging.WARNING):
        first, again = (batches_of(BatchLoader(stream_of(root, bad=0.05), config(), 0, BATCH), 16) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert_equal(one, other)
    assert len({line for line in caplog.messages if "another stands for it: coast/train" in line}) == 2
    with pytest.raises(InpaintError, match=r"1 of the 103 images .* more than data.max_bad_fraction"):
        batches_of(BatchLoader(stream_of(root), config(), 0, BATCH), 16)
    root = damage(write_shards(tmp_path / "none"), range(ROWS))
    with pytest.raises(InpaintError, match="row group 0: not one image can be used"):
        batches_of(BatchLoader(stream_of(root, bad=1.0), config(), 0, BATCH), 16)


def test_what_cannot_be_streamed_is_one_line(root: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"x")
    with pytest.raises(InpaintError, match=r"reads parquet shards, and .* holds none"):
        find_shards(str(tmp_path / "photos"))
    partial = write_shards(tmp_path / "partial")
    next((partial / "data").glob("test-*")).unlink()
    with pytest.raises(InpaintError, match=r"has no split test, and data.streaming takes none out of another"):
        find_shards(str(partial))
    shard = partial / "data" / "train-00001-of-00003.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InpaintError, match=r"the parquet shard .*00001-of-00003.parquet cannot be read"):
        Stream(TableSource("x", {"train": [str(shard)]}, "x"), SPEC, BATCH, 100, 0)
    with pytest.raises(InpaintError, match="does not exist"):
        find_shards(str(tmp_path / "nowhere"))


STREAMED = {"data": {"streaming": True, "image_size": 32, "stream_window": 64}, "training": {"global_batch_size": 8}}


def test_training_from_the_hub_is_training_from_the_folder_streamed_or_not(hub: LoopbackHub, tmp_path: Path) -> None:
    """Bit for bit; in one process and two; and what is streamed never becomes a file."""
    from huggingface_hub import HfApi

    root = write_shards(tmp_path / "prepared", 32, {"train": 83, "validation": 8, "test": 8})
    api = HfApi(hub.endpoint, hub.token)
    api.create_repo("alice/places", repo_type="dataset")
    api.upload_folder(repo_id="alice/places", folder_path=root, repo_type="dataset")
    runs = {}
    for streaming in (True, False):
        for source in (str(root), "alice/places"):
            name = f"{streaming}-{source == 'alice/places'}"
            sections = {**STREAMED, "data": {**STREAMED["data"], "streaming": streaming, "path": source}}
            folder = tmp_path / name
            folder.mkdir()
            env = {**hub.environment(folder / "home"), "INPAINT_CACHE": str(folder / "cache")}
            trouble = hub.fault(r"resolve/.*/train-", method="GET", status=503, times=3)
            train("--config", tiny_config(folder, **sections), "--run-dir", folder / "run", env=env).ok()
            runs[name] = weights(folder / "run")
            assert bool(trouble.num_hit) == (source == "alice/places")
            hub.clear_faults()
    assert set(differences(runs["True-True"], runs["True-False"]).values()) == {0.0}
    assert set(differences(runs["False-True"], runs["False-False"]).values()) == {0.0}
    assert max(differences(runs["True-True"], runs["False-True"]).values()) > 0  # another order
    files = [path for path in (tmp_path / "True-True").rglob("*") if path.is_file()]
    assert files and not any("train" in path.name and path.suffix in (".arrow", ".npy", ".parquet") for path in files)
    shard = (root / "data" / "train-00000-of-00003.parquet").stat().st_size
    assert max(path.stat().st_size for path in files if "cache" in path.parts or "home" in path.parts) != shard


def test_streamed_in_float64_two_processes_agree_with_one(root: Path, tmp_path: Path) -> None:
    data = {"path": str(root), "streaming": True, "image_size": SIZE, "stream_window": 64}
    training = {"global_batch_size": 8, "precision": "float64", "epochs": 1, "max_steps": 8}
    config_ = tiny_config(tmp_path, data=data, training=training)
    env = {"INPAINT_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "home")}
    for processes in (1, 2):
        train("--config", config_, "--run-dir", tmp_path / str(processes), processes=processes, env=env).ok()
    apart = differences(weights(tmp_path / "1"), weights(tmp_path / "2"))
    assert max(apart.values()) < 1e-9
