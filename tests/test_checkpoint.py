"""A checkpoint is whole or not there: at every crash point, after every kind of damage, on a disk that fills up."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from crashing import Crash, CrashingDisk
from torch import Tensor

from inpaint.errors import InpaintError
from inpaint.files import human_size
from inpaint.training import checkpoint
from inpaint.training.checkpoint import BEST, MANIFEST, STATE, CheckpointStore, read_checkpoint

FILES = ("generator", "generator_ema", "discriminator", "optimizer_generator", "optimizer_discriminator")


def tensors(step: int) -> dict[str, dict[str, Tensor]]:
    return {name: {"weight": torch.full((3, 5), float(step)), "count": torch.tensor(step)} for name in FILES}


def store_with(root: Path, *steps: int, keep: int = 2, best: int | None = None) -> CheckpointStore:
    store = CheckpointStore(root, keep)
    for step in steps:
        store.save(step, tensors(step), {"step": step})
        store.wait()
        if step == best:
            store.set_best(step, {"hole_psnr": 20.0})
    assert store.take_failure() is None
    return store


def assert_sound(store: CheckpointStore, allowed: set[int]) -> int:
    """The newest sound checkpoint is one of `allowed`, with that step's values in every tensor."""
    checkpoint = store.newest_sound()
    assert checkpoint is not None
    step = checkpoint.state["step"]
    assert step in allowed
    for name in FILES:
        assert torch.equal(checkpoint.tensors[name]["weight"], torch.full((3, 5), float(step)))
        assert checkpoint.tensors[name]["count"] == step
    return step


def test_what_was_saved_is_read_back_with_its_types_and_listed_in_full(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    saved = {"generator": {"a": torch.randn(2, 3, dtype=torch.float64), "b": torch.tensor(7), "c": torch.randn(4)}}
    store.save(12, saved, {"step": 12, "skipped": [[1, 2]]})
    checkpoint = store.newest_sound()
    assert checkpoint is not None and checkpoint.path.name == "step_00000012"
    for name, tensor in saved["generator"].items():
        read = checkpoint.tensors["generator"][name]
        assert read.dtype == tensor.dtype and torch.equal(read, tensor)
    assert checkpoint.state["skipped"] == [[1, 2]]
    listed = json.loads((checkpoint.path / MANIFEST).read_text())["files"]
    assert set(listed) == {path.name for path in checkpoint.path.iterdir()} - {MANIFEST}


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    assert store_with(tmp_path, 10, 20, 30, 40, 50, keep=2, best=20).steps() == [20, 40, 50]


def test_a_save_is_copied_from_nothing_that_may_change_and_the_next_waits_for_it(tmp_path: Path) -> None:
    store = store_with(tmp_path, 10)
    writers = []
    for step in (20, 30):
        store.save(step, tensors(step), {"step": step})
        writers.append(sum(thread.name == "checkpoint" for thread in threading.enumerate()))
    assert max(writers) <= 1
    assert_sound(store, {30})


def crash_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int | None, number: int = 0
) -> CrashingDisk:
    """Save step 30 over 10 (the best) and 20, which is pruned, then name it the best; crash at a call."""
    root = tmp_path / f"at_{number}"
    store = store_with(root, 10, 20, keep=1, best=10)
    assert store.steps() == [10, 20]
    disk = CrashingDisk(root, crash_at)
    with monkeypatch.context() as patch:
        disk.install(patch)
        try:
            store._write(30, tensors(30), {"step": 30})
            store.set_best(30, {"hole_psnr": 21.0})
        except Crash:
            pass
    return disk


def test_every_crash_point_of_a_save_and_a_prune_leaves_a_run_that_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = crash_points(tmp_path, monkeypatch, None)
    assert set(whole.names) >= {"open", "write", "fsync", "rename", "unlink", "rmdir", "mkdir", "replace"}
    outcomes = []
    for number in range(1, whole.num_calls + 1):
        disk = crash_points(tmp_path, monkeypatch, number, number)
        survived = disk.surviving(tmp_path / f"lost_{number}")
        for root in (disk.root, survived):
            store = CheckpointStore(root, keep=1)
            found = assert_sound(store, {20, 30})
            best = store.best()
            assert best is not None and best["step"] in {10, 30}
            assert (root / f"step_{best['step']:08d}" / MANIFEST).is_file()
            # The run goes on: what the crash left behind is in nobody's way.
            store.save(40, tensors(40), {"step": 40})
            assert assert_sound(store, {40}) == 40
            assert not [path for path in root.iterdir() if path.name.startswith((".tmp-", ".trash-"))]
            outcomes.append(found)
    assert {20, 30} == set(outcomes)
    print(f"{2 * whole.num_calls} crash points")


def damage(path: Path, kind: str) -> None:
    data = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(data[:-7])
    elif kind == "emptied":
        path.write_bytes(b"")
    elif kind == "flipped":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif kind == "deleted":
        path.unlink()
    elif kind == "a folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("kind", ["truncated", "emptied", "flipped", "deleted", "a folder"])
@pytest.mark.parametrize("name", [*(f"{name}.safetensors" for name in FILES), STATE, MANIFEST])
def test_damage_is_named_set_aside_and_never_used(
    name: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_with(tmp_path, 10, 20)
    damage(tmp_path / "step_00000020" / name, kind)
    with caplog.at_level(logging.WARNING):
        assert_sound(store, {10})
    assert "step_00000020 is damaged" in caplog.text and "damaged-step_00000020" in caplog.text
    if not (name == MANIFEST and kind in ("emptied", "truncated", "flipped")):
        assert name in caplog.text
    assert (tmp_path / "damaged-step_00000020").is_dir()
    store.save(20, tensors(20), {"step": 20})
    assert_sound(store, {20})


def test_a_manifest_that_lists_too_little_or_lies_is_not_trusted(tmp_path: Path) -> None:
    for change in ({"files": []}, {"files": {"../../x": {"bytes": 1, "sha256": ""}}}, {"version": "1"}, {"files": {}}):
        store = store_with(tmp_path / str(len(str(change))), 10, 20)
        path = store.folder(20) / MANIFEST
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        assert_sound(store, {10})


def test_any_flipped_bit_of_a_manifest_is_found_and_the_checkpoint_before_it_used(tmp_path: Path) -> None:
    store = store_with(tmp_path, 10, 20)
    path = store.folder(20) / MANIFEST
    whole = path.read_bytes()
    assert b'"version": 1,' in whole
    used = []
    for place in range(0, len(whole), 3):
        for bit in (1, 2, 8):  # 2 turns format 1 into format 3
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            used.append(assert_sound(store, {10, 20}))
            for aside in tmp_path.glob("damaged-*"):
                aside.rename(store.folder(20))
    # Flipped in the name of its own hash it still vouches for all that is used.
    assert used.count(20) <= len("sha256") and used.count(10) > 500


def test_a_flipped_format_of_a_manifest_that_vouched_for_nothing_is_damage(tmp_path: Path) -> None:
    """As the first checkpoints were written."""
    store = store_with(tmp_path, 10, 20)
    for step, change in ((10, {}), (20, {"version": 3})):
        path = store.folder(step) / MANIFEST
        manifest = json.loads(path.read_text()) | change
        del manifest["sha256"]
        path.write_text(json.dumps(manifest))
    assert_sound(store, {10})


def test_if_every_checkpoint_is_damaged_nothing_begins_anew_unasked(tmp_path: Path) -> None:
    store = store_with(tmp_path, 10, 20)
    for step in (10, 20):
        damage(store.folder(step) / STATE, "flipped")
    for _ in range(2):
        with pytest.raises(InpaintError, match=r"not one checkpoint .* is sound .2 are set aside as damaged-"):
            store.newest_sound()


def test_a_newer_format_is_refused_not_set_aside(tmp_path: Path) -> None:
    store = store_with(tmp_path, 10)
    path = store.folder(10) / MANIFEST
    newer = json.loads(path.read_text()) | {"version": 99}
    path.write_text(json.dumps(newer | {"sha256": checkpoint._digest(newer)}))
    with pytest.raises(InpaintError, match="newer version"):
        store.newest_sound()
    assert store.folder(10).is_dir()


@pytest.mark.parametrize(
    ("num_bytes", "words"), [(0, "0.0 KiB"), (700, "0.7 KiB"), (20 << 20, "20.0 MiB"), (1500 << 20, "1.5 GiB")]
)
def test_sizes_have_the_unit_that_tells_them(num_bytes: int, words: str) -> None:
    assert human_size(num_bytes) == words


def test_too_little_space_is_found_before_a_byte_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_with(tmp_path, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1024))  # type: ignore[attr-defined]
    store.save(20, tensors(20), {"step": 20})
    store.wait()
    assert str(store.take_failure()).endswith(", 1.0 KiB are free") and store.take_failure() is None
    assert store.steps() == [10]


@pytest.mark.skipif(os.geteuid() != 0, reason="a full disk is a small tmpfs here, and mounting one needs root")
def test_a_disk_that_fills_up_during_a_save_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(mount)], capture_output=True).returncode:
        pytest.skip(
            "a full disk is a small tmpfs here, and this machine lets not even root mount one, as in most containers"
        )
    try:
        store = store_with(mount / "checkpoints", 10)
        # As if another program took the space between the look and the writing.
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 0, 2**40))  # type: ignore[attr-defined]
        large = {name: {"weight": torch.zeros(1_000_000)} for name in FILES}
        store.save(20, large, {"step": 20})
        store.wait()
        assert "No space left" in str(store.take_failure())
        assert_sound(store, {10})
        store.save(30, tensors(30), {"step": 30})
        assert_sound(store, {30})
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_vanished_folder_is_made_again(tmp_path: Path) -> None:
    store = store_with(tmp_path / "checkpoints", 10)
    shutil.rmtree(tmp_path / "checkpoints")
    store.save(20, tensors(20), {"step": 20})
    assert_sound(store, {20})


def test_a_place_that_cannot_be_written_is_a_failure_not_an_exception(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = CheckpointStore(tmp_path / "file" / "checkpoints")
    store.save(10, tensors(10), {"step": 10})
    store.wait()
    assert isinstance(store.take_failure(), OSError)


def test_an_unreadable_best_is_no_best(tmp_path: Path) -> None:
    store = store_with(tmp_path, 10, best=10)
    whole = (tmp_path / BEST).read_bytes()
    for damaged in (b"{", b"null", b"{}", b"\xff", whole.replace(b"step", b"stdp"), whole.replace(b"20.0", b'"0.0"')):
        (tmp_path / BEST).write_bytes(damaged)
        assert store.best() is None
    store.save(20, tensors(20), {"step": 20})
    assert_sound(store, {20})
    assert read_checkpoint(store.folder(20)).state["step"] == 20
