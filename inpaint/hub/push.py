"""Owns one push: the oldest waiting snapshot becomes one commit and its tag.

Each step may be repeated: a commit whose answer was lost is found again as a commit that changes nothing.
Run as a program (`python -m inpaint.hub.push RUN`) it makes one try and ends with 0 (pushed, or nothing to push) or 1
(the `Failure` is on stdout, as JSON). It ends at once when its standard input is closed, that is with its parent.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token, set_client_factory
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils._http import default_client_factory

from inpaint.errors import InpaintError
from inpaint.fidelity import RECONSTRUCTION_FILE
from inpaint.hub.card import write_card
from inpaint.hub.errors import CLIENT_ERRORS, Failure, describe
from inpaint.hub.queue import PushQueue, Snapshot
from inpaint.hub.repository import make_if_need_be

REQUEST_TIMEOUT_S = 60.0
_Result = TypeVar("_Result")


def push_oldest(queue: PushQueue) -> Failure | None:
    """One try to push the oldest waiting snapshot, which else stays in the queue; why it failed, or None."""
    with queue.lock() as is_mine:
        if not is_mine:
            return Failure("another process is pushing this run", is_lasting=False)
        try:
            if waiting := queue.waiting():
                push(HfApi(), queue, waiting[0])
        except Exception as error:  # noqa: BLE001 - the uploader's outermost line; the reason is told
            return describe(error, get_token())
        return None


def push(api: HfApi, queue: PushQueue, snapshot: Snapshot) -> None:
    """Make the repository if need be, then one commit with all files and the card, then the tag.

    Raises whatever `inpaint.hub.errors.describe` takes, among it InpaintError where only a public one is there.
    """
    repo_id = snapshot.repo_id
    if make_if_need_be(api, snapshot.repo_id, snapshot.private):
        queue.record("created", repo_id=repo_id, private=snapshot.private)
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError as error:
        raise InpaintError(
            f"{repo_id} is taken, but not by a model repository that this token may see; choose another name"
        ) from error
    if snapshot.private and not info.private:
        raise InpaintError(
            f"{repo_id} is public and --hub.private was asked for: nothing was pushed; "
            "make it private in its settings, or choose another repository"
        )
    notes = _others_commits(api, queue, repo_id)
    write_card(snapshot.files, repo_id)
    paths = {path.relative_to(snapshot.files).as_posix(): path for path in snapshot.files.rglob("*") if path.is_file()}
    stale = [
        sibling.rfilename
        for sibling in info.siblings or []
        if sibling.rfilename.startswith(("checkpoints/", RECONSTRUCTION_FILE)) and sibling.rfilename not in paths
    ]
    commit = api.create_commit(
        repo_id,
        [CommitOperationAdd(name, path) for name, path in sorted(paths.items())]
        + [CommitOperationDelete(name) for name in stale],
        commit_message=snapshot.label,
        commit_description=f"run {queue.run_id}",
        parent_commit=info.sha,
    )
    notes += _tag(api, queue, snapshot, commit.oid)
    url = f"{api.endpoint}/{repo_id}/tree/{commit.oid}"
    queue.finish(snapshot, "pushed", commit=commit.oid, url=url, notes=notes)


def _others_commits(api: HfApi, queue: PushQueue, repo_id: str) -> list[str]:
    """A note if another run has pushed to the repository since this run did."""
    mine = {line["commit"] for line in queue.pushed(repo_id).values()}
    newer = takewhile(lambda commit: commit.commit_id not in mine, api.list_repo_commits(repo_id) if mine else [])
    others = [f"{its.commit_id[:8]} ({its.title})" for its in newer if f"run {queue.run_id}" not in its.message]
    note = f"somebody else pushes to this repository too; files of the same name were replaced: {', '.join(others)}"
    return [note] if others else []


def _tag(api: HfApi, queue: PushQueue, snapshot: Snapshot, commit: str) -> list[str]:
    """Set the tag; one that another run has set is left alone, and that is said."""
    repo_id, tag = snapshot.repo_id, snapshot.label
    for _ in range(2):
        try:
            api.create_tag(repo_id, tag=tag, revision=commit)
            return []
        except HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
        at = next((ref.target_commit for ref in api.list_repo_refs(repo_id).tags if ref.name == tag), None)
        if at == commit:
            return []
        mine = {line["commit"] for line in queue.ledger() if line["event"] == "pushed"}
        if at is not None and at not in mine:
            return [f"the tag {tag} stays at {at[:8]}, where another run has set it; this run's is {commit[:8]}"]
        if at is not None:
            api.delete_tag(repo_id, tag=tag)
    raise OSError(f"the tag {tag} changes while it is being set")


def retried(action: Callable[[], _Result], what: str) -> _Result:
    """The action's result, tried again with back-off, which the client does not for a file's content; InpaintError."""
    for wait_s in (1, 2, 4, 8, None):
        try:
            return action()
        except CLIENT_ERRORS as error:
            failure = describe(error, get_token())
            is_missing = isinstance(error, (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError))
            if failure.is_lasting or is_missing or wait_s is None:
                raise InpaintError(f"{what}: {failure.reason}") from error
            time.sleep(max(failure.retry_after_s, wait_s))
    raise AssertionError("the last try ends it")


def limit_waiting() -> None:
    """Let every request of this process fail after a while without a byte; the client would wait for ever."""

    def client():  # type: ignore[no-untyped-def]  # httpx's client, under whichever name this version imports it
        client = default_client_factory()
        client.timeout = REQUEST_TIMEOUT_S
        return client

    set_client_factory(client)
    os.environ.setdefault("HF_XET_CLIENT_READ_TIMEOUT", f"{REQUEST_TIMEOUT_S:.0f}s")


def main() -> int:
    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    limit_waiting()
    with redirect_stdout(sys.stderr):
        failure = push_oldest(PushQueue(Path(sys.argv[1])))
    if failure is not None:
        print(json.dumps(asdict(failure)), flush=True)
    return 1 if failure else 0


if __name__ == "__main__":
    os._exit(main())
