"""Publishing a run: what arrives, what survives which fault, and what is said of it. The Hub is the loopback one."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from hub_server import LoopbackHub
from huggingface_hub import CommitOperationAdd, HfApi
from publishing import REPO, drain, make_run, publisher, set_weights, submit, weights_at

from inpaint import cli
from inpaint.hub.publisher import HubPublisher
from inpaint.hub.push import push_oldest
from inpaint.hub.queue import MAX_WAITING, PushQueue


def test_what_was_submitted_arrives_as_one_commit_each_whatever_training_does_next(
    hub: LoopbackHub, run_dir: Path
) -> None:
    publishing = publisher(run_dir, push_checkpoint=True)
    publishing.submit("epoch-0001", checkpoint=run_dir / "checkpoints" / "step_00000003")
    set_weights(run_dir, b"second")
    (run_dir / "checkpoints" / "step_00000003").rename(run_dir / "checkpoints" / "step_00000006")
    publishing.submit("epoch-0002", checkpoint=run_dir / "checkpoints" / "step_00000006")
    statement = publishing.close(300)
    assert [weights_at(hub, tag) for tag in ("epoch-0001", "epoch-0002", "main")] == [b"first", b"second", b"second"]
    assert [commit.title for commit in hub.head(REPO).history()] == ["epoch-0002", "epoch-0001", "initial commit"]
    assert {name for name in hub.head(REPO).files if name.startswith("checkpoints/")} == {
        "checkpoints/step_00000006/manifest.json"
    }
    assert "holds epoch-0001, epoch-0002" in statement
    assert "NOT" not in statement
    assert publishing.queue.waiting() == []


FAULTS = {
    "503 for a while": {"status": 503, "times": 7},  # more often than the client tries by itself
    "429": {"status": 429, "headers": {"Retry-After": "0"}},
    "cut in the request": {"cut": "request"},
    "cut in the answer": {"cut": "response"},
}
REQUESTS = [
    "POST /api/repos/create",
    "GET /api/models/alice/landscapes$",
    "GET /commits/",
    "POST /validate-yaml",
    "POST /preupload/",
    "POST /objects/batch",
    "PUT /lfs/",
    "POST /lfs-verify",
    "POST /commit/",
    "POST /tag/",
]


@pytest.mark.parametrize("request_line", REQUESTS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("quick")
def test_any_fault_at_any_request_only_delays(hub: LoopbackHub, run_dir: Path, fault: str, request_line: str) -> None:
    (run_dir / "metrics.jsonl").unlink()  # to draw the curves takes longer than to push
    drain(submit(run_dir, "epoch-0001", b"one"))
    method, path = request_line.split()
    injected = hub.fault(path, method=method, **FAULTS[fault])
    queue = submit(run_dir, "epoch-0002", b"two")
    drain(queue)
    assert injected.num_hit > 0, "the fault was never met"
    assert (weights_at(hub, "epoch-0001"), weights_at(hub, "epoch-0002")) == (b"one", b"two")
    assert [commit.title for commit in hub.head(REPO).history()][:2] == ["epoch-0002", "epoch-0001"]
    assert "another run" not in queue.statement(REPO)
    assert "NOT" not in queue.statement(REPO)


@pytest.mark.parametrize("request_line", ["GET /xet-write-token/", "POST /xet/v1/xorbs", "POST /xet/v1/shards"])
@pytest.mark.parametrize("fault", ["503 for a while", "cut in the answer"])
def test_a_fault_at_any_request_of_xet_only_delays(
    hub: LoopbackHub, run_dir: Path, monkeypatch: pytest.MonkeyPatch, fault: str, request_line: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    method, path = request_line.split()
    injected = hub.fault(path, method=method, **FAULTS[fault])
    queue = submit(run_dir, "epoch-0001", b"one")
    drain(queue)
    assert injected.num_hit > 0, "the fault was never met"
    assert weights_at(hub, "epoch-0001") == b"one"
    assert "NOT" not in queue.statement(REPO)


def test_the_list_of_requests_above_is_complete(hub: LoopbackHub, run_dir: Path, quick: None) -> None:
    for label in ("epoch-0001", "epoch-0002"):
        drain(submit(run_dir, label, label.encode()))
    for seen in hub.requests():
        assert any(seen.method == line.split()[0] and re.search(line.split()[1], seen.path) for line in REQUESTS), (
            f"{seen.method} {seen.path} has no fault injected"
        )


@pytest.mark.parametrize(
    ("fault", "said"),
    [({"status": 401}, "does not accept the token"), ({"status": 403}, "no right to write"), ({"status": 400}, "400")],
)
@pytest.mark.usefixtures("quick")
def test_what_only_the_user_can_mend_is_not_tried_again_and_again(
    hub: LoopbackHub, run_dir: Path, fault: dict[str, int], said: str
) -> None:
    hub.fault("/preupload/", times=99, **fault)
    failure = push_oldest(submit(run_dir, "final", b"x"))
    assert failure is not None
    assert failure.is_lasting
    assert said in failure.reason
    assert f"NOT pushed yet: final ({failure.reason})" in PushQueue(run_dir).statement(REPO, failure.reason)
    assert f"inpaint push {run_dir}" in PushQueue(run_dir).statement(REPO, failure.reason)
    hub.clear_faults()
    drain(PushQueue(run_dir))
    assert weights_at(hub, "final") == b"x"


@pytest.mark.parametrize(
    ("token", "said"), [(None, "there is no token"), ("hf_wrong12345", "does not accept"), ("bob", "no right")]
)
def test_no_token_a_wrong_one_and_one_without_the_right(
    hub: LoopbackHub, run_dir: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, said: str
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", hub.other_token if token == "bob" else token)
    failure = push_oldest(submit(run_dir, "final", b"x"))
    assert failure is not None
    assert failure.is_lasting
    assert said in failure.reason


@pytest.mark.usefixtures("quick")
def test_a_name_taken_by_something_else_is_said(hub: LoopbackHub, run_dir: Path) -> None:
    hub.fault("/repos/create", status=409)
    failure = push_oldest(submit(run_dir, "final", b"x"))
    assert failure is not None
    assert failure.is_lasting
    assert "is taken" in failure.reason


@pytest.mark.usefixtures("quick")
def test_a_public_repository_is_refused_where_private_was_asked_for(hub: LoopbackHub, run_dir: Path) -> None:
    HfApi().create_repo(REPO, private=False)
    failure = push_oldest(submit(run_dir, "final", b"x", private=True))
    assert failure is not None
    assert "is public" in failure.reason
    assert "model.safetensors" not in hub.head(REPO).files


@pytest.mark.usefixtures("quick")
def test_retry_after_is_handed_on(hub: LoopbackHub, run_dir: Path) -> None:
    hub.fault("/commit/", status=429, headers={"Retry-After": "7"})
    failure = push_oldest(submit(run_dir, "final", b"x"))
    assert failure is not None
    assert (failure.is_lasting, failure.retry_after_s) == (False, 7.0)


@pytest.mark.usefixtures("quick")
def test_a_repository_deleted_meanwhile_is_made_again_and_nothing_is_claimed(hub: LoopbackHub, run_dir: Path) -> None:
    drain(submit(run_dir, "epoch-0001", b"one"))
    HfApi().delete_repo(REPO)
    queue = submit(run_dir, "epoch-0002", b"two")
    drain(queue)
    assert weights_at(hub, "main") == b"two"
    assert "holds epoch-0002;" in queue.statement(REPO)


@pytest.mark.usefixtures("quick")
def test_two_runs_in_one_repository_are_noticed_and_keep_their_tags(hub: LoopbackHub, tmp_path: Path) -> None:
    ours, theirs = make_run(tmp_path / "ours"), make_run(tmp_path / "theirs")
    drain(submit(ours, "epoch-0001", b"ours 1"))
    drain(submit(theirs, "epoch-0001", b"theirs 1"))
    drain(submit(ours, "epoch-0002", b"ours 2"))
    assert [weights_at(hub, f"epoch-000{epoch}") for epoch in (1, 2)] == [b"ours 1", b"ours 2"]
    assert weights_at(hub, "main") == b"ours 2"
    assert "the tag epoch-0001 stays at" in PushQueue(theirs).statement(REPO)
    assert "somebody else pushes to this repository too" in PushQueue(ours).statement(REPO)


@pytest.mark.usefixtures("quick")
def test_a_push_that_another_one_overtakes_starts_over_from_the_new_head(
    hub: LoopbackHub, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain(submit(run_dir, "epoch-0001", b"one"))
    preupload = HfApi.preupload_lfs_files

    def overtaken(api: HfApi, *args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(HfApi, "preupload_lfs_files", preupload)
        api.create_commit(REPO, [CommitOperationAdd("theirs.txt", b"theirs")], commit_message="in between")
        preupload(api, *args, **kwargs)

    monkeypatch.setattr(HfApi, "preupload_lfs_files", overtaken)
    queue = submit(run_dir, "epoch-0002", b"two")
    assert drain(queue) == ["somebody else pushed at the same time (412)"]
    assert hub.head(REPO).files["theirs.txt"].content == b"theirs"
    assert weights_at(hub, "epoch-0002") == b"two"
    assert "in between" in queue.statement(REPO)


@pytest.mark.usefixtures("quick")
def test_the_tag_best_follows_the_best(hub: LoopbackHub, run_dir: Path) -> None:
    for weights in (b"good", b"better"):
        drain(submit(run_dir, "best", weights))
    assert weights_at(hub, "best") == b"better"


def test_a_newer_best_and_a_full_queue_supersede_what_waits(run_dir: Path) -> None:
    for number in range(MAX_WAITING + 2):
        submit(run_dir, f"epoch-{number:04}", b"x")
    queue = submit(run_dir, "best", b"good")
    queue = submit(run_dir, "best", b"better")
    labels = [snapshot.label for snapshot in queue.waiting()]
    assert labels == [*(f"epoch-{number:04}" for number in range(3, MAX_WAITING + 2)), "best"]
    assert (queue.waiting()[-1].files / "model.safetensors").read_bytes().endswith(b"better")
    assert "newer ones took their place: epoch-0000, epoch-0001, epoch-0002." in queue.statement(REPO)


def test_a_hub_that_never_answers_costs_a_try_and_not_the_run(
    hub: LoopbackHub, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = hub.fault("/preupload/", hang=True)
    monkeypatch.setattr("inpaint.hub.publisher.ATTEMPT_S", 2.0)
    publishing = publisher(run_dir)
    publishing.submit("epoch-0001")
    assert "NOT" not in publishing.close(300)
    assert hang.num_hit > 1
    assert weights_at(hub, "epoch-0001") == b"first"


def test_close_gives_up_in_time_and_the_next_process_finishes(
    hub: LoopbackHub, run_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hang = hub.fault("/xet/v1/xorbs", hang=True, times=99)
    publishing = publisher(run_dir)
    publishing.submit("epoch-0001")
    deadline = time.monotonic() + 600
    while not hang.num_hit and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "NOT pushed yet: epoch-0001" in publishing.close(0.1)
    hub.clear_faults()

    assert cli.main(["push", str(run_dir)]) == 0
    assert hub.repository(REPO).tags.keys() == {"epoch-0001", "final"}
    assert weights_at(hub, "final") == b"first"
    assert "holds epoch-0001, final" in capfd.readouterr().out


def test_the_uploader_ends_with_its_parent(hub: LoopbackHub, run_dir: Path) -> None:
    hang = hub.fault("/preupload/", hang=True, times=99)
    submit(run_dir, "epoch-0001", b"x")
    child = subprocess.Popen([sys.executable, "-m", "inpaint.hub.push", str(run_dir)], stdin=subprocess.PIPE)
    deadline = time.monotonic() + 600
    while not hang.num_hit and time.monotonic() < deadline:
        time.sleep(0.02)
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(600) == 1


def test_a_full_disk_is_said_and_stops_nothing(hub: LoopbackHub, run_dir: Path) -> None:
    said: list[str] = []
    publishing = HubPublisher(REPO, False, run_dir, say=said.append)
    (run_dir / "generator").rename(run_dir / "not-there")
    publishing.submit("epoch-0001")
    assert "could not be queued" in said[0]
    assert "nothing of this run" in publishing.close(10)


def test_what_waits_is_not_pushed_beside_what_supersedes_it(hub: LoopbackHub, run_dir: Path) -> None:
    submit(run_dir, "final", b"of an earlier process")
    publishing = publisher(run_dir)
    time.sleep(1.0)  # a publisher that began by itself would be pushing the old one now
    set_weights(run_dir, b"new")
    publishing.submit("final")
    publishing.close(300)
    assert [line["event"] for line in PushQueue(run_dir).ledger() if line.get("label") == "final"] == [
        "superseded",
        "pushed",
    ]
