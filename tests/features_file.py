"""A feature network of the right shapes and random weights, in the place of the one whose hash is known."""

from __future__ import annotations

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
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    monkeypatch.setattr(feature_network, "SHA256", feature_network.hashlib.sha256(path.read_bytes()).hexdigest())
    return path
