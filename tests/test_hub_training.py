"""Training that pushes to the Hub: what arrives is what was trained, and no fault on the way changes the training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from hub_server import LoopbackHub
from publishing import DAMAGES
from running import differences, tiny_config, train, weights

from inpaint import Generator
from inpaint.cli import main as inpaint
from inpaint.hub.queue import PushQueue

REPO = "alice/landscapes"
LAST = 20


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The same run without a Hub."""
    folder = tmp_path_factory.mktemp("straight")
    train("--config", tiny_config(folder), "--run-dir", folder / "run", env={"INPAINT_CACHE": str(cache)}).ok()
    return folder / "run"


def arguments(folder: Path, wait_minutes: float = 3.0) -> list[str]:
    hub = {"repo_id": REPO, "push_every": "epoch", "push_checkpoint": True, "wait_minutes": wait_minutes}
    return ["--config", str(tiny_config(folder, hub=hub)), "--run-dir", str(folder / "run")]


def assert_trained_alike(run: Path, straight: Path) -> None:
    assert set(differences(weights(run, LAST), weights(straight, LAST)).values()) == {0.0}


def assert_complete(hub: LoopbackHub, run: Path, cache: Path) -> None:
    """The Hub holds every epoch and the end, which is what lies in the run's folder."""
    titles = [commit.title for commit in hub.head(REPO).history()]
    assert titles[:3] == ["final", "epoch-0002", "epoch-0001"]
    assert_newest(run, cache)


def assert_newest(run: Path, cache: Path) -> None:
    """What the end of training pushed is what lies in the run's folder."""
    local = Generator.from_pretrained(run / "generator").state_dict()
    for revision in ("main", "final", "epoch-0002"):
        there = Generator.from_pretrained(REPO, revision=revision, cache_dir=cache).state_dict()
        assert all(torch.equal(tensor, there[name]) for name, tensor in local.items())


def test_what_was_trained_is_on_the_hub_with_an_honest_card_and_no_token_anywhere(
    hub: LoopbackHub, tmp_path: Path, cache: Path, straight: Path
) -> None:
    ended = train(*arguments(tmp_path), env={"INPAINT_CACHE": str(cache)}).ok()
    run = tmp_path / "run"
    assert_trained_alike(run, straight)
    assert_complete(hub, run, tmp_path / "fresh")
    assert f"{REPO} holds epoch-0001, epoch-0002, final" in ended.stderr
    files = hub.head(REPO).files
    assert {"model.safetensors", "config.json", "README.md", "metrics.jsonl", "config.yaml"} <= files.keys()
    assert "samples/epoch_0002.png" in files and f"checkpoints/step_{LAST:08d}/manifest.json" in files
    metadata = yaml.safe_load(files["README.md"].content.decode().split("---")[1])
    measured = {result["name"]: result["value"] for result in metadata["model-index"][0]["results"][0]["metrics"]}
    evaluation = yaml.safe_load((run / "evaluation.json").read_text())["rows"]["generator"]
    assert sorted(measured.values()) == pytest.approx(sorted(evaluation.values()), abs=1e-3)
    written = [path.read_bytes() for path in run.rglob("*") if path.is_file()]
    for text in [ended.stdout.encode(), ended.stderr.encode(), *written, *(file.content for file in files.values())]:
        assert hub.token.encode() not in text


def test_a_hub_that_is_away_changes_nothing_and_the_push_is_made_up_for(
    hub: LoopbackHub, tmp_path: Path, cache: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = hub.fault("/api/repos/create", status=503, times=10_000)
    ended = train(*arguments(tmp_path, wait_minutes=0.02), env={"INPAINT_CACHE": str(cache)}).ok()
    assert_trained_alike(tmp_path / "run", straight)
    assert away.num_hit > 0 and "NOT" in ended.stderr
    hub.clear_faults()
    assert inpaint(["push", str(tmp_path / "run")]) == 0
    assert_complete(hub, tmp_path / "run", tmp_path / "fresh")


@pytest.mark.soak
@pytest.mark.parametrize("fault", [{"status": 503, "times": 4}, {"status": 429, "headers": {"Retry-After": "1"}}])
@pytest.mark.parametrize(
    "request_line",
    [
        "POST /api/repos/create",
        "POST /validate-yaml",
        "POST /preupload/",
        "GET /xet-write-token/",
        "POST /xet/v1/xorbs",
        "POST /xet/v1/shards",
        "POST /commit/",
        "POST /tag/",
    ],
)
def test_every_fault_at_every_request_of_a_training(
    hub: LoopbackHub, tmp_path: Path, cache: Path, straight: Path, fault: dict, request_line: str
) -> None:
    method, path = request_line.split()
    injected = hub.fault(path, method=method, **fault)
    train(*arguments(tmp_path), env={"INPAINT_CACHE": str(cache)}, timeout_s=600).ok()
    assert injected.num_hit > 0
    assert_trained_alike(tmp_path / "run", straight)
    assert_complete(hub, tmp_path / "run", tmp_path / "fresh")


@pytest.mark.soak
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_of_the_queue_under_a_training_that_goes_on(
    hub: LoopbackHub, tmp_path: Path, cache: Path, straight: Path, damage: str
) -> None:
    """One epoch with the Hub away; then the damage, and the run goes on with the Hub back."""
    env, (do, set_aside) = {"INPAINT_CACHE": str(cache)}, DAMAGES[damage]
    hub.fault("/api/repos/create", status=503, times=10_000)
    train(*arguments(tmp_path, wait_minutes=0.01), "--training.max-steps", LAST // 2, env=env).ok()
    hub.clear_faults()
    PushQueue(tmp_path / "run").record("created", repo_id=REPO, private=False)
    do(tmp_path / "run" / "hub_queue")
    ended = train(*arguments(tmp_path), env=env).ok()
    assert_trained_alike(tmp_path / "run", straight)
    assert ("is damaged: set aside as" in ended.stderr) == bool(set_aside)
    assert_newest(tmp_path / "run", tmp_path / "fresh")
    assert "NOT" not in ended.stderr
