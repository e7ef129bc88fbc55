"""Owns the person filter: detectors behind one small interface, and what counts as a person.

A detector only finds boxes; the highest score of the wanted class is written down for every image, so that the
threshold can be moved later without detecting again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from inpaint.errors import UsageError

Kind = Literal["none", "darknet", "onnx", "transformers"]

# Small, current and Apache-2.0.
DEFAULT_MODEL = "PekingU/rtdetr_v2_r18vd"
# Boxes below this score say nothing; every threshold worth setting lies above.
LOWEST_SCORE = 0.01
BATCH_SIZE = 32


class Box(NamedTuple):
    """One detection: its score in [0, 1] and its corner and size as fractions of the image."""

    score: float
    x: float
    y: float
    width: float
    height: float


class Detector(Protocol):
    """Finds the things of one class in images."""

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Box]]:
        """The boxes in each of up to BATCH_SIZE images ([H, W, 3], RGB), whatever the others are."""
        ...


@dataclass(frozen=True)
class PeopleFilter:
    """What finds people and what counts as one, as the command's help says; small enough to be sent to every worker.

    Without `names`, the detector's classes a line each, the file beside it (`coco.names`) is used, and failing that the
    first class must be "person", as it is in COCO. `kind` "none" keeps everybody and writes no score.
    """

    kind: Kind = "none"
    threshold: float = 0.3
    min_area: float = 0.0
    class_name: str = "person"
    cfg: Path | None = None
    weights: Path | None = None
    onnx: Path | None = None
    names: Path | None = None
    input_px: int | None = None
    model: str = DEFAULT_MODEL

    def __post_init__(self) -> None:
        """Raises UsageError for a setting that can't be right."""
        if self.kind not in get_args(Kind):
            raise UsageError(f"--people-filter is {self.kind!r}; use one of {', '.join(get_args(Kind))}")
        if not 0 <= self.min_area < 1:
            raise UsageError(f"--person-min-area is {self.min_area}; it is a fraction of the image, from 0 to 1")
        if not LOWEST_SCORE <= self.threshold <= 1:
            raise UsageError(f"--person-threshold is {self.threshold}; it is a score, from {LOWEST_SCORE} to 1")
        if self.input_px is not None and (self.input_px < 32 or self.input_px % 32):
            raise UsageError(f"--detector-size is {self.input_px}; it must be a multiple of 32")
        files = {
            "darknet": {"--darknet-cfg": self.cfg, "--darknet-weights": self.weights},
            "onnx": {"--onnx": self.onnx},
        }
        for flag, path in files.get(self.kind, {}).items():
            if path is None or not path.is_file():
                raise UsageError(f"--people-filter {self.kind} needs a file for {flag}; got {path}")
        if self.names is not None and not self.names.is_file():
            raise UsageError(f"--detector-names is {self.names}, which is not a file")

    def identity(self) -> str:
        """What decides the scores: the same string, the same scores. The threshold is not part of it."""
        if self.kind == "none":
            return "none"
        settings = asdict(self)
        del settings["threshold"]
        for field in ("cfg", "weights", "onnx", "names"):
            path = getattr(self, field)
            settings[field] = path and _digest([path])
        if Path(self.model).is_dir():
            settings["model"] = _digest(sorted(path for path in Path(self.model).iterdir() if path.is_file()))
        return repr(sorted(settings.items()))

    def describe(self) -> str:
        """One phrase for the dataset's card."""
        if self.kind == "none":
            return "none"
        files = {"darknet": self.weights, "onnx": self.onnx}
        file = files.get(self.kind, Path(self.model.partition("@")[0]))
        # Where it lay is nobody's business.
        model = file.name if file and (self.kind in files or file.is_dir()) else self.model
        least = f", boxes of at least {self.min_area:g} of the image" if self.min_area else ""
        return f"{self.kind} `{model}`, class `{self.class_name}`, threshold {self.threshold:g}{least}"

    def score(self, boxes: Sequence[Box]) -> float:
        """The highest score among the boxes that count, to 4 digits; 0 if there is none."""
        return round(max((box.score for box in boxes if box.width * box.height >= self.min_area), default=0.0), 4)


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
