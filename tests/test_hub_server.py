"""The loopback Hub against the real client: what is pushed comes back byte for byte, refusals are the right ones."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import numpy as np
import pytest
from hub_server import LoopbackHub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

REPO = "alice/landscapes"
# Several parts of a multipart upload; noise, zeros and weights, for Xet packs each of these chunks in its own way.
WEIGHTS = np.random.default_rng(0).uniform(1, 1.001, size=2**18).astype(np.float32)
LARGE = hashlib.shake_256(b"noise").digest(2**20) + bytes(2**20) + WEIGHTS.tobytes()


@pytest.fixture(params=["lfs", "xet"])
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "lfs")
    return request.param


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=hub.token)


@pytest.fixture
def repo(api: HfApi) -> str:
    api.create_repo(REPO)
    return REPO


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


def status_of(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


def test_files_come_back_byte_for_byte(hub: LoopbackHub, api: HfApi, repo: str, storage: str, tmp_path: Path) -> None:
    files = {"model.safetensors": LARGE, "config.json": b"{}", "samples/a.png": b"\0" * 99, "empty.txt": b""}
    for name, content in files.items():
        (tmp_path / "up" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / name).write_bytes(content)
    operations = [CommitOperationAdd(name, tmp_path / "up" / name) for name in files]
    commit = api.create_commit(repo, operations, commit_message="first")
    assert hub.head(repo).oid == commit.oid
    assert {name: file.content for name, file in hub.head(repo).files.items() if name in files} == files
    assert bool(hub.requests("/xet/v1/shards")) == (storage == "xet")
    assert bool(hub.requests("/lfs/.*/complete")) == (storage == "lfs"), "3 MiB by LFS go in parts"

    folder = Path(api.snapshot_download(repo, cache_dir=tmp_path / "down"))
    assert {name: (folder / name).read_bytes() for name in files} == files
    assert folder.name == commit.oid
    again = api.create_commit(repo, [CommitOperationAdd("config.json", b"{}")], commit_message="nothing new")
    assert again.oid == commit.oid


def test_tags_branches_and_history(api: HfApi, repo: str, tmp_path: Path) -> None:
    first = api.create_commit(repo, [add("n.txt", b"1")], commit_message="one").oid
    api.create_tag(repo, tag="epoch-0001")
    api.create_branch(repo, branch="runs/a")
    api.create_commit(repo, [add("n.txt", b"2")], commit_message="two", revision="runs/a", parent_commit=first)
    api.create_commit(repo, [CommitOperationDelete("n.txt"), add("d/m.txt", b"3")], commit_message="three")
    for revision, content in [("epoch-0001", b"1"), (first, b"1"), ("runs/a", b"2")]:
        assert Path(hf_hub_download(repo, "n.txt", revision=revision, cache_dir=tmp_path)).read_bytes() == content
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(repo, "n.txt", cache_dir=tmp_path)
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(repo, "n.txt", revision="nowhere", cache_dir=tmp_path)
    references = api.list_repo_refs(repo)
    assert [tag.name for tag in references.tags] == ["epoch-0001"]
    assert [branch.name for branch in references.branches] == ["main", "runs/a"]
    assert [commit.title for commit in api.list_repo_commits(repo)] == ["three", "one", "initial commit"]
    assert [item.path for item in api.list_repo_tree(repo, recursive=True)] == ["d", ".gitattributes", "d/m.txt"]
    assert [item.path for item in api.get_paths_info(repo, ["d/m.txt", "n.txt"])] == ["d/m.txt"]
    with pytest.raises(HfHubHTTPError) as error:
        api.create_tag(repo, tag="epoch-0001")
    assert status_of(error) == 409
    api.delete_tag(repo, tag="epoch-0001")
    assert not api.list_repo_refs(repo).tags


def test_a_long_list_comes_in_pages(hub: LoopbackHub, api: HfApi, repo: str) -> None:
    api.create_commit(repo, [add(f"{i:03}.txt", b"x") for i in range(250)], commit_message="many")
    assert len(list(api.list_repo_tree(repo))) == 251
    assert len(hub.requests("/tree/")) == 3


def test_refusals(hub: LoopbackHub, api: HfApi, repo: str, tmp_path: Path) -> None:
    head = hub.head(repo).oid
    api.create_commit(repo, [add("a.txt", b"a")], commit_message="moves the head")
    api.create_repo("alice/secret", private=True)

    def push(name: str, token: str | bool, **details: str) -> None:
        api.create_commit(name, [add("b.txt", b"b")], commit_message="no", token=token, **details)

    for status, attempt in [
        (401, lambda: api.whoami(token="hf_wrong")),
        (401, lambda: push(repo, "hf_wrong")),
        (401, lambda: push(repo, False)),
        (403, lambda: push(repo, hub.other_token)),
        (403, lambda: api.create_repo("alice/of-bob", token=hub.other_token)),
        (409, lambda: api.create_repo(repo)),
        (412, lambda: push(repo, hub.token, parent_commit=head)),
    ]:
        with pytest.raises(HfHubHTTPError) as error:
            attempt()
        assert status_of(error) == status
    for token, name in [(hub.token, "alice/nowhere"), (hub.other_token, "alice/secret"), (False, "alice/secret")]:
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download(name, "a.txt", token=token, cache_dir=tmp_path)
    assert api.create_repo("landscapes/of-all").repo_id == "landscapes/of-all"
    api.delete_repo("landscapes/of-all")
    assert not api.repo_exists("landscapes/of-all")
    assert "b.txt" not in hub.head(repo).files


def test_broken_card_metadata_is_refused(api: HfApi, repo: str) -> None:
    with pytest.raises(ValueError, match="Invalid metadata"):
        api.create_commit(repo, [add("README.md", b"---\nlicense: [open\n---\n")], commit_message="card")


def test_faults_happen_where_and_as_often_as_asked(hub: LoopbackHub, api: HfApi, repo: str) -> None:
    def commit(content: bytes) -> str:
        return api.create_commit(repo, [add("a.txt", content)], commit_message="try").oid

    hub.fault("/commit/", status=503, skip=1, times=2)
    commit(b"goes through")
    for _ in range(2):
        with pytest.raises(HfHubHTTPError):
            commit(b"fails twice")
    commit(b"through again")

    hub.fault("/commit/", cut="request")
    with pytest.raises(httpx2.TransportError):
        commit(b"cut before")
    assert hub.head(repo).files["a.txt"].content == b"through again"
    hub.fault("/commit/", cut="response")
    with pytest.raises(httpx2.TransportError):
        commit(b"cut after")
    assert hub.head(repo).files["a.txt"].content == b"cut after", "the commit was made, only the answer was lost"

    statuses = [(seen.status, seen.fault) for seen in hub.requests("/commit/")]
    assert statuses[1:3] == [(503, "status 503")] * 2
    assert statuses[4:] == [(None, "cut request"), (None, "cut response")]


def test_retry_after_reaches_the_client(hub: LoopbackHub, api: HfApi, repo: str, storage: str) -> None:
    hub.fault("/preupload/", status=429, headers={"Retry-After": "0"})
    api.create_commit(repo, [add("a.safetensors", LARGE)], commit_message="a little later")
    assert [seen.status for seen in hub.requests("/preupload/")] == [429, 200]


def test_a_hang_lasts_until_the_faults_are_cleared(hub: LoopbackHub, api: HfApi, repo: str) -> None:
    hub.fault("/commit/", hang=True)
    future = api.run_as_future(api.create_commit, repo, [add("a.txt", b"a")], commit_message="waits")
    deadline = time.monotonic() + 600
    while not hub._faults[0].num_hit and time.monotonic() < deadline:
        time.sleep(0.01)
    assert hub._faults[0].num_hit == 1
    assert not future.done()
    hub.clear_faults()
    assert future.exception(timeout=600) is not None
    assert "a.txt" not in hub.head(repo).files


DATASET_SCRIPT = """
import datasets
from PIL import Image
name = "alice/tiny"
images = [Image.new("RGB", (8, 8), (i, 2 * i, 3 * i)) for i in range(6)]
columns = {"image": images, "label": list(range(6))}
features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
datasets.Dataset.from_dict(columns, features=features).push_to_hub(name, max_shard_size="1KB")
for streaming in (False, True):
    rows = list(datasets.load_dataset(name, split="train", streaming=streaming))
    assert [row["label"] for row in rows] == list(range(6)), rows
    assert [row["image"].getpixel((0, 0)) for row in rows] == [(i, 2 * i, 3 * i) for i in range(6)], rows
"""


def test_a_dataset_can_be_pushed_and_loaded(hub: LoopbackHub) -> None:
    run = subprocess.run(
        [sys.executable, "-c", DATASET_SCRIPT], capture_output=True, text=True, timeout=900, check=False
    )
    assert run.returncode == 0, run.stderr
    assert any(path.endswith(".parquet") for path in hub.head("alice/tiny", "datasets").files)
    assert not Path(os.environ["HF_HOME"], "token").exists()
