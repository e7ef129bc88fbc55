"""Trackers have each point of a resumed run once, and cost a warning where they fail."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import LAST, assert_same_end
from stopping import killed

from inpaint.training.launch import main


@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_has_each_point_of_a_resumed_run_once(
    kind: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the eleventh step and, when it was resumed from the ninth, at the twelfth."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip(kind, reason=f"{kind}, a tracker of the extras, is not installed: pip install it")
    run = tmp_path / "run"
    arguments = ["--config", str(config), "--run-dir", str(run), "--training.tracker", kind]
    for number in (11, 3):  # counted from each resume
        killed(number, *arguments)
    assert main(arguments) == 0
    points = POINTS[kind](run)
    assert points["output/batch_std"] == points["time/images_per_s"] == list(range(1, LAST + 1))
    assert points["evaluation/hole_psnr"] == points["samples"] == [LAST // 2, LAST]


def tensorboard_points(run: Path) -> dict[str, list[int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(run / "tensorboard")).Reload()
    points = {name: [event.step for event in shown.Scalars(name)] for name in shown.Tags()["scalars"]}
    return points | {name: [event.step for event in shown.Images(name)] for name in shown.Tags()["images"]}


def wandb_points(run: Path) -> dict[str, list[int]]:
    from wandb.proto.wandb_internal_pb2 import Record

    points: dict[str, list[int]] = {}
    for path in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for data in leveldb_records(path.read_bytes()):
            items = {"/".join(item.nested_key) or item.key: item for item in Record.FromString(data).history.item}
            for name in items:
                points.setdefault(name.removesuffix("/count"), []).append(int(items["_step"].value_json))
    return points


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """What W&B writes: blocks of 32 KiB after 7 bytes of its own, of pieces (checksum, length, kind)."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole record, or its last piece
            yield whole
            whole = b""


def trackio_points(run: Path) -> dict[str, list[int]]:
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("inpaint")
    points: dict[str, list[int]] = {}
    for entry in SQLiteStorage.get_logs("inpaint", name):
        for key in entry:
            points.setdefault(key, []).append(entry["step"])
    return points


POINTS = {"tensorboard": tensorboard_points, "wandb": wandb_points, "trackio": trackio_points}


@pytest.mark.parametrize("method", ["start", "log"])
def test_a_tracker_that_fails_costs_one_warning(
    method: str, config: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard, a tracker of the extras, is not installed: pip install it")
    from accelerate.tracking import TensorBoardTracker

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no more\nfigures, please")

    monkeypatch.setattr(TensorBoardTracker, method, fail)
    run = tmp_path / "run"
    assert main(["--config", str(config), "--run-dir", str(run), "--training.tracker", "tensorboard"]) == 0
    err = capsys.readouterr().err
    assert err.count("tensorboard takes no more figures (RuntimeError: no more figures, please); training goes on") == 1
    assert_same_end(run, straight, LAST)


def test_a_tracker_that_is_not_installed_is_said_before_anything_is_begun(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("inpaint.training.tracking.find_spec", lambda name: None)
    run = tmp_path / "run"
    assert main(["--config", str(config), "--run-dir", str(run), "--training.tracker", "trackio"]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("inpaint: "))
    assert "training.tracker = trackio" in line and "pip install 'inpaint[trackio]'" in line
    assert not run.exists()
