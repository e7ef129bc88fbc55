"""Owns what `inpaint prepare` is told, and how far a dataset's folder is bound to what it was told before.

The source and the size stay what they were. The number of images in a chunk does too, as long as nothing else changes:
with another one every chunk would be made anew, to the same dataset. Anything else may change, once it is said what
becomes of the work that is there.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from inpaint.errors import InpaintError, UsageError, shorten
from inpaint.files import read_object
from inpaint.prepare.chunks import VERSION
from inpaint.prepare.people import PeopleFilter
from inpaint.prepare.sharing import joined, write_json
from inpaint.sources.keys import KEY_RULE
from inpaint.sources.places365 import read_classes

WORK_FOLDER, SETTINGS = ".prepare", "settings.json"
BOUND = ("source", "size")


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
    show_progress: bool = True


def command_of(options: Options) -> str:
    """What two processes must have in common to share the work: all that chunks and the dataset depend on."""
    told = {name: value for name, value in asdict(options).items() if name not in ("out", "workers", "show_progress")}
    told |= {"source": _place(options), "classes": _classes(options), "people": options.people.identity()}
    return json.dumps({**told, "threshold": options.people.threshold, "version": VERSION, "key_rule": KEY_RULE})


def as_begun(options: Options) -> Options:
    """The options with the number of images in a chunk that the finished chunks have, where all else is as it was."""
    work = options.out / WORK_FOLDER
    earlier = read_object(work / SETTINGS)
    if earlier.get("chunk_images", options.chunk_images) == options.chunk_images or not _has_chunks(work):
        return options
    if _differing(earlier, _settings(options)) != ["chunk_images"]:
        return options
    return replace(options, chunk_images=earlier["chunk_images"])


@contextmanager
def work_folder(options: Options, command: str, is_first: bool) -> Iterator[Path]:
    """The folder of what is done so far, kept from being used by processes that were told something else.

    Raises:
        UsageError: it is bound to something else, or is no such folder.
        InpaintError: others are at work in it, it cannot be written to, or it is damaged.
    """
    out, work = options.out, options.out / WORK_FOLDER
    try:
        if out.exists() and any(out.iterdir()) and not work.exists():
            raise UsageError(f"--out {out} holds files that are not from this command; choose an empty folder")
        (work / "chunks").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InpaintError(f"cannot write to --out {out}: {error.strerror}") from error
    with joined(work, command):
        now, file = _settings(options), work / SETTINGS
        earlier = read_object(file) if file.exists() else now
        if not set(BOUND) <= earlier.keys():
            raise InpaintError(
                f"{file} is damaged (no JSON with source and size); delete it if --out {out} was begun from "
                f"{options.source}"
            )
        if (rule := earlier.setdefault("key_rule", 1)) != KEY_RULE:
            raise UsageError(
                f"--out {out} was begun under rule {rule} of keys, and this version has rule {KEY_RULE}, by which "
                "images would change their splits: choose another --out (the dataset there stays as good as it is)"
            )
        differing = _differing(earlier, now)
        if bound := [name for name in BOUND if name in differing]:
            was, this = _shown(earlier, now, bound)
            moved = f" (if they are the same images in another place, delete {file})" if bound == ["source"] else ""
            raise UsageError(
                f"--out {out} was begun with {was}, and this is {this}; choose another --out, or give {was}{moved}"
            )
        if differing and is_first and _has_chunks(work):
            was, this = _shown(earlier, now, differing)
            print(
                f"{out} was prepared with {was}, and this is {this}: what that changes is made anew, and in the end "
                "replaces what is there; to keep both, stop and choose another --out"
            )
        if not file.exists() or earlier != now:
            write_json(file, now)
        yield work


def _settings(options: Options) -> dict[str, Any]:
    """All that chunks depend on, as JSON gives it back."""
    return {
        "source": _place(options),
        "size": options.size,
        "key_rule": KEY_RULE,
        "version": VERSION,
        "classes": _classes(options),
        "resplit": options.resplit,
        "limit": options.limit,
        "grey_steps": options.grey_steps,
        "people_filter": [options.people.kind, options.people.identity()],
        "chunk_images": options.chunk_images,
    }


def _differing(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is another setting than before; of what was not written down then nothing is known."""
    return [name for name, value in now.items() if name in earlier and earlier[name] != value]


def _shown(earlier: Mapping[str, Any], now: Mapping[str, Any], names: Collection[str]) -> tuple[str, str]:
    """Those settings as they were and as they are, as one would give them."""
    was, this = ([_flag(name, settings[name]) for name in names] for settings in (earlier, now))
    this = [f"another {new}" if new == old else new for old, new in zip(was, this, strict=True)]
    return " ".join(was), " ".join(this)


def _flag(name: str, value: Any) -> str:
    if name == "version":
        return f"version {value} of the chunks"
    flag = f"--{name.replace('_', '-')}"
    if value is None or value is False:
        return f"no {flag}"
    if name == "people_filter":
        return f"{flag} {value[0]}"
    if name == "classes" and value != "all":
        return f"{flag} ({shorten(', '.join(value))})"
    return flag if value is True else f"{flag} {value}"


def _has_chunks(work: Path) -> bool:
    return any((work / "chunks").glob("*.arrow"))


def _classes(options: Options) -> list[str] | str | None:
    names = None if options.classes in (None, "all") else read_classes(Path(options.classes))
    return names or options.classes


def _place(options: Options) -> str:
    path = Path(options.source)
    return str(path.resolve()) if path.exists() else options.source
