"""In what numbers a pipeline fills: in float32 the same bytes alone and among others, otherwise nearly the same."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inpaint.errors import UsageError
from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.pipeline import InpaintingPipeline
from inpaint.tables import GENERATORS


def generator_of(architecture: str) -> Generator:
    """One that paints something: a last layer that starts at zero would hide all before it."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(width=8, architecture=architecture, image_size=32)).eval()
    with torch.no_grad():
        for parameter in generator.layers[-1].parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return generator


def examples() -> tuple[list[NDArray[np.uint8]], list[NDArray[np.bool_]]]:
    """Twenty images of four sizes in no order, each with a hole of its own."""
    random = np.random.default_rng(0)
    images, masks = [], []
    for number in range(20):
        height, width = ((32, 32), (31, 45), (64, 64), (48, 96))[number * 7 % 4]
        images.append(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        top, left = random.integers(0, height // 2), random.integers(0, width // 2)
        mask = np.zeros((height, width), bool)
        mask[top : top + height // 3, left : left + width // 4] = True
        masks.append(mask)
    return images, masks


@pytest.mark.parametrize("strategy", ["whole", "auto"])
@pytest.mark.parametrize("name", GENERATORS)
def test_alone_and_among_others_the_bytes_are_the_same(name: str, strategy: str) -> None:
    pipe = InpaintingPipeline(generator_of(name), "cpu")
    images, masks = examples()
    together = pipe(images, masks, strategy=strategy)
    for image, mask, filled in zip(images, masks, together, strict=True):
        assert np.array_equal(pipe(image, mask, strategy=strategy), filled)


@pytest.mark.parametrize("name", GENERATORS)
def test_bf16_computes_otherwise_and_nearly_the_same(name: str) -> None:
    images, masks = examples()
    exact, near = (
        InpaintingPipeline(generator_of(name), "cpu", precision=p)(images, masks) for p in ("float32", "bf16")
    )
    apart = np.concatenate([np.abs(np.asarray(a).astype(int) - b).ravel() for a, b in zip(exact, near, strict=True)])
    assert apart.max() > 0 and apart.mean() < 0.5
    for image, mask, filled in zip(images, masks, near, strict=True):
        assert np.array_equal(np.asarray(filled)[~mask], image[~mask])


def test_a_precision_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="precision is 'half'; use float32, bf16, fp16"):
        InpaintingPipeline(Generator(GeneratorConfig(width=2)), "cpu", precision="half")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and none is installed")
def test_compiled_it_fills_the_same() -> None:
    image, mask = (each[1] for each in examples())
    plain, compiled = (
        InpaintingPipeline(generator_of("dilated"), "cpu", is_compiled=flag)(image, mask, strategy="whole")
        for flag in (False, True)
    )
    assert np.abs(np.asarray(plain).astype(int) - compiled).max() <= 1
