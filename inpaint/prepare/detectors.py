"""Owns the detectors of the person filter, each over files of its own kind."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from inpaint.errors import InpaintError, UsageError
from inpaint.prepare.people import BATCH_SIZE, LOWEST_SCORE, Box, Detector, PeopleFilter

# Overlap (intersection over union) above which the weaker of two boxes goes, as darknet and YOLOX have it.
NMS_OVERLAP = 0.45
# Of YOLOX's networks: the input's side where nothing is said, and the cells of its three grids.
ONNX_PX, STRIDES_PX = 416, (8, 16, 32)
REACH_TIMEOUT_S = 10.0


def build_detector(people: PeopleFilter) -> Detector:
    """The detector of a filter; loads its weights."""
    if people.kind == "darknet":
        return DarknetDetector(people)
    return OnnxDetector(people) if people.kind == "onnx" else TransformersDetector(people)


def check_detector(people: PeopleFilter) -> None:
    """Tells in a moment what would keep it from working, before a million images are listed."""
    if people.kind == "transformers":
        _check_packages()
        _is_on_hub(people.model)
    elif people.kind != "none":
        build_detector(people)


class DarknetDetector:
    """YOLO from a darknet cfg and weights through OpenCV 4 (5 dropped the reader); on CPU, image by image."""

    def __init__(self, people: PeopleFilter) -> None:
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
        self.size = people.input_px or _cfg_number(people.cfg, "width")
        self.class_index = _class_index(people, people.cfg)
        if self.class_index >= (num_classes := _cfg_number(people.cfg, "classes")):
            raise UsageError(
                f"the list of classes has {people.class_name!r} in line {self.class_index + 1}, but {people.cfg} knows "
                f"{num_classes} classes; give --detector-names the list that belongs to it"
            )

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Box]]:
        return [self._detect(image) for image in images]

    def _detect(self, image: NDArray[np.uint8]) -> list[Box]:
        canvas, scale, left, top = letterbox(image, self.size)
        self.network.setInput(cv2.dnn.blobFromImage(canvas, 1 / 255))
        # A row holds centre, size (fractions of the canvas), objectness, and objectness times each class.
        rows = np.concatenate(self.network.forward(self.outputs)).astype(np.float64)
        rows = rows[rows[:, 5 + self.class_index] >= LOWEST_SCORE]
        shape = image.shape[1::-1]
        sizes = rows[:, 2:4] * self.size / scale / shape
        corners = (rows[:, :2] * self.size - (left, top)) / scale / shape - sizes / 2
        scores = rows[:, 5 + self.class_index]
        return _strongest(np.concatenate([corners, sizes], axis=1), scores)


class OnnxDetector:
    """A YOLOX network as an ONNX file, through OpenCV; on CPU, image by image.

    It takes an image in the top left corner of a square of grey 114, BGR from 0 to 255, and gives a row for each cell
    of its three grids: centre, size, objectness and the classes' scores. Centre and size are in pixels, or, as YOLOX
    exports them by default, in cells from their own and as logarithms.
    """

    def __init__(self, people: PeopleFilter) -> None:
        assert people.onnx is not None
        self.size = people.input_px or ONNX_PX
        self.class_index = _class_index(people, people.onnx)
        grids = [np.indices((self.size // stride,) * 2)[::-1].reshape(2, -1).T for stride in STRIDES_PX]
        self.cells = np.concatenate(grids)
        self.strides = np.repeat(STRIDES_PX, [len(grid) for grid in grids])[:, None]
        try:
            self.network = cv2.dnn.readNetFromONNX(str(people.onnx))
            rows = self._rows(np.full((self.size, self.size, 3), 114, np.uint8))
        except cv2.error as error:
            raise InpaintError(
                f"OpenCV can't run {people.onnx} on images of {self.size} px: {error.err}; check that the file is "
                "whole, and say --detector-size if its input has another side"
            ) from error
        if rows.ndim != 2 or len(rows) != len(self.cells) or rows.shape[1] <= 5 + self.class_index:
            raise InpaintError(
                f"{people.onnx} gives {'x'.join(map(str, rows.shape))} numbers for {self.size} px; a YOLOX network "
                f"gives {len(self.cells)} rows of 5 and its classes, more than {self.class_index} of them"
            )
        self.is_decoded = bool(np.ptp(rows[:, :2]) > self.size / 2)

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Box]]:
        return [self._detect(image) for image in images]

    def _rows(self, canvas: NDArray[np.uint8]) -> NDArray[np.float64]:
        self.network.setInput(cv2.dnn.blobFromImage(canvas, swapRB=True))
        return np.asarray(self.network.forward(), np.float64)[0]

    def _detect(self, image: NDArray[np.uint8]) -> list[Box]:
        canvas, scale, _, _ = letterbox(image, self.size, grey=114, is_centred=False)
        rows = self._rows(canvas)
        scores = rows[:, 4] * rows[:, 5 + self.class_index]
        found = scores >= LOWEST_SCORE
        centres, sizes, strides = rows[found, :2], rows[found, 2:4], self.strides[found]
        if not self.is_decoded:
            centres, sizes = (centres + self.cells[found]) * strides, np.exp(sizes) * strides
        shape = image.shape[1::-1]
        return _strongest(
            np.concatenate([centres - sizes / 2, sizes], axis=1) / scale / (*shape, *shape), scores[found]
        )


def _strongest(boxes: NDArray[np.float64], scores: NDArray[np.float64]) -> list[Box]:
    """Without those that a stronger one overlaps; boxes [N, 4] are corner and size."""
    kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), LOWEST_SCORE, NMS_OVERLAP)
    return [Box(float(scores[i]), *(float(value) for value in boxes[i])) for i in kept]


class TransformersDetector:
    """Any object-detection checkpoint of the Hub, batched; bfloat16 on a GPU (this rank's), float32 on CPU."""

    def __init__(self, people: PeopleFilter) -> None:
        _check_packages()
        import torch
        from transformers import AutoImageProcessor, AutoModelForObjectDetection
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        model, _, revision = people.model.partition("@")
        num_gpus = torch.cuda.device_count()
        self.device = (
            torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % num_gpus) if num_gpus else torch.device("cpu")
        )
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        place: dict[str, Any] = {"revision": revision or "main", "local_files_only": not _is_on_hub(people.model)}
        try:
            self.processor: Any = AutoImageProcessor.from_pretrained(model, **place)
            network = AutoModelForObjectDetection.from_pretrained(
                model, use_safetensors=True, dtype=self.dtype, **place
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
            raise UsageError(f"{people.model} has no class {people.class_name!r}; it has {known}, ...")
        self.class_index = names[people.class_name.lower()]

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Box]]:
        import torch

        # Always whole batches: another batch size may take another kernel and round otherwise.
        batch = [*images, *[images[-1]] * (BATCH_SIZE - len(images))] if self.device.type == "cuda" else images
        inputs = self.processor(images=list(batch), return_tensors="pt").to(self.device, self.dtype)
        with torch.inference_mode():
            found = self.network(**inputs)
        results = self.processor.post_process_object_detection(
            found, threshold=LOWEST_SCORE, target_sizes=[(1, 1)] * len(batch)
        )
        return [self._boxes(result) for result in results[: len(images)]]

    def _boxes(self, result: dict[str, Any]) -> list[Box]:
        wanted = result["labels"] == self.class_index
        scores, corners = result["scores"][wanted].tolist(), result["boxes"][wanted].tolist()
        return [Box(score, x0, y0, x1 - x0, y1 - y0) for score, (x0, y0, x1, y1) in zip(scores, corners, strict=True)]


def _check_packages() -> None:
    if missing := [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]:
        raise InpaintError(
            f"--people-filter transformers needs a package that is missing ({missing[0]}): "
            "pip install 'inpaint[people]'"
        )


def _is_on_hub(model: str) -> bool:
    """Whether the Hub gives a checkpoint now; False: it is here already, in a folder or the cache.

    One request, where `transformers` would try for minutes.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    from inpaint.hub.errors import HTTP_ERROR

    name, _, revision = model.partition("@")
    if Path(name).is_dir():
        return False
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision or None), timeout=REACH_TIMEOUT_S)
    except (HTTP_ERROR, OSError, HFValidationError) as error:
        is_valid = not isinstance(error, HFValidationError)
        if is_valid and isinstance(try_to_load_from_cache(name, "config.json", revision=revision or None), str):
            return False
        detail = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InpaintError(
            f"the checkpoint {model} can't be fetched from the Hub ({detail}); give --detector a folder that holds it, "
            "or use --people-filter darknet or onnx with files of your own"
        ) from error
    return True


def letterbox(
    image: NDArray[np.uint8], size: int, grey: int = 128, is_centred: bool = True
) -> tuple[NDArray[np.uint8], float, int, int]:
    """The whole image in a grey square of `size` pixels, its shape kept; in the middle or in the top left corner.

    Returns:
        The square [size, size, 3], the scale, and the left and top margins in pixels.
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = ((size - new_width) // 2, (size - new_height) // 2) if is_centred else (0, 0)
    canvas = np.full((size, size, 3), grey, np.uint8)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[top : top + new_height, left : left + new_width] = cv2.resize(
        image, (new_width, new_height), interpolation=interpolation
    )
    return canvas, scale, left, top


def _cfg_number(cfg: Path, wanted: str) -> int:
    for line in cfg.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == wanted and value.strip().isdigit():
            return int(value)
    raise UsageError(f"{cfg} has no {wanted}; add it, or give the width with --detector-size")


def _check_weights(network: Any, cfg: Path, weights: Path) -> None:
    """OpenCV takes a file of the wrong length without a word, so the sizes must agree to the byte."""
    layers = (network.getLayer(name) for name in network.getLayerNames())
    # A Region layer's blob holds the cfg's anchors.
    num_values = sum(int(np.prod(blob.shape)) for layer in layers if layer.type != "Region" for blob in layer.blobs)
    headers = (16, 20)  # three numbers, and the images seen as 32 or 64 bits
    size = weights.stat().st_size
    if size - 4 * num_values not in headers:
        raise InpaintError(
            f"{weights} is {size} bytes, but {cfg.name} needs {4 * num_values + headers[1]}: "
            "the download is broken or the two do not belong together"
        )


def _class_index(people: PeopleFilter, beside: Path) -> int:
    names_file = people.names or beside.with_name("coco.names")
    if not names_file.is_file():
        if people.class_name == "person":
            return 0
        raise UsageError(
            f"which class is {people.class_name!r}? Give --detector-names, the list of the detector's classes"
        )
    names = names_file.read_text(encoding="utf-8").split("\n")
    if people.class_name not in names:
        raise UsageError(f"{names_file} has no class {people.class_name!r}; it has {', '.join(names[:10])}, ...")
    return names.index(people.class_name)
