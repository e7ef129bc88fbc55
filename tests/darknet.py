"""A darknet network of one layer that sees people where the image is white."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from inpaint.prepare.people import PeopleFilter

# Three by three cells of 32 px, each its brightest pixel, and one 1x1 convolution to a box and two classes.
CFG = """
[net]
width=96
height=96
channels=3

[maxpool]
size=32
stride=32
padding=0

[convolutional]
filters=7
size=1
stride=1
pad=0
activation=linear

[yolo]
mask=0
anchors=48,24
classes=2
num=1
"""


def write_darknet(folder: Path, extra_bytes: int = 0) -> PeopleFilter:
    """A network that sees a person (its second class) of 48x24 px centred in every cell that is white."""
    cfg, weights, names = folder / "tiny.cfg", folder / "tiny.weights", folder / "coco.names"
    cfg.write_text(CFG)
    names.write_text("dog\nperson\n")
    biases = np.array([0, 0, 0, 0, -10, -10, -10], "<f4")  # x, y, w, h, objectness, dog, person
    kernel = np.zeros((7, 3), "<f4")
    kernel[[4, 6], 0] = 14.0  # only the first channel counts: RGB, not BGR
    header = np.array([0, 2, 0], "<i4").tobytes() + np.array([0], "<i8").tobytes()
    weights.write_bytes(header + biases.tobytes() + kernel.tobytes() + bytes(extra_bytes))
    return PeopleFilter("darknet", cfg=cfg, weights=weights)
