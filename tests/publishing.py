"""A run to be published, and how tests publish it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hub_server import LoopbackHub

from inpaint.hub.publisher import HubPublisher
from inpaint.hub.push import push_oldest
from inpaint.hub.queue import PushQueue

REPO = "alice/landscapes"
METRICS = {"hole_psnr": {"heading": "hole PSNR", "decimals": 2, "better": "higher", "unit": "dB"}}
FIGURES = {"hole_psnr": 21.345, "hole_l1": 0.0712, "psnr": 30.5, "l1": 0.01, "hole_ssim": 0.5, "ssim": float("nan")}


def make_run(run: Path, weights: bytes = b"first") -> Path:
    files = {
        "config.yaml": "data: {path: null, image_size: 64}\ntraining: {epochs: 2}\n",
        "metrics.jsonl": "".join(
            json.dumps(
                {"step": s, "epoch": 1, "phase": 1, "images_seen": 32 * s, "loss/generator/reconstruction": 1 / s}
            )
            + "\n"
            for s in (1, 2, 3)
        ),
        "evaluation.json": json.dumps(
            {
                "split": "test",
                "num_pictures": 9,
                "metrics": METRICS,
                "rows": {"generator": FIGURES, "Telea": {**FIGURES, "hole_psnr": 18.0}},
            }
        ),
        "environment.json": json.dumps({"devices": "2 CPU cores", "hours": 0.03}),
        "generator/config.json": "{}",
        "checkpoints/step_00000003/manifest.json": "{}",
    }
    for name, text in files.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text)
    (run / "samples").mkdir()
    (run / "samples" / "epoch_0001.png").write_bytes(b"\x89PNG\0" + weights)
    set_weights(run, weights)
    return run


def set_weights(run: Path, weights: bytes) -> None:
    (run / "generator" / "model.safetensors").write_bytes(b"\0" * 100 + weights)


def submit(run: Path, label: str, weights: bytes, **details: Any) -> PushQueue:
    set_weights(run, weights)
    queue = PushQueue(run)
    queue.add(label, REPO, details.pop("private", False), **details)
    return queue


def weights_at(hub: LoopbackHub, revision: str) -> bytes:
    return hub.repository(REPO).resolve(revision).files["model.safetensors"].content[100:]


def drain(queue: PushQueue, num_tries: int = 8) -> list[str]:
    """Push until nothing waits; the reasons of the failures on the way."""
    reasons = []
    while queue.waiting():
        failure = push_oldest(queue)
        if failure is not None:
            reasons.append(failure.reason)
            assert len(reasons) < num_tries, reasons
    return reasons


def publisher(run: Path, **details: Any) -> HubPublisher:
    return HubPublisher(REPO, False, run, say=lambda line: None, **details)


# --- damages


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x90
    path.write_bytes(data)


def _become_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    (path / "inner").mkdir(parents=True)


def _become_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("no folder")


# What is done to a queue in which epoch 1 is pushed and epochs 2 and 3 wait, and what must be said to be set aside.
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "ledger: cut line": (lambda q: (q / "ledger.jsonl").open("a").write('{"event": "pushed", "la'), "ledger.jsonl"),
    "ledger: cut line that ends like a whole one": (
        lambda q: (q / "ledger.jsonl").open("a").write('{"event": "pushed", "notes": {}'),
        "ledger.jsonl",
    ),
    "ledger: keys missing": (lambda q: (q / "ledger.jsonl").open("a").write('{"event": "pushed"}\n'), "ledger.jsonl"),
    "ledger: no record": (lambda q: (q / "ledger.jsonl").open("a").write("{}\n[]\nnull\n"), "ledger.jsonl"),
    "ledger: wrong types": (
        lambda q: (q / "ledger.jsonl").open("a").write('{"event": [], "label": 1}\n'),
        "ledger.jsonl",
    ),
    "ledger: a flipped bit": (lambda q: _flip(q / "ledger.jsonl", 0), "ledger.jsonl"),
    "ledger: empty": (lambda q: (q / "ledger.jsonl").write_text(""), ""),
    "ledger: zeros": (lambda q: (q / "ledger.jsonl").write_bytes(b"\0" * 4096), "ledger.jsonl"),
    "ledger: a folder": (lambda q: _become_folder(q / "ledger.jsonl"), "ledger.jsonl"),
    "snapshot: empty": (lambda q: (q / "000001" / "snapshot.json").write_text(""), "000001"),
    "snapshot: missing": (lambda q: (q / "000001" / "snapshot.json").unlink(), "000001"),
    "snapshot: other keys": (lambda q: (q / "000001" / "snapshot.json").write_text('{"a": 1}'), "000001"),
    "snapshot: other types": (
        lambda q: (q / "000001" / "snapshot.json").write_text('{"label": 1, "repo_id": [], "private": "no"}'),
        "000001",
    ),
    "snapshot: a flipped bit": (lambda q: _flip(q / "000001" / "snapshot.json", 1), "000001"),
    "snapshot: no files": (lambda q: shutil.rmtree(q / "000001" / "files"), "000001"),
    "snapshot: no weights": (lambda q: (q / "000001" / "files" / "model.safetensors").unlink(), "000001"),
    "snapshot: damaged metrics": (lambda q: (q / "000001/files/metrics.jsonl").write_bytes(b"\xff\n{}\n{"), ""),
    "snapshot: damaged evaluation": (lambda q: (q / "000001/files/evaluation.json").write_bytes(b"\0\0"), ""),
    "snapshot: a file": (lambda q: _become_file(q / "000001"), "000001"),
    "a folder with an odd number": (lambda q: (q / "²").mkdir(), ""),
    "run_id: empty": (lambda q: (q / "run_id").write_text(""), "run_id"),
    "run_id: no text": (lambda q: (q / "run_id").write_bytes(b"\xff\xfe"), "run_id"),
    "lock: a folder": (lambda q: _become_folder(q / "lock"), "lock"),
    "the whole queue: a file": (_become_file, "hub_queue"),
    "the whole queue: a link to nowhere": (lambda q: (shutil.rmtree(q), q.symlink_to("nowhere")), "hub_queue"),
}
