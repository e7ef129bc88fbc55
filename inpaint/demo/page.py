"""Owns what the page asks the server: what it can do, a photograph filled, and how long the queue is."""

from __future__ import annotations

import io
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inpaint.demo.line import BusyError, Line, TakenBackError
from inpaint.errors import InpaintError, InpaintWarning, UsageError, without_options
from inpaint.images.writing import save
from inpaint.models.generator import Generator
from inpaint.photographs.how import MOST_GROWN_PX, Strategy
from inpaint.pipeline import InpaintingPipeline
from inpaint.web import HOST, application

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from inpaint.images.job import Filled

STATIC = Path(__file__).parent / "static"


class TooLargeError(InpaintError):
    """More bytes or pixels than the page takes."""


class Asked(BaseModel):
    """What is said in the address of a fill; its body is the photograph's file and then the mask's."""

    model_config = ConfigDict(extra="forbid")
    job: str = Field(min_length=8, max_length=64)
    photo_bytes: int = Field(gt=0)
    strategy: Strategy = "auto"
    detail: bool = True
    fidelity: float | None = Field(default=None, ge=0, le=1)
    grow_mask_px: int = Field(default=0, ge=0, le=MOST_GROWN_PX)


@dataclass(frozen=True)
class Limits:
    """What the page takes; UsageError for one that lets nothing in.

    Args:
        megabytes: of a photograph and its mask together, as files.
        megapixels: of a photograph.
    """

    megabytes: float = 64
    megapixels: float = 64

    def __post_init__(self) -> None:
        for name, value in (("--max-upload-mb", self.megabytes), ("--max-megapixels", self.megapixels)):
            if not 0 < value <= 1000:  # nan is in no range
                raise UsageError(f"{name} is {value:g}; give a number of more than 0 and up to 1000")

    @property
    def num_bytes(self) -> int:
        return round(self.megabytes * 1e6)

    def require(self, photo: bytes) -> None:
        """TooLargeError for an image of too many pixels, before they are decoded; what is no image is left alone."""
        try:
            with Image.open(io.BytesIO(photo)) as image:
                width, height = image.size
        except Exception:  # noqa: BLE001 - Pillow raises whatever the bytes lead it to; reading it will say what it is
            return
        if width * height > self.megapixels * 1e6:
            raise TooLargeError(
                f"the photograph has {width}x{height} pixels ({width * height / 1e6:.1f} megapixels); up to "
                f"{self.megapixels:g} megapixels are taken"
            )


class DemoPage:
    """The page of one model.

    Args:
        pipeline: what fills; nothing else may use it while the page is served.
        model: its name, as the user knows it.
        limits: of what is sent.
        host: where it will be served.
    """

    def __init__(self, pipeline: InpaintingPipeline, model: str, limits: Limits, host: str = HOST) -> None:
        self._pipeline, self._model, self._limits, self._line = pipeline, model, limits, Line()
        self._host = host

    def app(self) -> Starlette:
        from starlette.routing import Route

        routes = [
            Route("/api/about", self._about),
            Route("/api/queue", self._queue),
            Route("/api/fill", self._fill, methods=["POST"]),
        ]
        statuses = {InpaintError: 422, BusyError: 503, TooLargeError: 413, TakenBackError: 499}
        return application(routes, STATIC, statuses, self._host)

    async def _about(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        generator = self._pipeline.generator
        size_px = generator.config.image_size if isinstance(generator, Generator) else None
        has_fidelity = isinstance(generator, Generator) and generator.reconstruction is not None
        about = {
            "model": self._model,
            "size_px": size_px,
            "has_fidelity": has_fidelity,
            "strategies": ["auto", "crop", "whole"] if size_px is not None else ["auto", "whole"],
            "max_bytes": self._limits.num_bytes,
            "max_megapixels": self._limits.megapixels,
        }
        return JSONResponse(about)

    async def _queue(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        name = request.query_params.get("job", "")
        return JSONResponse({"before": self._line.num_before(name), "length": len(self._line)})

    async def _fill(self, request: Request) -> Response:
        from starlette.responses import Response

        asked = _asked(request)
        with self._line.place(asked.job):
            sent = await self._body(request)
            photo, mask = sent[: asked.photo_bytes], sent[asked.photo_bytes :]
            if not mask:
                raise UsageError(
                    f"{len(sent)} bytes came, and the photograph alone was to have {asked.photo_bytes}: the mask is "
                    "missing; send it again"
                )
            del sent
            png, told = await self._line.work(lambda: self._filled(asked, photo, mask), request.is_disconnected)
        return Response(png, media_type="image/png", headers={"X-Inpaint-Warning": quote(told)})

    async def _body(self, request: Request) -> bytes:
        """All that is sent, which may stop half way or never end."""
        from starlette.requests import ClientDisconnect

        most, sent = self._limits.num_bytes, bytearray()
        try:
            async for chunk in request.stream():
                sent += chunk
                if len(sent) > most:
                    raise TooLargeError(
                        f"the photograph's file is too large: up to {most / 1e6:g} MB are taken, the mask included"
                    )
        except ClientDisconnect as error:
            raise TakenBackError("it was not sent to its end") from error
        return bytes(sent)

    def _filled(self, asked: Asked, photo: bytes, mask: bytes) -> tuple[bytes, str]:
        """The PNG, and a warning if there is one."""
        self._limits.require(photo)
        self._limits.require(mask)
        with warnings.catch_warnings(record=True, action="always", category=InpaintWarning) as warned:
            try:
                filled = self._pipeline.fill(
                    io.BytesIO(photo),  # type: ignore[arg-type]
                    io.BytesIO(mask),  # type: ignore[arg-type]
                    **asked.model_dump(include={"strategy", "detail", "fidelity", "grow_mask_px"}),
                )
            except InpaintError as error:
                raise type(error)(without_options(str(error))) from error
        if filled.num_filled == 0:
            raise InpaintError("the mask is all black, so there is nothing to fill; paint what is to go")
        return _png(filled), without_options("; ".join(str(its.message) for its in warned))


def _asked(request: Request) -> Asked:
    try:
        return Asked.model_validate(dict(request.query_params))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _png(filled: Filled) -> bytes:
    """A file of the same bit depth and colour profile."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "filled.png"
        save(filled, path)
        return path.read_bytes()
