"""Owns the ONNX file of a generator: how it is written, and the proof that it fills as the generator does."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from inpaint import __version__
from inpaint.errors import InpaintError, shorten
from inpaint.exports.graph import PixelGenerator
from inpaint.models.generator import Generator

# All of its operators are known to onnxruntime since 1.14 and to its builds for browsers.
OPSET = 18
DTYPES = {"float32": torch.float32, "fp16": torch.float16}
# Batch, height and width at which each new file is compared with PyTorch: even and odd, wide, high, and one pixel.
_PROVED_AT = ((2, 64, 64), (1, 63, 65), (1, 130, 97), (3, 5, 40), (1, 1, 1))
# Of 255: sums are taken in another order.
_MOST_APART = 1

Say = Callable[[str], None]


def quiet(line: str) -> None:
    """Says nothing."""


def write_onnx(generator: Generator, path: Path, precision: str = "float32", say: Say = quiet) -> None:
    """Write a graph from `image` (uint8 [B, H, W, 3]) and `mask` (uint8 [B, H, W]) to `filled`, of any B, H and W.

    It is what `PixelGenerator` computes, in one file. onnxruntime has filled images of several sizes with it before it
    is there, each as PyTorch does to 1 of 255, with the known pixels unchanged.

    Args:
        precision: of `DTYPES`; what weights are kept and computed in.
        say: called with a line before each part of the work that takes long.

    Raises:
        InpaintError: a package is missing, the architecture cannot be exported, the file cannot be written, or it fills
            otherwise.
    """
    require_packages()
    part = path.with_name(f".{path.name}.part")
    try:
        say(f"exporting the network to ONNX, in {precision}")
        _save(PixelGenerator(copy.deepcopy(generator), DTYPES[precision]), part)
        say(f"comparing its fills with PyTorch's at {len(_PROVED_AT)} sizes")
        _prove(part, PixelGenerator(generator), precision)
        part.replace(path)
    except OSError as error:
        raise InpaintError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def require_packages() -> None:
    """InpaintError unless all that export needs is installed."""
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise InpaintError(f"export needs {' and '.join(missing)}, not installed here: pip install 'inpaint[onnx]'")


def _save(model: PixelGenerator, path: Path) -> None:
    """Export to ONNX; InpaintError if the architecture does something that ONNX has no word for."""
    sizes = {0: "batch", 1: "height", 2: "width"}
    example = torch.zeros(2, 70, 90, 3, dtype=torch.uint8), torch.zeros(2, 70, 90, dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):  # about PyTorch's own code
            program = torch.onnx.export(
                model,
                example,
                input_names=["image", "mask"],
                output_names=["filled"],
                dynamic_shapes=(sizes, sizes),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever stopped it
        cause = error.__cause__ or error
        reason = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        architecture = model.generator.config.architecture
        raise InpaintError(f"{architecture!r} cannot be exported to ONNX: {shorten(reason.strip())}") from error
    assert program is not None
    written = program.model
    for node in written.graph.all_nodes():
        node.metadata_props.clear()  # where in the source it is from, with this machine's paths
        node.doc_string = None
    config = model.generator.config
    facts = {"architecture": config.architecture, "image_size": config.image_size, "hole_max_px": config.hole_max_px}
    written.producer_name, written.producer_version = "inpaint", __version__
    written.metadata_props.update({name: str(value) for name, value in facts.items() if value is not None})
    program.save(path, external_data=False)


def _prove(path: Path, model: PixelGenerator, precision: str) -> None:
    """InpaintError unless onnxruntime fills with the file as PyTorch does with the generator."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    for shape in _PROVED_AT:
        image, mask = _example(shape, random)
        (filled,) = session.run(None, {"image": image, "mask": mask})
        with torch.inference_mode():
            expected = model(torch.from_numpy(image), torch.from_numpy(mask)).numpy()
        apart = int(np.abs(filled.astype(int) - expected).max())
        if apart > _MOST_APART or not np.array_equal(filled[mask == 0], image[mask == 0]):
            remedy = "" if precision == "float32" else "; use --precision float32"
            raise InpaintError(
                f"at {shape[2]}x{shape[1]} pixels the ONNX file fills up to {apart} of 255 otherwise than PyTorch "
                f"(allowed: {_MOST_APART}), so it was not kept{remedy}"
            )


def _example(shape: tuple[int, int, int], random: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image of a gradient and noise, and a mask with a hole in its middle."""
    batch, height, width = shape
    ramp = np.linspace(0, 200, height * width).reshape(1, height, width, 1)
    image = (ramp + random.integers(0, 56, (batch, height, width, 3))).astype(np.uint8)
    mask = np.zeros((batch, height, width), np.uint8)
    mask[:, height // 4 : height // 4 + (height + 2) // 3, width // 4 : width // 4 + (width + 2) // 3] = 255
    return image, mask
