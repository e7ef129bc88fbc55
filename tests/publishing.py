"""A run to be published, and how tests publish it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hub_server import LoopbackHub

from inpaint.hub.publisher import HubPublisher
from inpaint.hub.push import push_oldest
from inpaint.hub.queue import PushQueue

REPO = "alice/landscapes"
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
    queue.add(label, REPO, details.pop("private", False), run / "generator", **details)
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
    return HubPublisher(REPO, False, run, first_wait_s=0.05, say=lambda line: None, **details)
