"""`inpaint prepare --check` names what is wrong with a dataset; pushed to the Hub, it comes back the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hub_server import LoopbackHub
from preparing import COUNTS, options

from inpaint.cli import main
from inpaint.errors import InpaintError
from inpaint.prepare.run import prepare
from inpaint.sources.keys import SPLITS


def damage_shard(out: Path) -> None:
    shard = next((out / "data").glob("train-*"))
    shard.write_bytes(shard.read_bytes()[:-100])


def damage_split(out: Path) -> None:
    next((out / "data").glob("test-*")).unlink()
    text = (out / "README.md").read_text()
    (out / "README.md").write_text(text.replace("  - split: test\n    path: data/test-*.parquet\n", ""))


def damage_count(out: Path) -> None:
    shard = next((out / "data").glob("train-*"))
    shard.rename(shard.with_name("train-00000-of-00002.parquet"))


def damage_column(out: Path, name: str, value: object) -> None:
    shard = next((out / "data").glob("validation-*"))
    table = pq.read_table(shard)
    rows = table.to_pylist()
    rows[0][name] = value if value is not None else pq.read_table(next((out / "data").glob("train-*")))[name][0].as_py()
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), shard)


DAMAGES = {
    "damaged or cut short; delete it": damage_shard,
    "train has only 1 of its 2 shards": damage_count,
    "1 images of validation can't be decoded": lambda out: damage_column(out, "image", {"bytes": b"x", "path": None}),
    "1 images of validation are in another split too": lambda out: damage_column(out, "image", None),
    "1 holes of validation do not lie in their 28 px window": lambda out: damage_column(out, "hole", [60, 0, 20, 20]),
    "disagrees with the columns": lambda out: damage_column(out, "hole", None),
}


@pytest.mark.parametrize("fault", DAMAGES)
def test_check_names_what_is_wrong(
    fault: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(dataset, tmp_path / "out"))
    DAMAGES[fault](out)
    assert main(["prepare", "--check", str(out)]) == 1
    assert fault in capsys.readouterr().out


def test_pushed_it_loads_by_its_id_and_can_be_a_source(
    places: Path, dataset: Path, tmp_path: Path, datasets_hub: LoopbackHub, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--source", str(places), "--out", str(tmp_path / "out"), "--workers", "1", "--push-to", "alice/places"]
    assert main(["prepare", *flags]) == 0, capsys.readouterr().err
    local, remote = load_dataset(str(dataset)), load_dataset("alice/places")
    for split in SPLITS:
        assert remote[split]["source"][:] == local[split]["source"][:]
        streamed = load_dataset("alice/places", split=split, streaming=True)
        assert [row["hole"] for row in streamed] == local[split]["hole"][:]
    assert main(["prepare", "--check", "alice/places"]) == 0
    again = prepare(options("alice/places", tmp_path / "again"))
    assert again is not None and again.counts()["kept"] == COUNTS["kept"]
    holes = [(path / "holes.csv").read_text().splitlines() for path in (dataset, tmp_path / "again")]
    assert sorted(holes[0]) == sorted(holes[1])


def test_an_id_that_nobody_has_is_one_line(datasets_hub: LoopbackHub, tmp_path: Path) -> None:
    with pytest.raises(InpaintError, match="alice/nothing is no file or folder here, and the Hub does not give it: "):
        prepare(options("alice/nothing", tmp_path / "out"))
