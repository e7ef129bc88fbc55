"""Owns the filling of many files: decoded ahead and encoded behind the network, in bounded memory, one fault a file."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from inpaint.errors import InpaintError
from inpaint.files import NO_RIGHT
from inpaint.filling.files import Files
from inpaint.images.job import Filled, FillJob
from inpaint.images.writing import save

# Images are held at once up to so many pixels, each about ten bytes, or one that has more by itself.
HELD_PIXELS = 2**25
# And up to so many images, each known to the pool of threads.
_MOST_HELD = 32
# So many are filled together, where so many are ready, and up to so many pixels: the network takes no more at once, and
# none of them is written before all are filled.
_TOGETHER = 16
_TOGETHER_PIXELS = 2**20
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


class Result(NamedTuple):
    """What became of one image: written, unless there is an error."""

    files: Files
    error: InpaintError | None = None
    warning: str | None = None


class _Held(NamedTuple):
    files: Files
    num_pixels: int
    read: Future[FillJob]


class _Written(NamedTuple):
    files: Files
    num_pixels: int
    warning: str | None


def fill_many(
    jobs: Iterable[Files],
    read: Callable[[Files], FillJob],
    fill: Callable[[list[FillJob]], list[Filled]],
    num_threads: int | None = None,
    ended: Callable[[], object] = lambda: None,
) -> Iterator[Result]:
    """Fill and write all; what becomes of each is yielded once it is written, or cannot be.

    Args:
        read: decodes an image and its mask; called in several threads.
        fill: called in this thread, with up to 16 images.
        num_threads: that read and write; by default one for each processor, up to 8.
        ended: called for each image as soon as it is written, in any thread, or cannot be. Its result is yielded later,
            when the others that are being filled in this thread are.

    Raises:
        InpaintError: the disk is full or the folder not to be written to, so that none of the others could be either.
    """
    pool = ThreadPoolExecutor(num_threads or min(8, os.cpu_count() or 1), "inpaint-fill")
    left, waiting = iter(jobs), deque[_Held]()
    writing: dict[Future[None], _Written] = {}
    following = next(left, None)
    try:
        while following or waiting or writing:
            while following:
                num_pixels = _num_pixels(following.image)
                held = [*(one.num_pixels for one in waiting), *(one.num_pixels for one in writing.values())]
                if held and (len(held) >= _MOST_HELD or sum(held) + num_pixels > HELD_PIXELS):
                    break
                waiting.append(_Held(following, num_pixels, pool.submit(read, following)))
                following = next(left, None)
            ready: list[_Held] = []
            while waiting and (not ready or _fits(waiting[0], ready)):
                ready.append(waiting.popleft())
                wait([ready[0].read])
            for one, outcome in _filled(ready, fill):
                if isinstance(outcome, InpaintError):
                    ended()
                    yield Result(one.files, outcome)
                else:
                    future = pool.submit(save, outcome, one.files.output)
                    future.add_done_callback(lambda _: ended())
                    writing[future] = _Written(one.files, one.num_pixels, outcome.told)
            # Where nothing is left to fill, what is being written is what makes room.
            if writing and not waiting:
                wait(writing, return_when=FIRST_COMPLETED)
            for written in [future for future in writing if future.done()]:
                yield _result(written, writing.pop(written))
    finally:
        for held_back in waiting:
            held_back.read.cancel()
        pool.shutdown()  # what is filled already is still written


def _fits(one: _Held, ready: list[_Held]) -> bool:
    """Whether it is read and may be filled together with those that are."""
    num_pixels = sum(held.num_pixels for held in ready) + one.num_pixels
    return one.read.done() and len(ready) < _TOGETHER and num_pixels <= _TOGETHER_PIXELS


def _num_pixels(path: Path) -> int:
    """Of an image by its header; 0 where that cannot be read, of which the reader will tell."""
    try:
        with Image.open(path) as image:
            return image.width * image.height
    except Exception:  # noqa: BLE001 - Pillow's readers raise whatever the broken bytes lead them to
        return 0


def _filled(
    ready: list[_Held], fill: Callable[[list[FillJob]], list[Filled]]
) -> Iterator[tuple[_Held, Filled | InpaintError]]:
    """What was read, filled together, or one by one if that cannot be, to know whose fault it is."""
    read: list[tuple[_Held, FillJob]] = []
    for held in ready:
        try:
            read.append((held, held.read.result()))
        except InpaintError as error:
            yield held, error
    if not read:
        return
    try:
        yield from zip([held for held, _ in read], fill([job for _, job in read]), strict=True)
    except InpaintError as error:
        if len(read) == 1:
            yield read[0][0], error
            return
        for held, job in read:
            yield from _filled([held._replace(read=_known(job))], fill)


def _known(job: FillJob) -> Future[FillJob]:
    future: Future[FillJob] = Future()
    future.set_result(job)
    return future


def _result(future: Future[None], written: _Written) -> Result:
    error = future.exception()
    if isinstance(error, InpaintError) and not _is_of_all(error.__cause__):
        return Result(written.files, error)
    if error is not None:
        raise error
    return Result(written.files, warning=written.warning)


def _is_of_all(cause: BaseException | None) -> bool:
    """Whether what kept one image from being written is no fault of its own file; renaming (two names) may be one's."""
    if not isinstance(cause, OSError):
        return False
    return cause.errno in _DISK_IS_FULL or (cause.errno in NO_RIGHT and cause.filename2 is None)
