"""Fill a photograph with an exported generator: python fill_onnx.py model.onnx photo.jpg mask.png filled.png

Needs onnxruntime and Pillow alone. The mask is white where to fill, and as large as the photograph. What comes out has
8 bits a channel.
"""

import sys

import numpy as np  # onnxruntime brings it
import onnxruntime
from PIL import Image, ImageOps

if len(sys.argv) != 5:
    sys.exit(f"{len(sys.argv) - 1} names given; use: python fill_onnx.py model.onnx photo.jpg mask.png filled.png")
model, photo, mask, output = sys.argv[1:]
try:
    image, hole = given = [ImageOps.exif_transpose(Image.open(path)) for path in (photo, mask)]
    if image.size != hole.size:
        sys.exit(
            f"the mask is {hole.width}x{hole.height} pixels and the photograph {image.width}x{image.height}: scale it"
        )
    if any(one.mode[0] in "IF" or one.has_transparency_data for one in given):
        sys.exit(
            f"8 bits a channel and no transparency are taken, not {image.mode} with a mask {hole.mode}: convert it"
        )
    inputs = {"image": np.asarray(image.convert("RGB"))[None], "mask": np.asarray(hole.convert("L"))[None]}
    (filled,) = onnxruntime.InferenceSession(model).run(["filled"], inputs)
    Image.fromarray(filled[0]).save(output)
except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no class of their own
    sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
