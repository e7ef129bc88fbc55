"""Owns what a rater is shown and when: random over the models, and a function of the seed and the rater alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from inpaint.rating.answers import Mode


@dataclass(frozen=True)
class Trial:
    """One question to a rater.

    Attributes:
        name: says nothing to who sees it.
        model, image: whose fill of what is judged.
        is_photograph_left: where the photograph is, in the mode "photograph".
    """

    name: str
    model: str
    image: str
    is_photograph_left: bool


def choose(images: Sequence[str], seed: int, num: int) -> dict[Mode, list[str]]:
    """The images of each mode, up to `num`: not the same where there are enough, for scoring shows the photographs.

    A larger `num` adds images and takes none away.
    """
    order = sorted(images, key=lambda image: _hash("choose", str(seed), image))
    return {"score": order[:num], "photograph": order[::-1][:num]}


def trials(mode: Mode, rater: str, seed: int, models: Sequence[str], images: Sequence[str]) -> list[Trial]:
    """All questions to a rater, in the order in which they are asked.

    Scored are all fills, in rounds: each shows every image once, filled by a model that no other round has it filled
    by, so that who stops early has seen the models about equally often. Of a photograph there is one question alone,
    for who has seen it knows it; the models take turns, and the photograph is on each side half of each model's times.
    """

    def shuffled(names: Sequence[str], *what: str) -> list[str]:
        return sorted(names, key=lambda name: _hash(str(seed), rater, *what, name))

    def trial(model: str, image: str, is_left: bool = False) -> Trial:
        return Trial(_hash("trial", str(seed), rater, mode, model, image)[:16], model, image, is_left)

    if mode == "photograph":
        turns = shuffled(models, mode)
        of_turns = {image: turns[place % len(turns)] for place, image in enumerate(shuffled(images, mode))}
        left: set[str] = set()
        for place, model in enumerate(turns):
            own = shuffled([image for image, its in of_turns.items() if its == model], mode, "left")
            left.update(own[: (len(own) + place % 2) // 2])
        return [trial(model, image, image in left) for image, model in of_turns.items()]
    of_images = {image: shuffled(models, "models of", image) for image in images}
    asked: list[Trial] = []
    for number in range(len(models)):
        round_ = shuffled(images, "round", str(number))
        if asked and len(round_) > 1 and asked[-1].image == round_[0]:
            round_[:2] = round_[1::-1]
        asked += [trial(of_images[image][number], image) for image in round_]
    return asked


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
