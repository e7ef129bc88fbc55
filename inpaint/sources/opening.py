"""Owns which kind of source a name stands for."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

from inpaint.errors import UsageError
from inpaint.hub.ids import HUB_ID
from inpaint.sources.source import Source


def open_source(name: str, setting: str = "data.path") -> Source:
    """A folder of images, a tar or zip of one, a folder of parquet shards or of `save_to_disk`, or a Hub id.

    Args:
        name: a path, or `ORG/NAME`, `ORG/NAME:CONFIGURATION`, `ORG/NAME@REVISION`, or all of it.
        setting: what the user called it.

    Raises:
        UsageError: it is none of these.
        InpaintError: it can't be read.
    """
    from inpaint.sources.archive import PathSource, find_shards
    from inpaint.sources.tables import is_saved, open_hub, open_saved, open_shards

    path = Path(name).expanduser()
    kinds = "give a folder of images or parquet shards, a tar or zip of images, or a Hub id (ORG/NAME)"
    if path.is_dir() and is_saved(path):
        return open_saved(path)
    if path.is_dir():
        shards = find_shards(path)
        return open_shards(path, shards) if shards else PathSource(path)
    if path.is_file():
        if zipfile.is_zipfile(path) or tarfile.is_tarfile(path) or path.name.endswith((".tar", ".tgz", ".tar.gz")):
            return PathSource(path)
        raise UsageError(f"{setting}: {name} is a file, but no tar or zip; {kinds}")
    if match := HUB_ID.fullmatch(name):
        if path.parent.is_dir():  # then it was not meant as an id either
            raise UsageError(f"{setting}: {name} does not exist, though the folder {path.parent} does; {kinds}")
        return open_hub(name, match["name"], match["config"], match["revision"])
    raise UsageError(f"{setting}: {name} does not exist; {kinds}")
