"""`inpaint rate`: that it shows what `inpaint evaluate` judges, and what it refuses."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rating import NUM, NUM_IMAGES, SIZE, Site, make_site
from running import refused
from starlette.testclient import TestClient

from inpaint.cli import main
from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.rating.answers import Answers


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Site:
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    Generator(GeneratorConfig(width=4, norm="none", image_size=SIZE)).save_pretrained(folder)
    return folder


@pytest.fixture
def rate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Every trial that a rater gets of `inpaint rate` with some arguments, with its image's file."""

    def ask(*arguments: str | Path) -> list[dict[str, Any]]:
        trials = []

        def serve(app: Any, port: int | None, announce: Callable[[str], None]) -> None:
            announce("http://127.0.0.1:8000/")
            client = TestClient(app, base_url="http://127.0.0.1:8000")
            who = {"rater": "anna", "session": "a session", "mode": "score"}
            state = client.post("/api/enter", json=who).json()
            while state["trial"] is not None:
                file = client.get(f"/image/score/anna/{state['trial']}/filled.png").content
                trials.append({**state, "pixels": np.asarray(Image.open(BytesIO(file)))})
                answer = {"trial": state["trial"], "local_score": 5, "global_score": 6}
                state = client.post("/api/answer", json={**who, **answer}).json()

        monkeypatch.setattr("inpaint.web.serve", serve)
        assert main(["rate", *map(str, arguments)]) == 0
        return trials

    return ask


def test_what_is_rated_is_what_is_evaluated(
    site: Site,
    model: Path,
    tmp_path: Path,
    rate: Callable[..., list[dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    ratings = tmp_path / "ratings.sqlite"
    arguments = [*site.arguments(ratings), "--num-images", str(NUM)]
    trials = rate(str(model), *arguments, "--baselines")
    out = capsys.readouterr().out
    assert f"{NUM} images are in both parts: `Which one is the photograph?` is to be done first" in out
    assert f"stopped; {len(trials)} answers are in {ratings}" in out
    flags = arguments[len(site.models) : arguments.index("--num-images")]
    fills = [word for name in site.models for word in ("--fills", name)]
    assert main(["evaluate", "--model", str(model), *fills, "--baselines", "--out", str(tmp_path), *flags]) == 0
    evaluated = json.loads((tmp_path / "evaluation.json").read_text())
    with Answers(ratings) as file:
        kept, answers = file.fills(), file.of("score")
    by_model = defaultdict(list)
    for fill in kept:
        by_model[fill.model].append(fill.metrics)
    assert (
        set(by_model) == set(evaluated["methods"]) == {str(model), *site.models, "mean fill", "Telea", "Navier-Stokes"}
    )
    for name, its in by_model.items():
        assert len(its) == NUM
        for metric in ("hole_psnr", "hole_ssim", "l1"):
            mean = np.mean([figures[metric] for figures in its])
            assert mean == pytest.approx(evaluated["methods"][name]["figures"][metric], rel=1e-5), (name, metric)
    assert len({fill.hole for fill in kept}) == NUM
    # The trials came in the order of the answers: what was shown is what the folders hold.
    for trial, answer in zip(trials, answers, strict=True):
        if answer.model in site.models:
            assert np.array_equal(trial["pixels"], site.fills[Path(answer.model).name][answer.image])
    assert main(["rate", "--results", str(ratings)]) == 0
    out = capsys.readouterr().out
    assert f"| {model} " in out and "5.00 (5.00 to 5.00)" in out and "hole PSNR" in out and "alpha" in out


def test_a_file_of_ratings_goes_on_with_what_it_was_begun_with(
    site: Site, tmp_path: Path, rate: Callable[..., list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    ratings = tmp_path / "ratings.sqlite"
    arguments = site.arguments(ratings)
    assert len(rate(*arguments)) == 2 * NUM_IMAGES
    assert rate(*arguments) == []
    assert len(rate(*arguments, "--num-images", NUM_IMAGES + 1)) == 2
    assert len(rate(*arguments, "--baselines")) == 3 * NUM_IMAGES
    told = refusal(capsys, 1, *arguments, "--seed", "4")
    assert f"{ratings} was begun with --seed 3, now 4: give the same, or another --ratings" in told
    fill = site.folder / "blurred" / "000.png"
    before = fill.read_bytes()
    Image.new("RGB", (SIZE, SIZE)).save(fill)
    try:
        assert f"has ratings of another {site.folder / 'blurred'}: its weights or fills" in refusal(
            capsys, 1, *arguments
        )
    finally:
        fill.write_bytes(before)


refusal = partial(refused, ["rate"])


def test_what_cannot_be_rated_is_refused_in_a_line(
    site: Site, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "nothing to rate: give models" in refusal(capsys, 2)
    assert "given twice" in refusal(capsys, 2, model, model)
    assert "--num-images is 0" in refusal(capsys, 2, model, "--num-images", "0")
    assert "takes no models" in refusal(capsys, 2, model, "--results", "ratings.sqlite")
    assert "there is no file ratings.sqlite" in refusal(capsys, 1, "--results", "ratings.sqlite")
    (tmp_path / "empty").mkdir()
    assert "empty holds no run, no saved generator and no fills" in refusal(capsys, 1, "empty")
    of_photos = ("--data", site.folder / "photos", "--image-size", SIZE)
    assert "./nowhere" in refusal(capsys, 1, "./nowhere", *of_photos)
    assert "nowhere" in refusal(capsys, 2, model, "--data", "./nowhere")
    assert "have no fill there" in refusal(capsys, 1, site.models[0], *of_photos, "--split", "train")
    (tmp_path / "damaged.sqlite").write_bytes(b"SQLite format 3\0" + bytes(4000))
    for flag in (("--results",), (model, "--ratings")):
        assert "is damaged, or no file of ratings" in refusal(capsys, 1, *flag, "damaged.sqlite")
    monkeypatch.setattr("inpaint.web.find_spec", lambda name: None)
    assert "needs starlette and uvicorn: pip install 'inpaint[web]'" in refusal(capsys, 2, model)
