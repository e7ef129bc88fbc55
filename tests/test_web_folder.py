"""What `inpaint export --format web` writes and refuses, without the npm package that it needs in earnest."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import sys
import tarfile
from pathlib import Path

import httpx2
import pytest
import torch
from browsing import free_port
from demo import make_model
from hub_server import LoopbackHub
from huggingface_hub import HfApi
from running import ROOT, Job, environment
from test_export import Unexportable

from inpaint.cli import main
from inpaint.errors import InpaintWarning
from inpaint.exports import browser_runtime
from inpaint.exports.web_folder import OFFLINE
from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.tables import GENERATORS

README = ROOT / "README.md"
COPYING, EXPORTING = "copying the page and what runs it", "exporting the network to ONNX, in float32"
FETCHING = "fetching onnxruntime-web@1.30.0, 14 MB, by npm"
NAMES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like the npm package's, whose files are taken for the real ones."""
    folder = tmp_path / "package"
    (folder / "dist").mkdir(parents=True)
    for name in NAMES:
        (folder / "dist" / name).write_text(f"stands for {name}")
        digest = hashlib.sha256((folder / "dist" / name).read_bytes()).hexdigest()
        monkeypatch.setitem(browser_runtime.SHA256, name, digest)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "secret-place" / "mine")


def archive_of(package: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(package, "package")
    return path


def export(*words: str | Path) -> int:
    return main(["export", "--format", "web", *map(str, words)])


def test_the_folder_has_all_that_the_page_asks_for_and_nothing_of_this_machine(
    package: Path, model: Path, tmp_path: Path
) -> None:
    page = tmp_path / "sites" / "page"
    archive = archive_of(package, tmp_path / "ort.tgz")
    assert export(model, "-o", page, "--fidelity", "0.5", "--runtime", archive) == 0
    about = json.loads((page / "about.json").read_text())
    assert (about["model"], about["size_px"], about["multiple_px"]) == ("mine", 32, 4)
    assert "Fidelity 0.5, fixed." in about["notes"] and about["strategies"] == ["auto", "crop", "whole"]
    cards = {
        "README.md",
        "MODEL_CARD.md",
        "onnxruntime-LICENSE.txt",
        "onnxruntime-ThirdPartyNotices.txt",
    }
    assert {path.name for path in page.iterdir()} == cards | set(about["files"])
    assert all((page / path.name).read_bytes() == path.read_bytes() for path in OFFLINE.iterdir())
    assert (page / NAMES[1]).read_text() == f"stands for {NAMES[1]}"
    text = (page / "index.html").read_text()
    assert text.index("Content-Security-Policy") < text.index("<link") and "default-src 'self'; " in text
    assert "http" not in text.replace("http-equiv", "")
    assert "MIT License" in (page / "onnxruntime-LICENSE.txt").read_text()
    assert "sdk: static" in (page / "README.md").read_text().split("---")[1]
    assert (page / "MODEL_CARD.md").read_bytes() == (model / "README.md").read_bytes()
    assert not [path for path in page.iterdir() if b"secret-place" in path.read_bytes()]
    assert [path.name for path in page.parent.iterdir()] == ["page"]


@pytest.fixture
def npm(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm of our own that gives that package; the file in which it writes down how it was called."""
    archive, npm, calls = archive_of(package, tmp_path / "made.tgz"), tmp_path / "bin" / "npm", tmp_path / "calls"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\necho "$@" >> {calls}\ncp {archive} "$4/onnxruntime-web-1.30.0.tgz"\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent) + os.pathsep + os.environ["PATH"])
    monkeypatch.setenv("INPAINT_CACHE", str(tmp_path / "cache"))
    return calls


def test_npm_is_asked_once_and_what_it_gave_is_kept(npm: Path) -> None:
    first, second = browser_runtime.runtime_files(None), browser_runtime.runtime_files(None)
    assert first == second and {*first} == {*NAMES}
    calls = npm.read_text().splitlines()
    assert len(calls) == 1 and calls[0].split()[0] == "pack" and calls[0].split()[-1] == "onnxruntime-web@1.30.0"


def test_a_models_card_comes_along_and_one_that_cannot_be_fetched_is_said(
    package: Path, model: Path, tmp_path: Path, hub: LoopbackHub
) -> None:
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    api.create_repo("alice/mine")
    for path in model.iterdir():
        if path.name != "README.md":
            api.upload_file(path_or_fileobj=path, path_in_repo=path.name, repo_id="alice/mine")

    def card(folder: str) -> str:
        assert export("alice/mine", "-o", tmp_path / folder, "--runtime", package) == 0
        return (tmp_path / folder / "MODEL_CARD.md").read_text()

    made = card("none")  # a model without one is nothing to warn of
    api.upload_file(path_or_fileobj=b"# Trained on fields", path_in_repo="README.md", repo_id="alice/mine")
    hub.fault("/README.md", status=403, times=99)
    with pytest.warns(InpaintWarning, match=r"the card of alice/mine was not fetched \(.*403\)"):
        assert card("unreachable") == made
    hub.clear_faults()
    assert card("its own") == "# Trained on fields"


def test_readme_exports_serves_and_pushes(
    npm: Path, model: Path, tmp_path: Path, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its three lines as written; the server answers on a port of its own."""
    monkeypatch.setattr("inpaint.hub.push.limit_waiting", lambda: None)
    found = re.findall(r"^(inpaint export .*web.*)\n(python -m http.*)\n(inpaint push .*)$", README.read_text(), re.M)
    export_words, serve_words, push_words = (shlex.split(line) for line in found[0])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "photos").symlink_to(model)
    assert main(export_words[1:]) == 0
    port = free_port()
    with Job([[sys.executable, *serve_words[1:], str(port)]], [environment()], cwd=tmp_path) as server:
        server.until(lambda: _served(port) == (tmp_path / "page" / "index.html").read_text())
    assert main([word.replace("ORG/NAME", "alice/filling") for word in push_words[1:]]) == 0
    space = hub.repository("alice/filling", "spaces")
    assert space.head.card_data()["sdk"] == "static" and "model.onnx" in space.head.files


def _served(port: int) -> str:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/").text
    except httpx2.TransportError:
        return ""


def test_faults_are_one_line_and_leave_nothing(
    package: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()

    def ends(code: int, told: str, *words: str | Path) -> None:
        assert export(*words) == code
        said = capsys.readouterr().err
        *stages, error = said.splitlines()
        assert told in error and error.startswith("inpaint export: error: "), said
        assert {*stages} <= {COPYING, EXPORTING, FETCHING}, said
        assert stages == [COPYING, EXPORTING] or "exported" not in told
        assert not list(out.iterdir())

    runtime = ("--runtime", package)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    ends(2, "full is not empty; give a new folder", model, "-o", tmp_path / "full", *runtime)
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"
    ends(2, "notes.txt is a file; give a new folder", model, "-o", tmp_path / "full" / "notes.txt", *runtime)
    ends(1, "cannot write", model, "-o", tmp_path / "full" / "notes.txt" / "page", *runtime)
    ends(2, "two models are given", model, "--model", model, "-o", out / "page", *runtime)
    ends(2, "--precision is fp16", model, "-o", out / "page", "--precision", "fp16", *runtime)
    ends(2, "fidelity is 2", model, "-o", out / "page", "--fidelity", "2", *runtime)
    ends(2, "holds no dist/ort.wasm.bundle.min.mjs; give the folder or", model, "-o", out / "page", "--runtime", out)
    (tmp_path / "text.tgz").write_text("no archive")
    ends(2, "text.tgz cannot be read", model, "-o", out / "page", "--runtime", tmp_path / "text.tgz")
    torch.manual_seed(0)
    monkeypatch.setitem(GENERATORS, "unexportable", f"{Unexportable.__module__}:Unexportable")
    Generator(GeneratorConfig(architecture="unexportable")).save_pretrained(tmp_path / "odd")
    ends(1, "'unexportable' cannot be exported", tmp_path / "odd", "-o", out / "page", *runtime)
    (package / "dist" / NAMES[1]).write_text("damaged")
    ends(2, f"dist/{NAMES[1]} is another file (SHA-256 ", model, "-o", out / "page", *runtime)
    monkeypatch.setenv("INPAINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    ends(1, "npm is not installed here; where there is npm, run: npm pack", model, "-o", out / "page")
    (tmp_path / "npm").write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    ends(1, "npm could not fetch onnxruntime-web@1.30.0: npm error code ENOTFOUND; where", model, "-o", out / "page")
