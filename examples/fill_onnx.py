"""Fill a photograph with an exported generator: python fill_onnx.py model.onnx photo.jpg mask.png filled.png

Needs onnxruntime and Pillow alone. The mask is white where to fill, and as large as the photograph.
"""

import sys

import numpy as np  # onnxruntime brings it
import onnxruntime
from PIL import Image, ImageOps

model, photo, mask, output = sys.argv[1:]
image, hole = (ImageOps.exif_transpose(Image.open(path)) for path in (photo, mask))
inputs = {"image": np.asarray(image.convert("RGB"))[None], "mask": np.asarray(hole.convert("L"))[None]}
(filled,) = onnxruntime.InferenceSession(model).run(["filled"], inputs)
Image.fromarray(filled[0]).save(output)
