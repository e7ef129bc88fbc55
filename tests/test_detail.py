"""What is copied into an enlarged fill, and that holes are grown as asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from painting import FILL, noise
from PIL import Image
from test_photographs import HOLES, holes, painter, square
from torch import Tensor, nn

from inpaint import Generator, InpaintingPipeline
from inpaint.cli import main
from inpaint.errors import UsageError
from inpaint.models.generator import GeneratorConfig


class Tell(nn.Module):
    """A generator that knows what the fill is, at any scale."""

    multiple_px, inference_bytes_per_px = 4, 0

    def __init__(self, truth: NDArray[np.uint8]) -> None:
        super().__init__()
        self.truth = torch.from_numpy(truth).permute(2, 0, 1)[None].float() / 255

    def forward(self, masked_image: Tensor, mask: Tensor) -> Tensor:
        return nn.functional.interpolate(self.truth, masked_image.shape[2:], mode="area")


def knowing(truth: NDArray[np.uint8]) -> InpaintingPipeline:
    generator = Generator(GeneratorConfig(width=2, image_size=64))
    generator.layers = Tell(truth)
    return InpaintingPipeline(generator, "cpu")


def error(filled: Any, truth: NDArray[np.uint8], hole: NDArray[np.bool_]) -> float:
    return float(np.abs(np.asarray(filled)[hole].astype(float) - truth[hole]).mean())


def texture(seed: int = 0) -> NDArray[np.uint8]:
    """Stripes and grain on a slope of colour, 256 px: what a scale of 1/4 cannot hold."""
    rows, columns = np.mgrid[:256, :256]
    stripes = 60 * (columns // 2 % 2) + 0.3 * rows
    grain = np.random.default_rng(seed).normal(0, 6, (256, 256))
    return np.clip(stripes[..., None] + grain[..., None] + (20, 40, 60), 0, 255).astype(np.uint8)


HOLE = square(100, (256, 256), (70, 80))


def test_texture_goes_on_in_the_hole_and_is_as_strong_as_around_it() -> None:
    truth = texture()
    detailed, smooth = (np.asarray(knowing(truth)(truth, HOLE, detail=detail)) for detail in (True, False))
    inner = square(80, (256, 256), (80, 90))
    steps = [np.abs(np.diff(image.astype(float), axis=1))[inner[:, 1:]] for image in (truth, detailed, smooth)]
    strength = [step.mean() for step in steps]
    assert 0.8 < strength[1] / strength[0] < 1.1 and strength[2] / strength[0] < 0.2
    assert error(detailed, truth, HOLE) < 0.5 * error(smooth, truth, HOLE), "the stripes meet"


def test_colours_are_those_of_the_guide_where_none_of_the_photograph_are() -> None:
    truth = texture()
    truth[100:150, 110:150] = truth[100:150, 110:150] // 4 + (120, 0, 0)
    filled = np.asarray(knowing(truth)(truth, HOLE))
    assert filled[115:135, 120:140].mean((0, 1))[0] > filled[115:135, 120:140].mean((0, 1))[2]


@pytest.mark.parametrize("detail", [True, False])
@pytest.mark.parametrize("side", [256, 1600])
def test_a_generator_whose_colours_are_a_little_off_leaves_no_outline(detail: bool, side: int) -> None:
    """Neighbours across the border: in a sky that darkens, filled too warm, and too light at one end."""
    sky = np.linspace(200, 90, side)[:, None, None] - np.array([60, 30, 0.0])
    truth = np.broadcast_to(sky, (side, side, 3)).round().astype(np.uint8)
    off = np.clip(truth + np.array([12, 0, -9]) + 10 * (np.arange(side)[:, None, None] > side / 2), 0, 255)
    hole = square(side // 3, (side, side), (side // 3, side // 3))
    filled = np.asarray(knowing(off.astype(np.uint8))(truth, hole, detail=detail)).astype(int)
    steps = [np.abs(filled[1:] - filled[:-1])[hole[1:] != hole[:-1]]]
    steps.append(np.abs(filled[:, 1:] - filled[:, :-1])[hole[:, 1:] != hole[:, :-1]])
    assert np.concatenate(steps).mean() < 2


def test_an_edge_that_lies_along_the_border_stays_one() -> None:
    truth = np.full((256, 256, 3), 40, np.uint8)
    truth[HOLE] = 220
    filled = np.asarray(knowing(truth)(truth, HOLE, detail=False)).astype(int)
    assert error(filled, truth, square(80, (256, 256), (80, 90))) < 5


def test_nothing_is_copied_from_another_hole() -> None:
    """All that is known is flat, and the generator paints noise: none comes from a small hole into the large."""
    pipe, paint = painter()
    rough = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    paint.register_forward_hook(lambda *_: rough)
    small, image = square(24, (256, 256), (5, 215)), np.full((256, 256, 3), 90, np.uint8)
    filled = np.asarray(pipe(image, HOLE | small)).astype(int)
    steps = np.abs(np.diff(filled, axis=1)).mean(2)
    assert [tuple(image.shape[2:]) for image, _ in paint.seen] == [(64, 64)] * 2
    assert steps[8:26, 218:236].mean() > 10 and steps[80:160, 90:170].mean() < 2


@pytest.mark.parametrize("hole", [np.ones((200, 300), np.bool_), np.indices((200, 300)).sum(0) % 3 == 0])
def test_where_nothing_can_be_copied_the_fill_is_the_generators(hole: NDArray[np.bool_]) -> None:
    pipe, _ = painter()
    filled = np.asarray(pipe(np.full((200, 300, 3), FILL, np.uint8), hole))
    assert np.abs(filled.astype(int) - FILL).max() <= 1


@given(**HOLES, grown=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_any_hole_in_detail_keeps_known_pixels_and_gives_the_same_bytes(
    height: int, width: int, kind: str, seed: int, grown: int
) -> None:
    torch.manual_seed(seed)
    pipe = InpaintingPipeline(Generator(GeneratorConfig(width=2, bottleneck=1, image_size=16)), "cpu")
    image, hole = noise("RGB", width, height, seed), holes(height, width, kind, seed)
    filled = np.asarray(pipe(image, hole, grow_mask_px=grown))
    box = cv2.getStructuringElement(cv2.MORPH_RECT, (2 * grown + 1, 2 * grown + 1))
    outside = cv2.dilate(hole.astype(np.uint8), box) == 0
    assert np.array_equal(filled[outside], np.asarray(image)[outside])
    assert np.array_equal(filled, np.asarray(pipe(image, hole, grow_mask_px=grown)))


def test_a_hole_grows_by_that_many_pixels_in_a_circle() -> None:
    pipe, paint = painter()
    hole = np.zeros((30, 30), np.bool_)
    hole[15, 15] = True
    pipe(noise("RGB", 30, 30), hole, grow_mask_px=5)
    rows, columns = np.mgrid[:30, :30] - 15
    assert np.array_equal(paint.seen[0][1][0, 0, :30, :30].numpy() > 0, rows**2 + columns**2 <= 25)
    assert pipe.fill(noise("RGB", 30, 30), hole, grow_mask_px=1).num_filled == 5
    assert pipe.fill(noise("RGB", 30, 30), ~hole & hole, grow_mask_px=9).num_filled == 0


@pytest.mark.parametrize("value", [-1, 1001, 2.0, True, "3"])
def test_what_cannot_be_grown_by_is_refused(value: Any) -> None:
    with pytest.raises(UsageError, match=f"grow_mask_px is {value!r}; give a whole number of pixels from 0 to 1000"):
        painter()[0](noise("RGB", 9, 9), square(3, (9, 9), (3, 3)), grow_mask_px=value)
    with pytest.raises(UsageError, match="detail is 1; use True or False"):
        painter()[0](noise("RGB", 9, 9), square(3, (9, 9), (3, 3)), detail=1)  # type: ignore[call-overload]


def test_the_command_fills_as_the_pipeline_does_with_the_same_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(width=2, bottleneck=1, image_size=16))
    generator.save_pretrained(tmp_path / "model")
    photo, hole = noise("RGB", 70, 50), square(20, (50, 70), (10, 10))
    photo.save(tmp_path / "photo.png")
    Image.fromarray(hole).save(tmp_path / "mask.png")
    words = ["fill", "photo.png", "--mask", "mask.png", "-o", "out.png", "--model", "model", "--device", "cpu"]
    words = [str(tmp_path / word) if "." in word or word == "model" else word for word in words]
    flagged = {
        "--detail": {},
        "--no-detail": {"detail": False},
        "--grow-mask-px=3": {"grow_mask_px": 3},
        "--strategy=crop": {"strategy": "crop"},
        "--strategy=whole": {"strategy": "whole"},
    }
    for flag, options in flagged.items():
        assert main([*words, flag]) == 0
        expected = InpaintingPipeline(generator, "cpu")(photo, hole, **options)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), np.asarray(expected))
    capsys.readouterr()
    assert main([*words, "--grow-mask-px", "-2"]) == 2
    assert capsys.readouterr().err.startswith("inpaint fill: error: grow_mask_px is -2; ")
    assert main([*words, "--strategy", "cut"]) == 2
    assert capsys.readouterr().err == "inpaint fill: error: strategy is 'cut'; use auto, crop or whole\n"
