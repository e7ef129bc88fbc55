"""A feature network of the right shapes and random weights, in the place of the one whose hash is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from inpaint.models import feature_network


def make_features_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    random = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}

    def add(layer: str, norm: str, *shape: int) -> None:
        tensors[f"{layer}.weight"] = torch.randn(shape, generator=random) / math.sqrt(math.prod(shape[1:]))
        for name, value in (("weight", 1), ("bias", 0.5), ("running_mean", 0), ("running_var", 1)):
            tensors[f"{norm}.{name}"] = torch.full((shape[0],), float(value))

    add("_conv_stem", "_bn0", 32, 3, 3, 3)
    width, block = 32, 0
    for (num, kernel, _), out in zip(feature_network.STAGES, (16, 24, 40, 80, 112), strict=True):
        for _ in range(num):
            name, inner = f"_blocks.{block}", width if block == 0 else 6 * width
            if block:
                add(f"{name}._expand_conv", f"{name}._bn0", inner, width, 1, 1)
            add(f"{name}._depthwise_conv", f"{name}._bn1", inner, 1, kernel, kernel)
            add(f"{name}._project_conv", f"{name}._bn2", out, inner, 1, 1)
            width, block = out, block + 1
    path.write_bytes(laid_out(tensors))
    monkeypatch.setattr(feature_network, "SHA256", feature_network.hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def laid_out(tensors: dict[str, torch.Tensor]) -> bytes:
    """A file of nothing but tensors, each where the real file has it."""
    layout = json.loads(feature_network.LAYOUT.read_bytes())
    assert layout.keys() == tensors.keys()
    content = bytearray(max(start + 4 * math.prod(shape) for start, shape, _ in layout.values()))
    for name, (start, shape, strides) in layout.items():
        elements = torch.empty(math.prod(shape))
        elements.as_strided(shape, strides).copy_(tensors[name])
        content[start : start + 4 * len(elements)] = elements.numpy().tobytes()
    return bytes(content)
