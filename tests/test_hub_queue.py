"""A damaged queue of what is to be pushed: set aside, named, and no hindrance to anything else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hub_server import LoopbackHub
from publishing import DAMAGES, REPO, drain, set_weights, submit, weights_at

from inpaint import cli
from inpaint.hub.publisher import HubPublisher
from inpaint.hub.push import push_oldest
from inpaint.hub.queue import PushQueue


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.usefixtures("quick")
def test_a_damaged_queue_is_set_aside_named_and_stops_nothing(hub: LoopbackHub, run_dir: Path, damage: str) -> None:
    (run_dir / "metrics.jsonl").unlink()
    drain(submit(run_dir, "epoch-0001", b"one"))
    for epoch, weights in ((2, b"two"), (3, b"three")):
        submit(run_dir, f"epoch-{epoch:04}", weights)
    do, set_aside = DAMAGES[damage]
    do(run_dir / "hub_queue")

    said: list[str] = []
    publishing = HubPublisher(REPO, False, run_dir, say=said.append)
    publishing._attempt = lambda snapshot: push_oldest(publishing.queue)  # type: ignore[method-assign]  # no child: quick
    set_weights(run_dir, b"four")
    assert publishing.submit("epoch-0004")
    statement = publishing.close(60)
    assert weights_at(hub, "epoch-0004") == weights_at(hub, "main") == b"four"
    assert "NOT" not in statement and "epoch-0004" in statement
    assert [line for line in said if "set aside" in line] == (
        [f"Hub: {line}" for line in said_of(set_aside, run_dir)] if set_aside else []
    )
    assert PushQueue(run_dir).mend() == []
    if set_aside not in ("000001", "hub_queue"):
        assert weights_at(hub, "epoch-0002") == b"two"


def said_of(name: str, run_dir: Path) -> list[str]:
    """The line that names what was set aside, whose new place must be there."""
    at = Path(name) if name == "hub_queue" else Path("hub_queue", name)
    place = run_dir if name == "hub_queue" else run_dir / "hub_queue" / "damaged"
    new = place / f"{name}.damaged-1"
    assert os.path.lexists(new)
    return [f"{at} is damaged: set aside as {new}"]


def test_a_queue_that_cannot_be_mended_is_passed_over(hub: LoopbackHub, run_dir: Path) -> None:
    submit(run_dir, "epoch-0001", b"one")
    (run_dir / "hub_queue" / "000001" / "snapshot.json").write_text("")
    (run_dir / "hub_queue" / "damaged").write_text("no folder")
    said: list[str] = []
    publishing = HubPublisher(REPO, False, run_dir, say=said.append)
    assert publishing.submit("epoch-0002")
    assert "holds epoch-0002;" in publishing.close(60)
    assert "what is to be pushed cannot be mended" in said[0]


def test_what_cannot_be_queued_is_no_success(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (run_dir / "generator" / "model.safetensors").unlink()
    assert cli.main(["push", str(run_dir), "--repo-id", REPO]) == 1
    said = capfd.readouterr().err
    assert "final could not be queued and will not be pushed" in said and "no model.safetensors" in said
    assert "1 of this run's snapshots could not be pushed" in said


def test_a_record_after_a_cut_line_is_not_lost_with_it(run_dir: Path) -> None:
    queue = submit(run_dir, "epoch-0001", b"one")
    (queue.folder / "ledger.jsonl").write_text('{"event": "pushed", "la')
    queue.record("created", repo_id=REPO, private=False)
    assert queue.ledger() == [{"event": "created", "repo_id": REPO, "private": False}]
    assert json.loads((queue.folder / "ledger.jsonl").read_text().splitlines()[1])["repo_id"] == REPO
