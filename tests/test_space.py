"""An exported page becomes a static Space, in one commit. The Hub is the loopback one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_server import LoopbackHub
from huggingface_hub import HfApi

from inpaint.cli import main

SPACE = "alice/filling"
CARD = "---\ntitle: Inpaint\nsdk: static\nlicense: apache-2.0\n---\n"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the limits that a command sets for its whole process, and without pauses between tries."""
    monkeypatch.setattr("inpaint.hub.push.limit_waiting", lambda: None)
    monkeypatch.setattr("inpaint.hub.push.time.sleep", lambda seconds: None)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    folder = tmp_path / "page"
    folder.mkdir()
    for name, text in {"README.md": CARD, "index.html": "<p>", "about.json": "{}"}.items():
        (folder / name).write_text(text)
    (folder / "model.onnx").write_bytes(b"\0" * 1000)
    (folder / "ort.wasm").write_bytes(b"\0asm" * 3_000_000)
    return folder


def push(page: Path, *words: str) -> int:
    return main(["push", str(page), "--space", SPACE, *words])


def test_all_files_are_one_commit_of_a_static_space(
    hub: LoopbackHub, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(page) == 0
    assert f"pushed: {hub.endpoint}/spaces/{SPACE}\n" in capsys.readouterr().out
    space = hub.repository(SPACE, "spaces")
    assert space.sdk == "static" and not space.private and space.head.card_data()["title"] == "Inpaint"
    contents = {name: file.content for name, file in space.head.files.items() if name != ".gitattributes"}
    assert contents == {path.name: path.read_bytes() for path in page.iterdir()}
    assert len(space.head.history()) == 2  # the Hub's own, and this
    # Again: nothing is new, and nothing is sent. Then one file of it is.
    sent = len(hub.requests("", "PUT"))
    assert push(page) == 0
    assert len(space.head.history()) == 2 and len(hub.requests("", "PUT")) == sent
    (page / "index.html").write_text("<p>new")
    assert push(page) == 0
    assert len(space.head.history()) == 3 and space.head.files["index.html"].content == b"<p>new"
    assert len(hub.requests("", "PUT")) == sent


def test_a_failure_on_the_way_is_tried_again(hub: LoopbackHub, page: Path) -> None:
    hub.fault("/commit/", status=503)
    assert push(page, "--private") == 0
    space = hub.repository(SPACE, "spaces")
    assert space.private and len(space.head.history()) == 2


def test_refusals_are_one_line_without_the_token(
    hub: LoopbackHub, page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(code: int, told: str, folder: Path, space: str, *words: str) -> None:
        assert main(["push", str(folder), "--space", space, *words]) == code
        said = capsys.readouterr().err
        errors = [line for line in said.splitlines() if line.startswith("inpaint push: error: ")]
        assert len(errors) == 1 and told in errors[0] and hub.token not in said and "Traceback" not in said, said

    ends(2, "it has no README.md; give a folder that `inpaint export --format web` wrote", tmp_path, SPACE)
    ends(2, "--space and --repo-id are given", page, SPACE, "--repo-id", "alice/landscapes")
    ends(2, "'filling'; it must be ORG/NAME", page, "filling")
    ends(2, "'a/b/c' cannot be a Space", page, "a/b/c")
    ends(1, "the token has no right to write there (403)", page, "bob/filling")
    HfApi(endpoint=hub.endpoint, token=hub.token).create_repo("alice/app", repo_type="space", space_sdk="gradio")
    ends(1, "alice/app is a Space of the kind gradio", page, "alice/app")
    HfApi(endpoint=hub.endpoint, token=hub.token).create_repo(SPACE, repo_type="space", space_sdk="static")
    ends(1, f"{SPACE} is public and --private was asked for", page, SPACE, "--private")
    assert len(hub.head(SPACE, "spaces").history()) == 1
    hub.fault("/commit/", status=500, headers={"X-Error-Message": f"bad token {hub.token}"}, times=99)
    ends(1, f"{SPACE} could not be pushed: the Hub answered 500: bad token [secret]", page, SPACE)
    hub.clear_faults()
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    ends(1, "the Hub does not accept the token (401)", page, SPACE)
