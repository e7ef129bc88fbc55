"""Owns the run of `inpaint prepare`: a source of images to a finished dataset, in three passes.

1. Chunks of the source become chunk files, by any number of processes and their workers (`inpaint.prepare.chunks`).
2. All of them together say what is kept (`inpaint.prepare.plan`).
3. The dataset's files are written (`inpaint.prepare.shards`, `inpaint.prepare.card`).

Processes with the same command share a folder and nothing else: each takes chunks that nobody has, and leaves when
others make the last ones. Passes 2 and 3 are done by whoever finds all chunks there, which is who finished last.
"""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from inpaint.errors import InpaintError, UsageError
from inpaint.files import human_size
from inpaint.hub.ids import HUB_ID
from inpaint.prepare import shards
from inpaint.prepare.card import write_card
from inpaint.prepare.chunks import Chunk, chunks_of, count_reasons, is_sound, open_chunk
from inpaint.prepare.detectors import check_detector
from inpaint.prepare.folder import WORK_FOLDER, Options, as_begun, command_of, work_folder
from inpaint.prepare.plan import Plan, make_plan
from inpaint.prepare.sharing import FINISHED, finish, is_done, is_free, last_finished, sole_writer
from inpaint.prepare.workers import default_workers, pool_of
from inpaint.processes import rank_and_world_size
from inpaint.sources.keys import Split
from inpaint.sources.opening import open_source
from inpaint.sources.places365 import folder_name, natural_names, official_class, read_classes
from inpaint.sources.source import Entry, Source, Survey

# Of the bytes of the pixels; an image's PNG at 64 px was seen to take 0.65.
PNG_SHARE = 0.8
SIZES_PX = range(16, 1025, 4)


def prepare(options: Options) -> Plan | None:
    """Makes the dataset in `options.out`, going on where it was stopped, beside other processes with the same options.

    None if it was finished before (`is_finished`), or the others are about to finish it.

    Raises:
        UsageError: an option makes no sense, or `out` holds something else.
        InpaintError: nothing to do, no room, or the source cannot be read.
    """
    rank, _ = rank_and_world_size(do_meet=False)
    if find_spec("fcntl") is None:
        raise UsageError("preparing a dataset needs Linux or macOS; on Windows start it in WSL")
    if options.size not in SIZES_PX:
        raise UsageError(f"--size is {options.size}; it must be a multiple of 4 from {SIZES_PX[0]} to {SIZES_PX[-1]}")
    if options.chunk_images < 1 or (options.workers is not None and options.workers < 1):
        raise UsageError("--workers and --chunk-images must be 1 or more")
    if not 0 <= options.grey_steps <= 255:
        raise UsageError(f"--grey-steps is {options.grey_steps}; it must be from 0 (all are kept) to 255")
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit is {options.limit}; it must be 1 or more")
    source = open_source(options.source, "--source")
    if options.out.resolve().is_relative_to(Path(options.source).resolve()):
        raise UsageError(f"--out {options.out} is inside the source; choose a folder outside {options.source}")
    check_detector(options.people)
    try:
        begun = as_begun(options)
        if begun != options and rank == 0:
            print(
                f"{options.out} was begun with --chunk-images {begun.chunk_images} and keeps it (not "
                f"{options.chunk_images}): nothing is done twice, and the dataset is the same; another --out takes any"
            )
        command = command_of(begun)
        with work_folder(begun, command, is_first=rank == 0) as work:
            return _run(begun, command, source, work, is_first=rank == 0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InpaintError(
            f"the disk of {options.out} is full; free some space and run the same command again: finished work is kept"
        ) from error


def is_finished(options: Options) -> bool:
    """Whether the dataset in `options.out` is whole, and made as `options` say."""
    return last_finished(options.out / WORK_FOLDER).get("command") == command_of(as_begun(options))


def _run(options: Options, command: str, source: Source, work: Path, is_first: bool) -> Plan | None:
    if is_done(options.out, work, command, source):
        return None
    survey = source.survey()
    classes = _choose_classes(options, survey)
    own_splits: frozenset[Split] = frozenset() if options.resplit else survey.own_splits
    total = survey.num_pictures
    if survey.labels:
        total = sum(num for label, num in survey.labels.items() if classes is None or label in classes)
    num_wanted = total if total is None or options.limit is None else min(total, options.limit)
    if is_first:
        _report_survey(options, survey, num_wanted)
    _check_room(options, num_wanted or 0, is_first)

    def chunks() -> Iterator[Chunk]:
        wanted = (entry for entry in source.located() if classes is None or entry.label in classes)
        some = _evenly(wanted, options.limit, total)
        if options.resplit:
            some = (replace(entry, split=None) for entry in some)
        settings = options.size, options.people, own_splits, options.grey_steps
        return chunks_of(some, options.chunk_images, work / "chunks", *settings)

    files, others = _do_chunks(options, chunks(), None, num_wanted, is_first)
    if not files:
        raise InpaintError(f"{options.source} has no images of the wanted classes")
    while any(map(is_free, others)):  # whoever had it is gone
        _, others = _do_chunks(options, chunks(), others, None, is_first)
    if others:
        print(
            f"other processes are making the last {len(others)} of {len(files)} chunks, and the last of them writes "
            "the dataset. If one should die, run the same command again"
        )
        return None
    with sole_writer(work) as is_ours:
        if not is_ours:
            print("another process is writing the dataset. If it should die, run the same command again")
            return None
        if is_done(options.out, work, command, source):
            return None
        (work / FINISHED).unlink(missing_ok=True)
        workers = options.workers or default_workers(options.people)
        plan = make_plan(files, options.people.threshold, classes, workers, options.show_progress)
        shards.write_shards(plan, options.out, work, options.size, options.show_progress)
        shards.write_holes(options.out)
        shards.write_dropped(plan, options.out)
        shards.write_alike(plan, options.out)
        repo = None if Path(options.source).exists() else HUB_ID.fullmatch(options.source)
        hub_id = repo and repo["name"]
        write_card(plan, options.out, options.size, options.people, hub_id, survey.is_places365, own_splits)
        for stale in {*(work / "chunks").iterdir(), *options.out.rglob("*.tmp")} - set(files):
            stale.unlink()  # of other settings, or of a run that was killed
        finish(options.out, work, command, source)
        return plan


def _evenly(entries: Iterator[Entry], limit: int | None, total: int | None) -> Iterator[Entry]:
    """`limit` of the entries, with equal gaps; the first ones where nobody knows how many there are."""
    if limit is None or (total is not None and total <= limit):
        return entries
    if total is None:
        return islice(entries, limit)
    return (entry for index, entry in enumerate(entries) if index * limit // total != (index + 1) * limit // total)


def _choose_classes(options: Options, survey: Survey) -> list[str] | None:
    """The wanted classes in the order of their numbers; None: every class there is."""
    if options.classes == "all" or (options.classes is None and not survey.is_places365):
        return None
    names = natural_names() if options.classes is None else read_classes(Path(options.classes))
    classes = [official_class(name) or folder_name(name) for name in names]
    if survey.labels and not survey.labels.keys() & set(classes):
        has = ", ".join(sorted(survey.labels)[:8])
        raise UsageError(
            f"none of the {len(names)} classes is in {options.source}, which has {has}; names must be spelled "
            "alike; try --classes all"
        )
    if survey.labels and (missing := [name for name in classes if name not in survey.labels]):
        print(f"no images in {len(missing)} of the {len(names)} classes: {', '.join(missing)}")
    return classes


def _report_survey(options: Options, survey: Survey, num_wanted: int | None) -> None:
    if survey.num_pictures is not None:
        print(f"{options.source}: {survey.num_pictures} images, {num_wanted} to be prepared")
    if survey.remark:
        print(survey.remark)
    if survey.own_splits:
        done = "--resplit: split anew by the images' keys" if options.resplit else "kept; --resplit splits anew"
        print(f"the source has the splits {', '.join(sorted(survey.own_splits))}: {done}")
    for kind, num in survey.passed_over.items():
        print(f"passed over: {num} {kind}, such as {survey.examples[kind]!r}")


def _check_room(options: Options, num_pictures: int, is_first: bool) -> None:
    """Chunks and shards both hold every kept image; what is written is there already."""
    expected = 2 * num_pictures * 3 * options.size**2 * PNG_SHARE
    written = 0
    for path in options.out.rglob("*"):
        with suppress(FileNotFoundError):  # another process has just renamed it
            written += path.stat().st_size
    free = shutil.disk_usage(options.out).free
    needed = human_size(max(0, expected - written))
    if is_first:
        print(f"about {needed} are needed in {options.out}, {human_size(free)} are free")
    if expected - written > free:
        raise InpaintError(
            f"{options.out} has {human_size(free)} free and about {needed} are needed; make room or choose another "
            "--out"
        )


def _do_chunks(
    options: Options, chunks: Iterator[Chunk], only: Collection[Path] | None, total: int | None, is_first: bool
) -> tuple[list[Path], set[Path]]:
    """Makes the chunks, or `only` some, that are not there and nobody else makes. Returns the files of all chunks, and
    those that others are making."""
    files: list[Path] = []
    counts: Counter[str] = Counter()
    workers = options.workers or default_workers(options.people)
    bar = tqdm(desc="preparing", total=total, unit="image", disable=not (is_first and options.show_progress))

    def done(its_counts: Counter[str]) -> None:
        counts.update(its_counts)
        bar.set_postfix_str(" ".join(f"{reason}={num}" for reason, num in sorted(counts.items())), refresh=False)
        bar.update(its_counts.total())

    others: set[Path] = set()
    running: dict[Future[Counter[str] | None], Path] = {}

    def leave_running(num: int) -> None:
        while len(running) > num:
            # Two signals at once may both come to another thread, which does not wake this one: it wakes by itself.
            for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                file = running.pop(future)
                if (its_counts := future.result()) is None:
                    others.add(file)
                else:
                    done(its_counts)

    with bar, pool_of(workers) as submit:
        for chunk in chunks:
            files.append(chunk.file)
            if only is not None and chunk.file not in only:
                continue
            if is_sound(chunk.file):
                with open_chunk(chunk.file) as table:
                    if not bar.disable:
                        bar.initial += len(table)  # no part of the rate
                    done(count_reasons(table, options.people.threshold))
                continue
            if chunk.file.exists():
                print(f"{chunk.file} is damaged and will be remade")
            running[submit(chunk)] = chunk.file
            leave_running(2 * workers)
        leave_running(0)
    return files, {file for file in others if not is_sound(file)}
