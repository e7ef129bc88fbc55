"""The rating page as raters use it: a real Chromium, a real server, and both of them dying in between."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from browsing import PATIENCE_S, browser, complaints, free_port, until
from rating import NUM_IMAGES, SEED, Site, make_site, served

from inpaint.cli import main
from inpaint.rating.answers import Answers, Mode
from inpaint.rating.order import choose, trials

pytest.importorskip("selenium", reason="a real browser is driven by selenium: pip install it")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Site:
    return make_site(tmp_path_factory.mktemp("site"))


class Page:
    """One window of the page, and the keyboard before it."""

    def __init__(self, driver: Any, port: int) -> None:
        self.driver, self.address = driver, f"http://127.0.0.1:{port}/"
        driver.get(self.address)

    def type(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def begin(self, rater: str, mode: Mode = "score") -> None:
        self.type(rater, *([Keys.TAB, Keys.ARROW_DOWN] if mode == "photograph" else []), Keys.ENTER)

    def text(self, name: str) -> str:
        return self.driver.find_element(By.ID, name).text

    def shown(self) -> set[str]:
        """The ids of what can be seen."""
        script = (
            "const isSeen = (it) => it.checkVisibility({visibilityProperty: true});"
            "return [...document.querySelectorAll('[id]')].filter(isSeen).map((it) => it.id)"
        )
        return set(self.driver.execute_script(script))

    def stands_at(self, count: str) -> None:
        """Wait until so many answers are in, and the page takes the next."""
        script = "return document.body.dataset.busy === undefined"
        until(lambda: self.text("count") == count and self.driver.execute_script(script), f"never at {count}")

    def close(self) -> None:
        """The window, as a rater closes it; the browser stays."""
        (window,) = self.driver.window_handles
        self.driver.switch_to.new_window("tab")
        (other,) = {*self.driver.window_handles} - {window}
        self.driver.switch_to.window(window)
        self.driver.close()
        self.driver.switch_to.window(other)

    def said(self) -> list[str]:
        return complaints(self.driver, self.address)


def asked(site: Site, mode: Mode, rater: str) -> list[tuple[str, str]]:
    """The fills in the order in which this rater is to see them."""
    images = choose(list(site.images), SEED, NUM_IMAGES)[mode]
    return [(trial.model, trial.image) for trial in trials(mode, rater, SEED, site.models, images)]


def test_ten_images_by_keyboard_with_an_undo_a_break_and_a_killed_server(site: Site, tmp_path: Path) -> None:
    ratings, port = tmp_path / "ratings.sqlite", free_port()
    wanted = [(number % 10 + 1, (3 * number) % 10 + 1) for number in range(2 * NUM_IMAGES)]

    def keys(number: int) -> list[str]:
        return [*(str(score % 10) for score in wanted[number]), Keys.ENTER]

    with served(site, ratings, port) as server, browser() as driver:
        page = Page(driver, port)
        assert "start" in page.shown() and "score" not in page.shown()
        page.begin(" Anna ")
        page.stands_at("0 of 10")
        assert {"score", "filled", "next"} <= page.shown() and not {"original", "hole", "start"} & page.shown()
        page.type(Keys.ENTER)  # nothing is scored yet, and one score alone is no answer
        page.type("4", Keys.ENTER)
        for key, which in (("o", "original"), ("h", "hole")):
            ActionChains(driver).key_down(key).perform()
            assert which in page.shown() and "filled" not in page.shown()
            ActionChains(driver).key_up(key).perform()
            assert which not in page.shown() and "filled" in page.shown()
        assert page.text("count") == "0 of 10"
        page.type(Keys.ARROW_UP)
        for number in range(3):
            page.type(*keys(number))
            page.stands_at(f"{number + 1} of 10")
        page.type("1", "1", Keys.ENTER)
        page.stands_at("4 of 10")
        page.type("u")
        page.stands_at("3 of 10")
        assert (page.text("local-value"), page.text("global-value")) == ("1", "1")
        page.type("9", Keys.ARROW_UP, Keys.ARROW_RIGHT, *keys(3))
        page.stands_at("4 of 10")
        assert page.said() == []
        page.close()
        page = Page(driver, port)
        page.begin("anna")
        page.stands_at("4 of 10")
        page.type(*keys(4))
        page.stands_at("5 of 10")
        server.kill()
        page.type(*keys(5))
        until(lambda: "does not answer" in page.text("notice"), "it never said that the server is gone")
        assert page.text("count") == "5 of 10"
        with served(site, ratings, port) as second:
            page.stands_at("6 of 10")
            assert "notice" not in page.shown()
            for number in range(6, 10):
                page.type(*keys(number))
                page.stands_at(f"{number + 1} of 10")
            assert "done" in page.shown() and page.text("done-count") == "10"
            second.processes[0].send_signal(signal.SIGINT)
            assert "stopped; 10 answers are in" in second.wait(PATIENCE_S).ok().stdout
    with Answers(ratings) as file:
        kept = file.of("score")
    order = asked(site, "score", "anna")
    assert [(its.rater, its.model, its.image) for its in kept] == [("anna", *fill) for fill in order]
    assert [(its.local_score, its.global_score) for its in kept] == wanted


def test_the_photograph_is_told_from_fills_by_two_raters_at_once(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ratings, port = tmp_path / "ratings.sqlite", free_port()
    images = choose(list(site.images), SEED, NUM_IMAGES)["photograph"]
    with served(site, ratings, port) as server, browser() as first, browser(390, 844) as second:
        pages = {"anna": Page(first, port), "ben": Page(second, port)}
        for rater, page in pages.items():
            page.begin(rater, "photograph")
            page.stands_at("0 of 5")
        assert {"photograph", "left", "right"} <= pages["ben"].shown()
        impostor = Page(second, port)  # ben has left, and would be anna
        impostor.begin("ANNA", "photograph")
        until(lambda: "anna is rating in another window right now" in page.text("notice"), "two annas")
        assert "start" in impostor.shown()
        pages["ben"] = Page(second, port)
        pages["ben"].begin("ben", "photograph")
        for number in range(NUM_IMAGES):
            for rater, page in pages.items():
                page.stands_at(f"{number} of 5")
                trial = trials("photograph", rater, SEED, site.models, images)[number]
                # Anna is always right, ben takes the left one.
                is_left = trial.is_photograph_left or rater == "ben"
                page.type(Keys.ARROW_LEFT if is_left else Keys.ARROW_RIGHT)
        for page in pages.values():
            page.stands_at("5 of 5")
            assert "done" in page.shown()
        pages["ben"].type("u")
        pages["ben"].stands_at("4 of 5")
        assert "photograph" in pages["ben"].shown() and pages["anna"].said() == []
        server.processes[0].send_signal(signal.SIGTERM)
        server.wait(PATIENCE_S).ok()
    with Answers(ratings) as file:
        kept = file.of("photograph")
    of_ben = trials("photograph", "ben", SEED, site.models, images)[:4]
    assert [its.correct for its in kept if its.rater == "anna"] == [True] * 5
    assert [its.correct for its in kept if its.rater == "ben"] == [trial.is_photograph_left for trial in of_ben]
    assert main(["rate", "--results", str(ratings)]) == 0
    out = capsys.readouterr().out
    assert "Answers by anna (5), ben (4)" in out and f"| {site.models[0]} " in out and "Wilson's 95% interval" in out
