"""Answers in their file, and what they come to: against numbers worked out by hand or published."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from inpaint.errors import InpaintError
from inpaint.rating.answers import LEASE_S, Answer, Answers, Fill, NameInUseError
from inpaint.rating.results import krippendorff_alpha, results, scores, wilson

MODELS, IMAGES = ("runs/a", "runs/b"), tuple(f"coast/{number}.png" for number in range(12))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of two models' fills of twelve images; `runs/b` has the higher PSNR in each, and the lower L1."""
    fills = [
        Fill(
            model, image, "hole", {"hole_psnr": 20.0 + number + 3 * (model == "runs/b"), "hole_l1": 0.1 / (number + 1)}
        )
        for model in MODELS
        for number, image in enumerate(IMAGES)
    ]
    with Answers(tmp_path / "ratings.sqlite", do_create=True) as file:
        file.begin({"--data": "photos"}, dict.fromkeys(MODELS, "0"), fills)
    return tmp_path / "ratings.sqlite"


def say(path: Path, *answers: Answer) -> None:
    with Answers(path, do_create=True) as file:
        for answer in answers:
            file.add(answer)


def scored(rater: str, model: str, image: str, local: int, whole: int) -> Answer:
    return Answer("score", rater, model, image, local, whole)


def test_mean_scores_have_the_interval_of_images_drawn_anew(path: Path) -> None:
    random = np.random.default_rng(0)
    given = random.integers(1, 11, (len(MODELS), len(IMAGES), 2))
    for model, of_model in zip(MODELS, given, strict=True):
        say(
            path, *(scored("anna", model, image, *map(int, both)) for image, both in zip(IMAGES, of_model, strict=True))
        )
    say(path, scored("ben", "runs/a", IMAGES[0], 10, 1))
    found = scores(path)
    assert list(found) == list(MODELS)
    of_a, of_b = found["runs/a"]["local"], found["runs/b"]["global"]
    assert of_a.mean == pytest.approx((given[0, :, 0].sum() + 10) / 13)
    assert (of_a.num_answers, of_a.num_raters) == (13, 2)
    assert of_b.mean == pytest.approx(given[1, :, 1].mean())
    assert (of_b.num_answers, of_b.num_raters) == (12, 1)
    # The interval of a mean of twelve is about two standard errors to each side.
    assert of_b.interval is not None
    half = 1.96 * given[1, :, 1].std() / math.sqrt(len(IMAGES))
    assert of_b.interval == pytest.approx((of_b.mean - half, of_b.mean + half), abs=0.2 * half)
    (difference,) = results(path).differences
    assert difference["methods"] == list(MODELS)
    assert difference["figures"]["global"] == pytest.approx(given[0, :, 1].sum() / 13 + 1 / 13 - of_b.mean)


def test_a_metric_that_sees_what_people_see_correlates_with_their_scores(path: Path) -> None:
    for model in MODELS:
        for number, image in enumerate(IMAGES[:9]):
            # Local scores follow PSNR, a third of one for each image; global ones fall as L1 says that they rise.
            say(path, scored("anna", model, image, 1 + number // 3 + (model == "runs/b"), 10 - number))
    found = results(path)
    value, interval = found.correlations["hole_l1"]["global"]
    assert (value, *interval) == pytest.approx((-1.0, -1.0, -1.0))
    value, interval = found.correlations["hole_psnr"]["local"]
    assert value > 0.95 and interval[0] > 0.9
    assert "ssim" not in found.correlations


def test_agreement_and_shares_are_those_of_their_sources(path: Path) -> None:
    # Krippendorff 2011, the data of four observers with values missing: 0.849 for interval data.
    units = "1 1 1|2 2 3 2|3 3 3 3|3 3 3 3|2 2 2 2|1 2 3 4|4 4 4 4|1 1 2 1|2 2 2 2|5 5 5|1 1|3"
    published = [[float(value) for value in unit.split()] for unit in units.split("|")]
    assert krippendorff_alpha(published) == pytest.approx(0.849, abs=5e-4)
    assert krippendorff_alpha([[3.0], [4.0]]) is None and krippendorff_alpha([[3.0, 3.0]] * 4) is None
    # Newcombe 1998, table I: 81 of 263 and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    for rater, values in (("anna", (2, 9)), ("ben", (3, 9)), ("cleo", (2, 8))):
        say(path, *(scored(rater, "runs/a", image, value, 5) for image, value in zip(IMAGES, values, strict=False)))
    found = results(path)
    assert found.agreement["local"] == pytest.approx(krippendorff_alpha([[2, 3, 2], [9, 9, 8]]))
    assert found.agreement["global"] is None
    say(path, *(Answer("photograph", "anna", "runs/b", image, correct=image != IMAGES[0]) for image in IMAGES[:4]))
    told = results(path).told
    assert list(told) == ["runs/b"] and (told["runs/b"].num_right, told["runs/b"].num_answers) == (3, 4)
    assert results(path).raters == {"anna": 6, "ben": 2, "cleo": 2}


def test_an_answer_is_kept_once_and_can_be_taken_back(path: Path) -> None:
    first, second = scored("anna", "runs/a", IMAGES[0], 3, 4), scored("anna", "runs/b", IMAGES[0], 5, 6)
    say(path, first, second, scored("anna", "runs/a", IMAGES[0], 9, 9), scored("ben", "runs/a", IMAGES[0], 1, 1))
    with Answers(path, do_create=True) as file:
        assert [(its.model, its.local_score) for its in file.of("score", "anna")] == [("runs/a", 3), ("runs/b", 5)]
        file.remove(second)
        assert len(file.of("score")) == 2
        with pytest.raises(sqlite3.IntegrityError, match="CHECK constraint failed"):
            file.add(scored("anna", "runs/b", IMAGES[0], 11, 4))


def test_a_name_is_of_one_page_at_a_time(path: Path) -> None:
    with Answers(path, do_create=True) as one, Answers(path, do_create=True) as other:
        one.hold("anna", "first", 100.0)
        with pytest.raises(NameInUseError, match="anna is rating in another window"):
            other.hold("anna", "second", 100.0 + LEASE_S - 1)
        other.hold("ben", "second", 100.0)
        one.hold("anna", "first", 125.0)
        with pytest.raises(NameInUseError):
            other.hold("anna", "second", 125.0 + LEASE_S - 1)
        one.leave("anna", "another")
        with pytest.raises(NameInUseError):
            other.hold("anna", "second", 126.0)
        one.leave("anna", "first")
        other.hold("anna", "second", 126.0)
        one.hold("anna", "first", 126.0 + LEASE_S)


def test_what_is_rated_stays_what_it_was(path: Path) -> None:
    with Answers(path, do_create=True) as file:
        file.begin({"--data": "photos"}, {"runs/a": "0", "runs/c": "2"}, [])
        with pytest.raises(InpaintError, match="begun with --data photos, now others: give the same"):
            file.begin({"--data": "others"}, {}, [])
        with pytest.raises(InpaintError, match="ratings of another runs/c: its weights or fills have changed"):
            file.begin({"--data": "photos"}, {"runs/c": "3"}, [])


def test_a_file_that_cannot_be_used_is_told_in_a_line(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InpaintError, match="holds no answers yet"):
        scores(path)
    with pytest.raises(InpaintError, match="there is no file"):
        scores(tmp_path / "none.sqlite")
    (tmp_path / "text").write_text("no database at all, " * 100)
    with pytest.raises(InpaintError, match=r"is damaged, or no file of ratings .file is not a database."):
        scores(tmp_path / "text")
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE others (a)")
    other.close()
    for do_create in (True, False):
        with pytest.raises(InpaintError, match="not a file of ratings of this version"):
            Answers(tmp_path / "other.sqlite", do_create)
    say(path, *(scored("anna", model, image, 5, 5) for model in MODELS for image in IMAGES))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for do_create in (True, False):
        with pytest.raises(InpaintError, match=r"is damaged, or no file of ratings .*: give another --ratings") as told:
            Answers(path, do_create)
        assert "\n" not in str(told.value)
    with pytest.raises(InpaintError, match=r"cannot be used .unable to open database file"):
        Answers(tmp_path / "nowhere" / "ratings.sqlite", do_create=True)
