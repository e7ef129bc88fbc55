"""Owns what is known to be decoded of an unfinished entry of the cache, so that a kill costs little of the work."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from inpaint.data.decode import Decoded
from inpaint.data.recipes import Task
from inpaint.errors import InpaintError
from inpaint.files import sync

# Between two times that what is decoded is made to last, at most: the pixels, and the seconds, for large photographs
# take long and leave few.
SYNC_BYTES, SYNC_S = 256 << 20, 5.0

Results = Iterator[tuple[Task, Decoded]]


class Journal:
    """A line for each task from the first on whose pixels have reached the disk: all of what came of it but those."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "journal.jsonl"
        self._lines: list[str] = []
        self._num_bytes, self._synced = 0, time.monotonic()

    def results(
        self, tasks: Iterator[Task], decode: Callable[[Iterator[Task]], Results], image_bytes: int
    ) -> Generator[tuple[Task, Decoded]]:
        """What came of the tasks, in order: first those that the journal knows, then those that are left to `decode`.

        To be closed by who does not go to its end: then it knows all that it gave.

        Raises:
            InpaintError: the tasks are not those of the journal.
        """
        for record in self._read():
            task = next(tasks, None)
            if task is None or task.digest != record["task"]:
                raise InpaintError(f"the half-decoded images in {self.folder} were others; run the same command again")
            its = record["coordinates"]
            coordinates = None if its is None else np.array(its, np.int32)
            yield task, Decoded(np.empty(0, np.uint8), record["rows"], coordinates, tuple(record["bad"]))
        try:
            for task, part in decode(tasks):
                its = None if part.coordinates is None else part.coordinates.tolist()
                record = {"task": task.digest, "rows": list(part.rows), "coordinates": its, "bad": part.bad}
                self._lines.append(json.dumps(record) + "\n")
                yield task, part
                self._num_bytes += len(part.rows) * image_bytes
                if self._num_bytes >= SYNC_BYTES or time.monotonic() - self._synced >= SYNC_S:
                    self._write()
        finally:
            self._write()

    def _write(self) -> None:
        for path in self.folder.glob("*.npy"):
            sync(path)
        with self.path.open("a") as file:
            file.writelines(self._lines)
        self._lines, self._num_bytes, self._synced = [], 0, time.monotonic()

    def _read(self) -> Iterator[dict[str, Any]]:
        """What was written; half a line at the end is taken away."""
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            while line := file.readline():
                try:
                    record = json.loads(line)
                except ValueError:
                    record = None
                if record is None or not line.endswith(b"\n"):
                    file.seek(-len(line), 1)
                    file.truncate()
                    return
                yield record
