"""Owns the file that people's answers are kept in: an SQLite database, written through to the disk at every answer.

Several processes and raters may use it at once. Of a `mode` "score" an answer is two scores from 1 to 10, of
"photograph" whether the photograph was told from the fill. No rater answers twice in a mode on the same fill.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from inpaint.errors import InpaintError, first_few

Mode = Literal["score", "photograph"]
MODES: tuple[Mode, ...] = ("score", "photograph")
LOWEST, HIGHEST = 1, 10
# A rater's page calls more often than that; one that does not has been closed.
LEASE_S = 30.0

_APPLICATION, _VERSION = 0x696E7061, 1
_WAIT_S = 10.0
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS models (model TEXT PRIMARY KEY, sha256 TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS fills (
  model TEXT NOT NULL REFERENCES models, image TEXT NOT NULL, hole TEXT NOT NULL, metrics TEXT NOT NULL,
  PRIMARY KEY (model, image)
);
CREATE TABLE IF NOT EXISTS raters (rater TEXT PRIMARY KEY, session TEXT NOT NULL, seen_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  mode TEXT NOT NULL CHECK (mode IN ('score', 'photograph')),
  rater TEXT NOT NULL, model TEXT NOT NULL, image TEXT NOT NULL, hole TEXT NOT NULL,
  local INTEGER CHECK (local BETWEEN {LOWEST} AND {HIGHEST}),
  global INTEGER CHECK (global BETWEEN {LOWEST} AND {HIGHEST}),
  correct INTEGER CHECK (correct IN (0, 1)),
  at TEXT NOT NULL,
  UNIQUE (mode, rater, model, image),
  FOREIGN KEY (model, image) REFERENCES fills,
  CHECK (CASE mode WHEN 'score' THEN local NOTNULL AND global NOTNULL AND correct ISNULL
         ELSE correct NOTNULL AND local ISNULL AND global ISNULL END)
);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
"""


class NameInUseError(InpaintError):
    """Somebody is rating under this name at this moment."""


@dataclass(frozen=True)
class Fill:
    """One image filled by one model.

    Attributes:
        model: as it was named.
        image: the image's key.
        hole: SHA-256 of its mask.
        metrics: its own figures; those that it has not are left out.
    """

    model: str
    image: str
    hole: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Answer:
    """What a rater said of a fill.

    Attributes:
        mode, rater, model, image: who said it, of what.
        local_score, global_score: 1 to 10, in the mode "score"; of the inpainted region, and of the whole image.
        correct: in the mode "photograph", whether the photograph was chosen.
        at: when, in UTC, as ISO 8601 has it; set by who keeps it.
    """

    mode: Mode
    rater: str
    model: str
    image: str
    local_score: int | None = None
    global_score: int | None = None
    correct: bool | None = None
    at: str = ""


class Answers:
    """The open file; to be closed. Every method raises InpaintError where the file cannot be used.

    Args:
        path: of the file.
        do_create: make it if there is none; else it is only read.
    """

    def __init__(self, path: Path, do_create: bool = False) -> None:
        self.path = path
        if not do_create and not path.is_file():
            raise InpaintError(f"there is no file {path}; `inpaint rate MODEL...` makes one")
        name = f"file:{quote(str(path.absolute()))}?mode={'rwc' if do_create else 'ro'}"
        with self._told():
            # Whoever uses it does so in one thread at a time, not always in the one that opened it.
            self._database = sqlite3.connect(
                name, uri=True, timeout=_WAIT_S, isolation_level=None, check_same_thread=False
            )
        try:
            with self._told():
                self._open(do_create)
        except BaseException:
            self._database.close()
            raise

    def _open(self, do_create: bool) -> None:
        (application,) = self._database.execute("PRAGMA application_id").fetchone()
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        (num_tables,) = self._database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if (application, version) != (_APPLICATION, _VERSION) and not (do_create and num_tables == 0):
            raise InpaintError(
                f"{self.path} is not a file of ratings of this version of inpaint rate; give another --ratings"
            )
        (sound,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
        if sound != "ok":
            raise sqlite3.DatabaseError(" ".join(sound.split()))
        self._database.execute("PRAGMA foreign_keys = ON")
        if do_create:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def begin(self, facts: Mapping[str, str], models: Mapping[str, str], fills: Sequence[Fill]) -> None:
        """Keep what is going to be rated, beside what was before.

        Args:
            facts: what must be the same whenever this file is used, by the flag that sets it.
            models: the SHA-256 of each one's weights or fills.
            fills: of these models.

        Raises:
            InpaintError: the file's facts are others, or a model of this name was another.
        """
        with self._told(), self._transaction():
            for table, values in (("facts", facts), ("models", models)):
                known = dict(self._database.execute(f"SELECT * FROM {table}"))
                others = [name for name, value in values.items() if known.get(name, value) != value]
                if others and table == "facts":
                    told = "; ".join(f"{name} {known[name]}, now {facts[name]}" for name in others)
                    raise InpaintError(f"{self.path} was begun with {told}: give the same, or another --ratings")
                if others:
                    raise InpaintError(
                        f"{self.path} has ratings of another {', '.join(first_few(others, 3))}: its weights or fills "
                        "have changed since; give another --ratings, or the model under another path"
                    )
                self._database.executemany(f"INSERT OR IGNORE INTO {table} VALUES (?, ?)", values.items())
            self._database.executemany(
                "INSERT INTO fills VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET metrics = excluded.metrics",
                [(its.model, its.image, its.hole, json.dumps(dict(its.metrics), allow_nan=False)) for its in fills],
            )

    def hold(self, rater: str, session: str, now_s: float) -> None:
        """Rate under a name, or go on doing so.

        Args:
            session: of the page that asks.
            now_s: since 1970.

        Raises:
            NameInUseError: another session does, and was heard of in the last `LEASE_S` seconds.
        """
        with self._told(), self._transaction():
            row = self._database.execute("SELECT session, seen_s FROM raters WHERE rater = ?", (rater,)).fetchone()
            if row is not None and row[0] != session and 0 <= now_s - row[1] < LEASE_S:
                raise NameInUseError(
                    f"{rater} is rating in another window right now: close it and wait {LEASE_S:.0f} seconds, or take "
                    "another name"
                )
            self._database.execute("INSERT OR REPLACE INTO raters VALUES (?, ?, ?)", (rater, session, now_s))

    def leave(self, rater: str, session: str) -> None:
        """The name is free again, if this session has it."""
        with self._told():
            self._database.execute("DELETE FROM raters WHERE rater = ? AND session = ?", (rater, session))

    def add(self, answer: Answer) -> None:
        """Keep an answer; it is on the disk when this returns. One that is there already stays as it was."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._told():
            self._database.execute(
                "INSERT INTO answers (mode, rater, model, image, hole, local, global, correct, at) "
                "SELECT ?, ?, model, image, hole, ?, ?, ?, ? FROM fills WHERE model = ? AND image = ? "
                "ON CONFLICT (mode, rater, model, image) DO NOTHING",
                (
                    *(answer.mode, answer.rater, answer.local_score, answer.global_score, answer.correct, now),
                    *(answer.model, answer.image),
                ),
            )

    def remove(self, answer: Answer) -> None:
        """Take back what its rater said of this fill in this mode."""
        with self._told():
            self._database.execute(
                "DELETE FROM answers WHERE mode = ? AND rater = ? AND model = ? AND image = ?",
                (answer.mode, answer.rater, answer.model, answer.image),
            )

    def of(self, mode: Mode, rater: str | None = None) -> list[Answer]:
        """All answers in a mode, or a rater's, the oldest first."""
        with self._told():
            rows = self._database.execute(
                "SELECT mode, rater, model, image, local, global, correct, at FROM answers "
                "WHERE mode = ? AND coalesce(rater = ?, 1) ORDER BY number",
                (mode, rater),
            )
            return [
                Answer(mode, rater, model, image, local, whole, None if correct is None else bool(correct), at)
                for mode, rater, model, image, local, whole, correct, at in rows
            ]

    def fills(self) -> list[Fill]:
        with self._told():
            rows = self._database.execute("SELECT model, image, hole, metrics FROM fills ORDER BY model, image")
            return [Fill(model, image, hole, json.loads(metrics)) for model, image, hole, metrics in rows]

    def facts(self) -> dict[str, str]:
        with self._told():
            return dict(self._database.execute("SELECT name, value FROM facts"))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise  # nobody's answer: a caller's mistake
        except sqlite3.OperationalError as error:
            raise InpaintError(f"{self.path} cannot be used ({error})") from error
        except sqlite3.DatabaseError as error:
            raise InpaintError(
                f"{self.path} is damaged, or no file of ratings ({error}): give another --ratings; "
                f"`sqlite3 {self.path} .recover` prints what can still be read"
            ) from error


def read_answers(path: Path) -> tuple[dict[Mode, list[Answer]], list[Fill]]:
    """All answers by mode, and all fills; InpaintError where there are none or the file is damaged."""
    with Answers(path) as file:
        answers, fills = {mode: file.of(mode) for mode in MODES}, file.fills()
    if not any(answers.values()):
        raise InpaintError(f"{path} holds no answers yet; rate with `inpaint rate MODEL... --ratings {path}`")
    return answers, fills


def finite(figures: Mapping[str, float]) -> dict[str, float]:
    """Those that are numbers."""
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}
