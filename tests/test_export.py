"""A generator exported at one size computes the same at any other: what an exported graph is good for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.tables import GENERATORS


def example(height: int, width: int) -> tuple[Tensor, Tensor]:
    """A masked image with a hole in its middle, and the mask."""
    mask = torch.zeros(1, 1, height, width)
    mask[..., height // 4 : height // 2, width // 4 : width // 2] = 1
    return torch.rand(1, 3, height, width) * (1 - mask), mask


@pytest.mark.parametrize("name", GENERATORS)
def test_what_was_exported_at_64_px_fills_any_size(name: str) -> None:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(width=4, architecture=name)).eval()
    with torch.no_grad():  # or a last layer that starts at zero hides all before it
        for parameter in generator.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    px = generator.multiple_px
    height, width = (px * torch.export.Dim(side, min=2, max=512) for side in ("height", "width"))
    sizes = {2: height, 3: width}
    exported = torch.export.export(generator, example(64, 64), dynamic_shapes=(sizes, sizes)).module()
    for size in ((96, 160), (36, 200), (512, 64), (8, 8)):
        inputs = example(*size)
        torch.testing.assert_close(exported(*inputs), generator(*inputs), rtol=0, atol=1e-4)
