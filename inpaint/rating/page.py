"""Owns what the rating page asks the server: who rates, what is next, what was said, and the images."""

from __future__ import annotations

import re
import time
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inpaint.errors import InpaintError, UsageError
from inpaint.rating.answers import HIGHEST, LOWEST, Answer, Answers, Mode, NameInUseError
from inpaint.rating.gallery import Gallery, png
from inpaint.rating.order import Trial, trials
from inpaint.web import application

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

STATIC = Path(__file__).parent / "static"
_NAME = re.compile(r"[\w.-]+( [\w.-]+)*")
_LONGEST_NAME = 40


class Asked(BaseModel):
    """What every request says: who asks, from which opened page, in which mode."""

    model_config = ConfigDict(extra="forbid", strict=True)
    rater: str
    session: str = Field(min_length=8, max_length=64)
    mode: Mode


class TakenBack(Asked):
    """The last of so many answers is to go."""

    num_done: int


class Said(Asked):
    """An answer to a trial: both scores, or the side on which the rater believes the photograph to be."""

    trial: str
    local_score: int | None = Field(default=None, ge=LOWEST, le=HIGHEST)
    global_score: int | None = Field(default=None, ge=LOWEST, le=HIGHEST)
    side: Literal["left", "right"] | None = None


_Model = TypeVar("_Model", bound=Asked)


class NoTrialError(InpaintError):
    """There is no such image."""


class RatingPage:
    """The page of one gallery and one file of answers.

    Args:
        gallery: all images of both modes.
        images: those of each mode.
        seed: of the order in which raters see them.
        answers: stays open for as long as the page is served.
    """

    def __init__(self, gallery: Gallery, images: dict[Mode, list[str]], seed: int, answers: Answers) -> None:
        self._gallery, self._images, self._seed, self._answers = gallery, images, seed, answers
        self._trials = lru_cache(256)(self._compute_trials)

    def app(self) -> Starlette:
        from starlette.routing import Route

        posts = {"enter": self._enter, "answer": self._answer, "undo": self._undo, "alive": self._alive}
        routes = [Route(f"/api/{name}", endpoint, methods=["POST"]) for name, endpoint in posts.items()]
        routes.append(Route("/api/leave", self._leave, methods=["POST"]))
        routes.append(Route("/image/{mode}/{rater}/{trial}/{which}.png", self._image))
        return application(routes, STATIC, {NameInUseError: 409, NoTrialError: 404})

    # All of these run in the server's one thread, and none waits between reading the answers and writing them.

    async def _enter(self, request: Request) -> Response:
        asked = await _read(request, Asked)
        self._hold(asked)
        return self._state(asked)

    async def _alive(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        self._hold(await _read(request, Asked))
        return JSONResponse({})

    async def _leave(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        asked = await _read(request, Asked)
        self._answers.leave(asked.rater, asked.session)
        return JSONResponse({})

    async def _answer(self, request: Request) -> Response:
        said = await _read(request, Said)
        self._hold(said)
        # A page that had no reply says it again; what is answered already stays as it was.
        trial = next((trial for trial in self._pending(said) if trial.name == said.trial), None)
        if trial is not None and said.mode == "score":
            if said.local_score is None or said.global_score is None:
                raise UsageError("an answer needs local_score and global_score")
            scores = said.local_score, said.global_score
            self._answers.add(Answer("score", said.rater, trial.model, trial.image, *scores))
        elif trial is not None:
            if said.side is None:
                raise UsageError("an answer needs side: left or right")
            is_right = (said.side == "left") == trial.is_photograph_left
            self._answers.add(Answer("photograph", said.rater, trial.model, trial.image, correct=is_right))
        return self._state(said)

    async def _undo(self, request: Request) -> Response:
        asked = await _read(request, TakenBack)
        self._hold(asked)
        every = self._trials(asked.mode, asked.rater)
        shown = {(its.model, its.image) for its in every.values()}
        given = [its for its in self._answers.of(asked.mode, asked.rater) if (its.model, its.image) in shown]
        if not given or asked.num_done != len(every) - len(self._pending(asked)):  # done before, and the reply was lost
            return self._state(asked)
        self._answers.remove(given[-1])
        return self._state(asked, given[-1])

    async def _image(self, request: Request) -> Response:
        from starlette.responses import Response

        mode, rater, name, which = (request.path_params[part] for part in ("mode", "rater", "trial", "which"))
        trial = self._trials(mode, rater).get(name) if mode in self._images else None
        if trial is None or which not in (("filled", "original", "hole") if mode == "score" else ("left", "right")):
            raise NoTrialError(f"there is no image {which} of {name}")
        gallery = self._gallery
        photograph = "original" if mode == "score" else "left" if trial.is_photograph_left else "right"
        if which == "hole":
            pixels = gallery.marked(trial.image)
        elif which == photograph:
            pixels = gallery.originals[trial.image]
        else:
            pixels = gallery.composites[trial.model, trial.image]
        return Response(png(pixels), media_type="image/png")

    def _hold(self, asked: Asked) -> None:
        self._answers.hold(asked.rater, asked.session, time.time())

    def _compute_trials(self, mode: Mode, rater: str) -> dict[str, Trial]:
        asked = trials(mode, rater, self._seed, self._gallery.models, self._images[mode])
        return {trial.name: trial for trial in asked}

    def _pending(self, asked: Asked) -> list[Trial]:
        answered = {(its.model, its.image) for its in self._answers.of(asked.mode, asked.rater)}
        if asked.mode == "photograph":  # with the models of another start the turns are others
            answered = {(model, image) for _, image in answered for model in self._gallery.models}
        every = self._trials(asked.mode, asked.rater).values()
        return [trial for trial in every if (trial.model, trial.image) not in answered]

    def _state(self, asked: Asked, taken: Answer | None = None) -> Response:
        """Where the rater is; after an undo at what was taken back, with the scores that it had."""
        from starlette.responses import JSONResponse

        pending, num_all = self._pending(asked), len(self._trials(asked.mode, asked.rater))
        of_fills = {(its.model, its.image): its for its in pending}
        trial = of_fills[taken.model, taken.image] if taken else next(iter(pending), None)
        state = {
            "rater": asked.rater,
            "num_done": num_all - len(pending),
            "num_all": num_all,
            "trial": trial.name if trial else None,
            "local_score": taken.local_score if taken else None,
            "global_score": taken.global_score if taken else None,
        }
        return JSONResponse(state)


def rater_name(text: str) -> str:
    """One name for all ways of writing it; UsageError unless it is one."""
    name = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise UsageError(
            f"{text[:80]!r} is no rater's name: letters, digits, spaces and . - _, up to {_LONGEST_NAME} characters"
        )
    return name


async def _read(request: Request, kind: type[_Model]) -> _Model:
    try:
        asked = kind.model_validate_json(await request.body())
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, its['loc'])) or 'body'}: {its['msg']}" for its in error.errors())
        raise UsageError(f"no request of this page: {faults}") from error
    return asked.model_copy(update={"rater": rater_name(asked.rater)})
