"""Owns the person filter: detectors behind one small interface, and what counts as a person.

A detector only finds boxes; the highest score of the wanted class is written down for every picture, so that the
threshold can be moved later without detecting again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from inpaint.errors import InpaintError, UsageError

Kind = Literal["none", "darknet", "transformers"]

# Small, current and Apache-2.0.
DEFAULT_MODEL = "PekingU/rtdetr_v2_r18vd"
# Boxes below this score say nothing; every threshold worth setting lies above.
LOWEST_SCORE = 0.01
# Darknet's own overlap (intersection over union) above which the weaker of two boxes goes.
NMS_OVERLAP = 0.45
BATCH_SIZE = 32


class Box(NamedTuple):
    """One detection: its score in [0, 1] and its corner and size as fractions of the picture."""

    score: float
    x: float
    y: float
    width: float
    height: float


class Detector(Protocol):
    """Finds the things of one class in pictures."""

    def detect(self, pictures: Sequence[NDArray[np.uint8]]) -> list[list[Box]]:
        """The boxes in each picture ([H, W, 3], RGB); the same for a picture whatever the others are."""
        ...


@dataclass(frozen=True)
class PeopleFilter:
    """What finds people and what counts as one; small enough to be sent to every worker.

    Args:
        kind: "none" keeps everybody and writes no score.
        threshold: pictures whose highest score reaches it are left out.
        min_area: smallest box that counts, as a fraction of the picture.
        class_name: what to find, as the detector's own list of classes calls it.
        cfg, weights, names: the darknet files. Without `names` the one beside the cfg (`coco.names`) is used, and
            failing that the first class must be "person", as it is in COCO.
        input_px: side of darknet's square input; by default the cfg's.
        model: a Hub id or directory of an object-detection checkpoint, or `id@revision`.
    """

    kind: Kind = "none"
    threshold: float = 0.3
    min_area: float = 0.0
    class_name: str = "person"
    cfg: Path | None = None
    weights: Path | None = None
    names: Path | None = None
    input_px: int | None = None
    model: str = DEFAULT_MODEL

    def __post_init__(self) -> None:
        """Raises UsageError for a setting that can't be right."""
        if self.kind not in ("none", "darknet", "transformers"):
            raise UsageError(f"--people-filter is {self.kind!r}; use none, darknet or transformers")
        if not 0 <= self.min_area < 1:
            raise UsageError(f"--person-min-area is {self.min_area}; it is a fraction of the picture, from 0 to 1")
        if self.threshold < LOWEST_SCORE:
            raise UsageError(f"--person-threshold is {self.threshold}; it must be at least {LOWEST_SCORE}")
        if self.kind == "darknet":
            for flag, path in (("--darknet-cfg", self.cfg), ("--darknet-weights", self.weights)):
                if path is None or not path.is_file():
                    raise UsageError(f"--people-filter darknet needs {flag}, a file; got {path}")

    def build(self) -> Detector:
        """The detector; loads its weights."""
        if self.kind == "darknet":
            return DarknetDetector(self)
        if self.kind == "transformers":
            return TransformersDetector(self)
        raise ValueError("there is no detector for 'none'")

    def identity(self) -> str:
        """What decides the scores: the same string, the same scores. The threshold is not part of it."""
        if self.kind == "none":
            return "none"
        settings = asdict(self)
        del settings["threshold"]
        for field in ("cfg", "weights", "names"):
            path = getattr(self, field)
            settings[field] = path and _digest([path])
        if Path(self.model).is_dir():
            settings["model"] = _digest(sorted(path for path in Path(self.model).iterdir() if path.is_file()))
        return repr(sorted(settings.items()))

    def describe(self) -> str:
        """One phrase for the dataset's card."""
        if self.kind == "none":
            return "none"
        model = self.model if self.kind == "transformers" else self.weights.name if self.weights else ""
        least = f", boxes of at least {self.min_area:g} of the picture" if self.min_area else ""
        return f"{self.kind} `{model}`, class `{self.class_name}`, threshold {self.threshold:g}{least}"

    def score(self, boxes: Sequence[Box]) -> float:
        """The highest score among the boxes that count, to 4 digits; 0 if there is none."""
        return round(max((box.score for box in boxes if box.width * box.height >= self.min_area), default=0.0), 4)


class DarknetDetector:
    """YOLO from a darknet cfg and weights through OpenCV 4 (5 dropped the reader); on CPU, picture by picture."""

    def __init__(self, people: PeopleFilter) -> None:
        import cv2

        assert people.cfg is not None and people.weights is not None
        try:
            self.network = cv2.dnn.readNetFromDarknet(str(people.cfg), str(people.weights))
        except cv2.error as error:
            raise InpaintError(
                f"OpenCV can't read the darknet pair {people.cfg} and {people.weights}: {error.err}; "
                "check that both are whole and belong together"
            ) from error
        _check_weights(self.network, people.cfg, people.weights)
        self.outputs = self.network.getUnconnectedOutLayersNames()
        self.size = people.input_px or _cfg_size(people.cfg)
        self.class_index = _class_index(people)

    def detect(self, pictures: Sequence[NDArray[np.uint8]]) -> list[list[Box]]:
        return [self._detect(picture) for picture in pictures]

    def _detect(self, picture: NDArray[np.uint8]) -> list[Box]:
        import cv2

        canvas, scale, left, top = letterbox(picture, self.size)
        self.network.setInput(cv2.dnn.blobFromImage(canvas, 1 / 255))
        # A row holds centre, size (fractions of the canvas), objectness, and objectness times each class.
        rows = np.concatenate(self.network.forward(self.outputs)).astype(np.float64)
        rows = rows[rows[:, 5 + self.class_index] >= LOWEST_SCORE]
        height, width = picture.shape[:2]
        sizes = rows[:, 2:4] * self.size / scale / (width, height)
        corners = (rows[:, :2] * self.size - (left, top)) / scale / (width, height) - sizes / 2
        scores = rows[:, 5 + self.class_index]
        boxes = np.concatenate([corners, sizes], axis=1)
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), LOWEST_SCORE, NMS_OVERLAP)
        return [Box(float(scores[i]), *(float(value) for value in boxes[i])) for i in kept]


class TransformersDetector:
    """Any object-detection checkpoint of the Hub, batched; bfloat16 on a GPU (this rank's), float32 on CPU."""

    def __init__(self, people: PeopleFilter) -> None:
        try:
            import torch
            from transformers import AutoImageProcessor, AutoModelForObjectDetection
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise InpaintError(
                f"--people-filter transformers needs a package that is missing ({error.name}): "
                "pip install 'inpaint[people]'"
            ) from error
        disable_progress_bar()
        model, _, revision = people.model.partition("@")
        num_gpus = torch.cuda.device_count()
        self.device = torch.device("cuda", local_rank() % num_gpus) if num_gpus else torch.device("cpu")
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        try:
            self.processor: Any = AutoImageProcessor.from_pretrained(model, revision=revision or "main")
            network = AutoModelForObjectDetection.from_pretrained(
                model, revision=revision or "main", use_safetensors=True, dtype=self.dtype
            )
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise InpaintError(
                f"no object-detection checkpoint could be loaded from {people.model!r}: {first}"
            ) from error
        self.network: Any = network.to(self.device).eval()
        names = {name.lower(): index for index, name in self.network.config.id2label.items()}
        if people.class_name.lower() not in names:
            known = ", ".join(sorted(names)[:10])
            raise UsageError(f"{people.model} knows no class {people.class_name!r}; it has {known}, ...")
        self.class_index = names[people.class_name.lower()]

    def detect(self, pictures: Sequence[NDArray[np.uint8]]) -> list[list[Box]]:
        return [
            boxes
            for start in range(0, len(pictures), BATCH_SIZE)
            for boxes in self._detect(pictures[start : start + BATCH_SIZE])
        ]

    def _detect(self, pictures: Sequence[NDArray[np.uint8]]) -> list[list[Box]]:
        import torch

        # Always whole batches: another batch size may take another kernel and round otherwise.
        batch = [*pictures, *[pictures[-1]] * (BATCH_SIZE - len(pictures))] if self.device.type == "cuda" else pictures
        inputs = self.processor(images=list(batch), return_tensors="pt").to(self.device, self.dtype)
        with torch.inference_mode():
            found = self.network(**inputs)
        results = self.processor.post_process_object_detection(
            found, threshold=LOWEST_SCORE, target_sizes=[(1, 1)] * len(batch)
        )
        return [self._boxes(result) for result in results[: len(pictures)]]

    def _boxes(self, result: dict[str, Any]) -> list[Box]:
        wanted = result["labels"] == self.class_index
        scores, corners = result["scores"][wanted].tolist(), result["boxes"][wanted].tolist()
        return [Box(score, x0, y0, x1 - x0, y1 - y0) for score, (x0, y0, x1, y1) in zip(scores, corners, strict=True)]


def letterbox(picture: NDArray[np.uint8], size: int) -> tuple[NDArray[np.uint8], float, int, int]:
    """The whole picture in a grey square of `size` pixels, its shape kept.

    Returns:
        The square [size, size, 3], the scale, and the left and top margins in pixels.
    """
    import cv2

    height, width = picture.shape[:2]
    scale = size / max(height, width)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (size - new_width) // 2, (size - new_height) // 2
    canvas = np.full((size, size, 3), 128, np.uint8)  # darknet fills with one half
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[top : top + new_height, left : left + new_width] = cv2.resize(
        picture, (new_width, new_height), interpolation=interpolation
    )
    return canvas, scale, left, top


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def local_rank() -> int:
    """Which of this machine's GPUs is ours, as the launcher says."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def _cfg_size(cfg: Path) -> int:
    for line in cfg.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "width" and value.strip().isdigit():
            return int(value)
    raise UsageError(f"{cfg} states no input width; say --darknet-size")


def _check_weights(network: Any, cfg: Path, weights: Path) -> None:
    """OpenCV takes a file of the wrong length without a word, so the sizes must agree to the byte."""
    layers = (network.getLayer(name) for name in network.getLayerNames())
    # A Region layer's blob holds the cfg's anchors.
    num_values = sum(int(np.prod(blob.shape)) for layer in layers if layer.type != "Region" for blob in layer.blobs)
    headers = (16, 20)  # three numbers, and the pictures seen as 32 or 64 bits
    size = weights.stat().st_size
    if size - 4 * num_values not in headers:
        raise InpaintError(
            f"{weights} is {size} bytes, but {cfg.name} needs {4 * num_values + headers[1]}: "
            "the download is broken or the two do not belong together"
        )


def _class_index(people: PeopleFilter) -> int:
    assert people.cfg is not None
    names_file = people.names or people.cfg.with_name("coco.names")
    if not names_file.is_file():
        if people.class_name == "person":
            return 0
        raise UsageError(
            f"which class is {people.class_name!r}? Say --darknet-names, the list of the detector's classes"
        )
    names = names_file.read_text(encoding="utf-8").split("\n")
    if people.class_name not in names:
        raise UsageError(f"{names_file} knows no class {people.class_name!r}; it has {', '.join(names[:10])}, ...")
    return names.index(people.class_name)
