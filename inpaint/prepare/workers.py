"""Owns the processes of `inpaint prepare` that make chunks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for

import cv2

from inpaint.errors import InpaintError
from inpaint.prepare.chunks import Chunk, make_chunk
from inpaint.prepare.people import PeopleFilter
from inpaint.processes import num_cores_each


@contextmanager
def pool_of(workers: int) -> Iterator[Callable[[Chunk], Future[Counter[str] | None]]]:
    """Something to hand chunks to; one worker is this process. KeyboardInterrupt ends the workers where they are."""
    if workers == 1:
        yield _do_here
        return
    # Spawned, not forked: OpenCV, torch and CUDA do not survive a fork.
    context, others = multiprocessing.get_context("spawn"), multiprocessing.active_children()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        try:
            yield lambda chunk: _submit(pool, chunk)
        except KeyboardInterrupt:
            for worker in multiprocessing.active_children():
                if worker not in others:
                    worker.kill()  # a chunk's file appears whole or not at all
            raise
        except BrokenProcessPool as error:
            raise InpaintError(
                "a worker died, perhaps for lack of memory; run the same command again, with fewer --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, chunk: Chunk) -> Future[Counter[str] | None]:
    """A worker that this starts is not interrupted before it can say that it does not want to be."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        return pool.submit(make_chunk, chunk)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _do_here(chunk: Chunk) -> Future[Counter[str] | None]:
    cv2.setNumThreads(1)
    future: Future[Counter[str] | None] = Future()
    future.set_result(make_chunk(chunk))
    return future


def _start_worker() -> None:
    """One thread, Ctrl-C left to the parent, and no life after it: a killed parent does not tell its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    cv2.setNumThreads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with(sentinel: int) -> None:
        wait_for([sentinel])
        os._exit(1)

    threading.Thread(target=leave_with, args=(parent.sentinel,), daemon=True).start()


def default_workers(people: PeopleFilter) -> int:
    here = num_cores_each()
    # Each has the detector on the GPU for itself; a few are enough to keep it busy.
    return min(here, 4) if people.kind == "transformers" else here
