"""Owns the run of `inpaint prepare`: a source of images to a finished dataset, in three passes.

1. Chunks of the source become chunk files, by any number of workers and of ranks (`inpaint.prepare.chunks`).
2. All of them together say what is kept (`inpaint.prepare.plan`).
3. The dataset's files are written (`inpaint.prepare.shards`, `inpaint.prepare.card`).

Passes 2 and 3 are rank 0's. The ranks share a folder and nothing else: what one has finished is a file.
"""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from inpaint.errors import InpaintError, UsageError
from inpaint.files import human_size, read_object, write_atomically
from inpaint.hub.ids import HUB_ID
from inpaint.prepare import shards
from inpaint.prepare.card import write_card
from inpaint.prepare.chunks import Chunk, chunks_of, count_reasons, is_sound, open_chunk
from inpaint.prepare.detectors import check_detector
from inpaint.prepare.people import PeopleFilter
from inpaint.prepare.plan import Plan, make_plan
from inpaint.prepare.workers import default_workers, pool_of
from inpaint.processes import rank_and_world_size
from inpaint.sources.keys import KEY_RULE, Split
from inpaint.sources.opening import open_source
from inpaint.sources.places365 import folder_name, natural_names, official_class, read_classes
from inpaint.sources.source import Entry, Source, Survey

WORK_FOLDER = ".prepare"
# Of the bytes of the pixels; an image's PNG at 64 px was seen to take 0.65.
PNG_SHARE = 0.8
SIZES_PX = range(16, 1025, 4)


@dataclass(frozen=True)
class Options:
    """What `inpaint prepare` was told; its help says what each means. `workers` None is one a core."""

    source: str
    out: Path
    size: int = 64
    classes: str | None = None
    resplit: bool = False
    limit: int | None = None
    grey_steps: float = 2.5
    people: PeopleFilter = field(default_factory=PeopleFilter)
    workers: int | None = None
    chunk_images: int = 500
    rank_timeout_s: float = 600.0
    show_progress: bool = True


def prepare(options: Options) -> Plan | None:
    """Makes the dataset in `options.out`, going on where an earlier run was stopped. Ranks but 0 return None.

    Raises:
        UsageError: an option makes no sense, or `out` holds something else.
        InpaintError: nothing to do, no room, or the source cannot be read.
    """
    rank, world = rank_and_world_size(do_meet=False)
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
        with _work_folder(options, rank) as work:
            return _run(options, source, work, rank, world)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InpaintError(
            f"the disk of {options.out} is full; free some space and run the same command again: finished work is kept"
        ) from error


def _run(options: Options, source: Source, work: Path, rank: int, world: int) -> Plan | None:
    survey = source.survey()
    classes = _choose_classes(options, survey)
    own_splits: frozenset[Split] = frozenset() if options.resplit else survey.own_splits
    total = survey.num_pictures
    if survey.labels:
        total = sum(num for label, num in survey.labels.items() if classes is None or label in classes)
    num_wanted = total if total is None or options.limit is None else min(total, options.limit)
    if rank == 0:
        _report_survey(options, survey, num_wanted)
        _check_room(options, num_wanted or 0)

    def chunks() -> Iterator[Chunk]:
        wanted = (entry for entry in source.entries() if classes is None or entry.label in classes)
        some = _evenly(wanted, options.limit, total)
        if options.resplit:
            some = (replace(entry, split=None) for entry in some)
        settings = options.size, options.people, own_splits, options.grey_steps
        return chunks_of(some, options.chunk_images, work / "chunks", *settings)

    share = None if num_wanted is None else num_wanted // world
    files = _do_chunks(options, chunks(), lambda index, _: index % world == rank, share, shown=rank == 0)
    if not files:
        raise InpaintError(f"{options.source} has no images of the wanted classes")
    if rank:
        return None
    if missing := _wait_for_ranks(files, options):
        print(f"no rank has finished anything for {options.rank_timeout_s:g} s: doing their {len(missing)} chunks here")
        _do_chunks(options, chunks(), lambda _, file: file in missing, None, shown=True)
    workers = options.workers or default_workers(options.people)
    plan = make_plan(files, options.people.threshold, classes, workers, options.show_progress)
    shards.write_shards(plan, options.out, work, options.size, options.show_progress)
    shards.write_holes(options.out)
    shards.write_dropped(plan, options.out)
    shards.write_alike(plan, options.out)
    repo = None if Path(options.source).exists() else HUB_ID.fullmatch(options.source)
    write_card(plan, options.out, options.size, options.people, repo and repo["name"], survey.is_places365, own_splits)
    for stale in {*(work / "chunks").iterdir(), *options.out.rglob("*.tmp")} - set(files):
        stale.unlink()  # of other settings, or of a run that was killed
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


def _check_room(options: Options, num_pictures: int) -> None:
    """Chunks and shards both hold every kept image; what an earlier run wrote is there already."""
    expected = 2 * num_pictures * 3 * options.size**2 * PNG_SHARE
    written = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    free = shutil.disk_usage(options.out).free
    needed = human_size(max(0, expected - written))
    print(f"about {needed} are needed in {options.out}, {human_size(free)} are free")
    if expected - written > free:
        raise InpaintError(
            f"{options.out} has {human_size(free)} free and about {needed} are needed; make room or choose another "
            "--out"
        )


@contextmanager
def _work_folder(options: Options, rank: int) -> Iterator[Path]:
    """The folder of what is done so far, kept from being used by two processes for one rank."""
    out, work = options.out, options.out / WORK_FOLDER
    try:
        if out.exists() and any(out.iterdir()) and not work.exists():
            raise UsageError(f"--out {out} holds files that are not from this command; choose an empty folder")
        (work / "chunks").mkdir(parents=True, exist_ok=True)
        lock = FileLock(work / f"rank-{rank}.lock").acquire(blocking=False)
    except Timeout as error:
        raise InpaintError(f"another inpaint prepare is running in {out}; wait for it or stop it") from error
    except OSError as error:
        raise InpaintError(f"cannot write to --out {out}: {error.strerror}") from error
    with lock:
        is_local = Path(options.source).exists()
        settings = {
            "source": str(Path(options.source).resolve()) if is_local else options.source,
            "size": options.size,
            "key_rule": KEY_RULE,
        }
        file = work / "settings.json"
        earlier = read_object(file) if file.exists() else settings
        if not {"source", "size"} <= earlier.keys():
            raise InpaintError(
                f"{file} is damaged (no JSON with source and size); delete it if --out {out} was begun from "
                f"{options.source}"
            )
        if (rule := earlier.setdefault("key_rule", 1)) != KEY_RULE:
            raise UsageError(
                f"--out {out} was begun under rule {rule} of keys, and this version has rule {KEY_RULE}, by which "
                "images would change their splits: choose another --out (the dataset there stays as good as it is)"
            )
        if earlier != settings:
            raise UsageError(
                f"--out {out} was begun from {earlier['source']} at size {earlier['size']}; choose another, or delete "
                f"{file} if the images only moved"
            )
        if rank == 0:
            write_atomically(file, json.dumps(settings).encode())
        yield work


def _do_chunks(
    options: Options, chunks: Iterator[Chunk], is_mine: Callable[[int, Path], bool], total: int | None, shown: bool
) -> list[Path]:
    """Makes those of our chunks that are not there. Returns the files of all chunks."""
    files: list[Path] = []
    counts: Counter[str] = Counter()
    workers = options.workers or default_workers(options.people)
    bar = tqdm(desc="preparing", total=total, unit="image", disable=not (shown and options.show_progress))

    def done(its_counts: Counter[str]) -> None:
        counts.update(its_counts)
        bar.set_postfix_str(" ".join(f"{reason}={num}" for reason, num in sorted(counts.items())), refresh=False)
        bar.update(its_counts.total())

    with bar, pool_of(workers) as submit:
        running: set[Future[Counter[str]]] = set()
        for index, chunk in enumerate(chunks):
            files.append(chunk.file)
            if not is_mine(index, chunk.file):
                continue
            if chunk.file.exists() and not is_sound(chunk.file):
                print(f"{chunk.file} is damaged and will be remade")
                chunk.file.unlink()
            if chunk.file.exists():
                with open_chunk(chunk.file) as table:
                    if not bar.disable:
                        bar.initial += len(table)  # no part of the rate
                    done(count_reasons(table, options.people.threshold))
                continue
            running.add(submit(chunk))
            while len(running) > 2 * workers:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    done(future.result())
        for future in running:
            done(future.result())
    return files


def _wait_for_ranks(files: list[Path], options: Options) -> set[Path]:
    """The chunks that are still missing when no other rank has finished one for a long time."""
    missing = {file for file in files if not file.exists()}
    last_seen = time.monotonic()
    is_quiet = not (missing and options.show_progress)
    with tqdm(desc="waiting for other ranks", total=len(missing), unit="chunk", disable=is_quiet) as bar:
        while missing and time.monotonic() - last_seen < options.rank_timeout_s:
            time.sleep(min(1.0, options.rank_timeout_s))
            if arrived := {file for file in missing if file.exists()}:
                missing -= arrived
                bar.update(len(arrived))
                last_seen = time.monotonic()
    return missing
