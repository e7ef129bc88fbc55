"""Owns what is known of Places365: its 365 class names, how trees spell them, and the 50 natural ones."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from inpaint.errors import UsageError


@cache
def official_names() -> tuple[str, ...]:
    """The 365 official names, such as "/f/field/wild", in the order of their indices."""
    indices: dict[str, int] = _packaged("places365_names.yaml")
    return tuple(sorted(indices, key=indices.__getitem__))


@cache
def natural_names() -> tuple[str, ...]:
    """Official names of the 50 classes of natural sights."""
    return tuple(_packaged("places365.yaml"))


def folder_name(official: str) -> str:
    """The folder of a class in the "easyformat" tree: "/f/field/wild" lies in "field-wild"."""
    parts = official.strip("/").split("/")
    return "-".join(parts[1:] if official.startswith("/") and len(parts[0]) == 1 else parts)


@cache
def _by_spelling() -> dict[str, str]:
    """`folder_name` of every spelling, with "_" for all that parts words, with the letter and without."""
    return {
        spelled.strip("/").replace("/", "_").replace("-", "_"): folder_name(name)
        for name in official_names()
        for spelled in (name, folder_name(name))
    }


def official_class(name: str) -> str | None:
    """ "field-wild" for "/f/field/wild", "f-field-wild", "field-wild" and "field_wild"; None: no class is called so."""
    return _by_spelling().get(name.strip("/").replace("/", "_").replace("-", "_"))


def read_classes(path: Path) -> list[str]:
    """Class names from a file: a YAML list, or one name a line, where the official list's indices are left out."""
    try:
        text = path.read_text(encoding="utf-8")
        names = (
            yaml.safe_load(text)
            if path.suffix in {".yaml", ".yml"}
            else [_name(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]
        )
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--classes {path} can't be read: {' '.join(str(error).split())}") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UsageError(f"--classes {path} holds no list of names; write one class a line, or `all` for every class")
    return list(dict.fromkeys(names))


def _name(line: str) -> str:
    """A line of a list: all of it, but for the index that the official list has behind each name."""
    name, _, index = line.strip().rpartition(" ")
    return name.strip() if name.startswith("/") and index.isdigit() else line.strip()


def _packaged(name: str) -> Any:
    return yaml.safe_load(resources.files("inpaint.sources").joinpath(name).read_text(encoding="utf-8"))
