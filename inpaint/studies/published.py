"""Owns the studies that are known by name: which presets they compare, and the scores published for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from inpaint.config import Config
from inpaint.resolve import flat, load_config

STUDIES = Path(__file__).parent
SCORES = ("local", "global", "average")

# What a row is told by; width, epochs, data and seed may be others than were published, and are the same for all rows.
_TOLD_BY = ("model.", "loss.", "training.phases", "training.global_batch_size")
_NOT_BY = ("model.width",)


@dataclass(frozen=True)
class Row:
    """One setting of a study.

    Attributes:
        preset: that trains it.
        label: what it is called where it was published.
        scores: by `SCORES`, as published.
    """

    preset: str
    label: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Study:
    """A published table; `source` is where it stands."""

    name: str
    source: str
    rows: tuple[Row, ...]

    def row_of(self, settings: Mapping[str, Any]) -> Row | None:
        """Whose settings these are, sections of settings as config.yaml holds them; None if they are no row's."""
        told = _told_by(settings)
        return next(
            (row for row in self.rows if _told_by(load_config(row.preset).model_dump(mode="json")) == told), None
        )


def study_names() -> list[str]:
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def load_study(name: str) -> Study:
    """One of `study_names`."""
    values = yaml.safe_load((STUDIES / f"{name}.yaml").read_text(encoding="utf-8"))
    rows = tuple(Row(row["preset"], row["label"], {score: row[score] for score in SCORES}) for row in values["rows"])
    return Study(name, values["source"], rows)


def _told_by(settings: Mapping[str, Any]) -> dict[str, Any]:
    # A run of before there was a setting had its default.
    values = flat(Config().model_dump(mode="json")) | flat(settings)
    return {key: value for key, value in values.items() if key.startswith(_TOLD_BY) and key not in _NOT_BY}
