"""What fills: composites keep every known byte, the classical baselines fill, the grid shows it all."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from painting import mask_of, smooth_images

from inpaint.evaluation.baselines import BASELINES, mean_fill
from inpaint.evaluation.grid import sample_grid
from inpaint.evaluation.metrics import composite_u8, to_u8

# --- composite


@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
@settings(max_examples=30, deadline=None)
def test_the_composite_keeps_every_known_byte(seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8, generator=generator)
    mask = (torch.rand(2, 1, 5, 7, generator=generator) < 0.5).float()
    output = (torch.rand(2, 3, 5, 7, generator=generator) * 3 - 1).to(dtype)
    composite = composite_u8(output, image, mask)
    hole = mask.bool().expand_as(image)
    assert composite.dtype == torch.uint8
    assert torch.equal(composite[~hole], image[~hole])
    assert torch.equal(composite[hole], to_u8(output)[hole])


def test_rounding_is_to_the_nearest_and_every_byte_survives_the_way_there_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_u8(every.float() / 255), every)
    assert to_u8(torch.tensor([-1.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 7.0, math.nan])).tolist() == [
        0,
        0,
        1,
        255,
        255,
        0,
    ]


# --- baselines


def test_mean_fill_is_the_mean_of_the_known_pixels_of_each_image_and_channel() -> None:
    image = torch.zeros(2, 3, 4, 4)
    image[0, 0], image[0, 1, :2] = 0.5, 1.0
    image[1] = 0.25
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, :2, :] = 1
    mask[1, :, 0] = 0
    filled = mean_fill(image * (1 - mask), mask)
    assert filled[0, :, 0, 0].tolist() == [0.5, 0.0, 0.0]
    assert filled[1].unique().tolist() == [0.25]


@pytest.mark.parametrize("method", BASELINES)
def test_baselines_fill_a_plain_image_and_survive_a_hole_of_everything(method: str) -> None:
    image = torch.tensor([40, 120, 200], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 24, 24)
    mask = torch.cat([mask_of(5, 0, 9, 6), torch.ones(1, 1, 24, 24)])
    output = BASELINES[method](image.float() / 255 * (1 - mask), mask)
    # OpenCV's Telea is up to 3 levels off even here.
    assert (output[0] - image[0] / 255).abs().max() <= 3.01 / 255
    assert output.isfinite().all()


def test_opencv_gets_the_pixels_and_the_hole_in_its_own_layout() -> None:
    image, mask = smooth_images(1), mask_of(4, 10, 12, 3)
    masked = np.ascontiguousarray((image * (1 - mask)).byte()[0].permute(1, 2, 0))
    expected = cv2.inpaint(masked, mask[0, 0].byte().numpy(), 3, cv2.INPAINT_TELEA)
    output = BASELINES["Telea"](image.float() / 255 * (1 - mask), mask)
    assert np.array_equal(to_u8(output)[0].permute(1, 2, 0).numpy(), expected)


# --- grid


@pytest.mark.parametrize(("num", "size", "cell"), [(30, 64, 128), (1, 64, 128), (4, 300, 256), (2, 5, 125)])
def test_the_grid_shows_every_image_of_every_column_in_order(num: int, size: int, cell: int) -> None:
    columns = [
        np.broadcast_to(np.array([60 * column, 8 * index, 7], np.uint8), (size, size, 3))
        for column in range(4)
        for index in range(num)
    ]
    sheet = np.asarray(sample_grid(*np.stack(columns).reshape(4, num, size, size, 3)))
    rows = math.ceil(num / 3)
    assert sheet.shape[0] <= rows * (cell + 4) + 40
    middle = sheet[30 + cell // 2 :: cell + 4][:rows]
    # The paper between the cells is white, and no image here has so much blue.
    shown = [row[np.flatnonzero(np.diff((row[:, 2] == 7).astype(int), prepend=0) == 1)] for row in middle]
    for index in range(num):
        block, row = divmod(index, rows)
        assert shown[row][4 * block : 4 * block + 4, :2].tolist() == [[60 * column, 8 * index] for column in range(4)]
