"""What the rating page and its server say to each other, and in which order images are shown."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from inpaint.rating.answers import Answers, Fill, Mode
from inpaint.rating.gallery import Gallery
from inpaint.rating.order import choose, trials
from inpaint.rating.page import RatingPage

MODELS, SIZE = ("runs/secret-one", "runs/secret-two", "runs/secret-three"), 16
IMAGES = [f"coast/{number}.png" for number in range(12)]
SCORED, PAIRED = IMAGES[:4], IMAGES[6:]


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    random = np.random.default_rng(0)
    originals = {image: random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for image in IMAGES}
    holes = {image: np.eye(SIZE, dtype=bool) for image in IMAGES}
    composites = {
        (model, image): np.where(np.eye(SIZE, dtype=bool)[..., None], np.uint8(number), originals[image])
        for number, model in enumerate(MODELS)
        for image in IMAGES
    }
    return Gallery(originals, holes, composites, [Fill(*pair, "hole", {}) for pair in composites])


@pytest.fixture
def file(gallery: Gallery, tmp_path: Path) -> Iterator[Answers]:
    with Answers(tmp_path / "ratings.sqlite", do_create=True) as opened:
        opened.begin({}, dict.fromkeys(MODELS, ""), gallery.fills)
        yield opened


class Page:
    """What a page would send."""

    def __init__(self, gallery: Gallery, file: Answers, rater: str, mode: Mode, session: str = "a session") -> None:
        app = RatingPage(gallery, {"score": SCORED, "photograph": PAIRED}, 0, file).app()
        self.client = TestClient(app, base_url="http://127.0.0.1:8000")
        self.who = {"rater": rater, "session": session, "mode": mode}

    def post(self, what: str, status: int = 200, **more: Any) -> dict[str, Any]:
        reply = self.client.post(f"/api/{what}", json={**self.who, **more})
        assert reply.status_code == status, reply.text
        assert "secret" not in reply.text
        return reply.json()

    def image(self, state: dict[str, Any], which: str) -> Any:
        path = f"/image/{self.who['mode']}/{state['rater']}/{state['trial']}/{which}.png"
        assert "secret" not in path
        reply = self.client.get(path)
        assert reply.status_code == 200, reply.text
        return np.asarray(Image.open(BytesIO(reply.content)))


def test_the_order_is_of_the_seed_and_the_rater_and_fair_to_models_wherever_one_stops() -> None:
    order = trials("score", "anna", 0, MODELS, IMAGES)
    assert order == trials("score", "anna", 0, MODELS[::-1], IMAGES[::-1])
    fills = [(its.model, its.image) for its in order]
    for rater, seed in (("ben", 0), ("anna", 1)):
        assert [(its.model, its.image) for its in trials("score", rater, seed, MODELS, IMAGES)] != fills
    assert {(its.model, its.image) for its in order} == {(model, image) for model in MODELS for image in IMAGES}
    assert len({its.name for its in order}) == len(order)
    assert all(one.image != other.image for one, other in pairwise(order))
    many = [f"{number}" for number in range(300)]
    asked = trials("score", "anna", 0, MODELS, many)
    for number in range(len(MODELS)):
        round_ = asked[number * len(many) : (number + 1) * len(many)]
        assert {its.image for its in round_} == set(many)
        assert all(70 < num < 130 for num in Counter(its.model for its in round_).values())
    pairs = trials("photograph", "anna", 0, MODELS, many)
    assert [its.image for its in pairs] != many and {its.image for its in pairs} == set(many)
    assert set(Counter(its.model for its in pairs).values()) == {100}
    assert set(Counter((its.model, its.is_photograph_left) for its in pairs).values()) == {50}
    assert 100 < sum(one.is_photograph_left == other.is_photograph_left for one, other in pairwise(pairs)) < 200
    few, more = choose(many, 0, 10), choose(many, 0, 20)
    for mode in ("score", "photograph"):
        assert len(few[mode]) == 10 and few[mode] == more[mode][:10]
    assert not set(more["score"]) & set(more["photograph"])


def test_fills_are_scored_once_whatever_is_lost_on_the_way(gallery: Gallery, file: Answers) -> None:
    page = Page(gallery, file, "Anna", "score")
    state = page.post("enter")
    order = trials("score", "anna", 0, MODELS, SCORED)
    for number, trial in enumerate(order):
        assert (state["num_done"], state["num_all"], state["trial"]) == (number, len(order), trial.name)
        assert np.array_equal(page.image(state, "filled"), gallery.composites[trial.model, trial.image])
        assert np.array_equal(page.image(state, "original"), gallery.originals[trial.image])
        assert (page.image(state, "hole")[np.eye(SIZE, dtype=bool)] == (255, 0, 255)).all()
        answer = {"trial": state["trial"], "local_score": number % 10 + 1, "global_score": 10}
        state = page.post("answer", **answer)
        # The reply was lost, and the page says it again: nothing is counted twice, and nothing is changed.
        assert page.post("answer", **{**answer, "global_score": 1}) == state
        if number == 5:
            undone = page.post("undo", num_done=6)
            assert undone == {**undone, "num_done": 5, "trial": trial.name, "local_score": 6, "global_score": 10}
            assert page.post("undo", num_done=6)["num_done"] == 5  # lost and said again
            page = Page(gallery, file, " ANNA  ", "score")  # another start of the server, the same page
            state = page.post("answer", **answer)
    assert (state["num_done"], state["trial"]) == (len(order), None)
    kept = file.of("score")
    assert [(its.model, its.image) for its in kept] == [(its.model, its.image) for its in order]
    assert [(its.rater, its.local_score, its.global_score) for its in kept] == [
        ("anna", number % 10 + 1, 10) for number in range(len(order))
    ]


def test_photographs_are_told_by_the_side_that_is_chosen(gallery: Gallery, file: Answers) -> None:
    page = Page(gallery, file, "ben", "photograph")
    state = page.post("enter")
    photographs, wanted = {pixels.tobytes() for pixels in gallery.originals.values()}, []
    for number in range(len(PAIRED)):
        sides = {side: page.image(state, side) for side in ("left", "right")}
        (real,) = [side for side, seen in sides.items() if seen.tobytes() in photographs]
        side = "left" if number % 2 else "right"
        wanted.append(side == real)
        state = page.post("answer", trial=state["trial"], side=side)
    assert [its.correct for its in file.of("photograph", "ben")] == wanted and len(set(wanted)) == 2
    assert state["trial"] is None
    assert page.post("undo", num_done=len(PAIRED))["num_done"] == len(PAIRED) - 1


def test_with_other_models_no_photograph_is_shown_again_and_other_answers_stay(gallery: Gallery, file: Answers) -> None:
    page = Page(gallery, file, "ben", "photograph")
    state = page.post("enter")
    for _ in range(3):
        state = page.post("answer", trial=state["trial"], side="left")
    fewer = Gallery(
        gallery.originals,
        gallery.holes,
        gallery.composites,
        [fill for fill in gallery.fills if fill.model == MODELS[0]],
    )
    seen = {its.image for its in file.of("photograph", "ben")}
    page = Page(fewer, file, "ben", "photograph")
    state = page.post("enter")
    assert (state["num_done"], state["num_all"]) == (3, len(PAIRED))
    while state["trial"] is not None:
        state = page.post("answer", trial=state["trial"], side="left")
    kept = file.of("photograph", "ben")
    assert Counter(its.image for its in kept) == Counter(PAIRED)
    assert {its.model for its in kept if its.image not in seen} == {MODELS[0]}


def test_two_raters_of_one_name_are_kept_apart(gallery: Gallery, file: Answers) -> None:
    anna, other = (Page(gallery, file, "anna", "score", session) for session in ("the first", "the other"))
    state = anna.post("enter")
    answer = {"trial": state["trial"], "local_score": 3, "global_score": 3}
    for what, more in (("enter", {}), ("alive", {}), ("answer", answer), ("undo", {"num_done": 0})):
        assert "anna is rating in another window right now" in other.post(what, 409, **more)["error"]
    other.post("leave")
    assert "another window" in other.post("enter", 409)["error"]
    assert not file.of("score")
    assert Page(gallery, file, "ben", "score", "the other").post("enter")["num_done"] == 0
    anna.post("leave")
    assert other.post("enter")["num_done"] == 0


def test_requests_that_make_no_sense_are_told_in_a_line(gallery: Gallery, file: Answers) -> None:
    page = Page(gallery, file, "anna", "score")
    state = page.post("enter")
    trial = state["trial"]
    for what, more, told in (
        ("enter", {"rater": "  "}, "'  ' is no rater's name: letters, digits"),
        ("enter", {"rater": "a/../b"}, "is no rater's name"),
        ("enter", {"rater": "a" * 41}, "up to 40 characters"),
        ("enter", {"mode": "other"}, "mode: Input should be 'score' or 'photograph'"),
        ("answer", {"trial": trial, "local_score": 11, "global_score": 1}, "local_score: Input should be less than"),
        ("answer", {"trial": trial, "local_score": 0, "global_score": 1}, "local_score: Input should be greater than"),
        ("answer", {"trial": trial, "local_score": 2.5, "global_score": 1}, "local_score: Input should be a valid int"),
        ("answer", {"trial": trial, "local_score": 1}, "needs local_score and global_score"),
        ("answer", {}, "trial: Field required"),
    ):
        assert told in page.post(what, 400, **more)["error"]
    assert page.client.post("/api/enter", content=b"\xff{").status_code == 400
    assert page.client.get("/api/enter").status_code in (404, 405)
    for path in (f"score/ben/{trial}/filled", f"score/anna/{trial}/left", f"photograph/anna/{trial}/left", "a/b/c/d"):
        assert page.client.get(f"/image/{path}.png").status_code == 404
    assert page.post("answer", trial="unknown", local_score=1, global_score=1) == state
    assert not file.of("score")


def test_an_answer_that_cannot_be_kept_is_told_and_can_be_given_again(
    gallery: Gallery, file: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inpaint.rating.answers._WAIT_S", 0.1)
    with Answers(file.path, do_create=True) as impatient:
        page = Page(gallery, impatient, "anna", "score")
        answer = {"trial": page.post("enter")["trial"], "local_score": 1, "global_score": 1}
        with closing(sqlite3.connect(file.path, isolation_level=None)) as busy:
            busy.execute("BEGIN IMMEDIATE")
            assert "cannot be used (database is locked)" in page.post("answer", 500, **answer)["error"]
            busy.execute("ROLLBACK")
        assert page.post("answer", **answer)["num_done"] == 1
