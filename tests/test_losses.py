"""Equations (1), (2) and (3) against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inpaint.losses import adversarial_loss, discriminator_losses, reconstruction_loss

# The discriminator's belief 0.8 and 0.25 as logits, one an image.
LOGITS = torch.tensor([[math.log(4.0)], [math.log(1 / 3)]])


def images(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Two images of 1 x 2 pixels: the first is off by 0.5 in all of its left pixel, the second by 1 in one value."""
    image, output = torch.zeros(2, 3, 1, 2, dtype=dtype), torch.zeros(2, 3, 1, 2, dtype=dtype)
    output[0, :, 0, 0] = 0.5
    image[1, 2, 0, 1] = 1.0
    return output, image


# --- (1)


def test_the_reconstruction_is_the_mean_over_all_values() -> None:
    """(3 * 0.25 + 1) / 12, not the sum that the paper prints."""
    assert reconstruction_loss(*images()).item() == pytest.approx(1.75 / 12)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ((1, 1), (1, 1), 1.75 / 12),  # everywhere: the paper's M_c
        ((1, 0), (1, 0), (0.25 + 0) / 2),  # the left pixel of both
        ((0, 1), (0, 1), (0 + 1 / 3) / 2),  # the right pixel of both
        ((1, 1), (0, 1), (0.75 / 6 + 1 / 3) / 2),  # holes of different size weigh the same
        ((0, 0), (0, 1), (0 + 1 / 3) / 2),  # an empty one counts as 0
        ((0, 0), (0, 0), 0.0),
    ],
)
def test_the_reconstruction_in_the_hole(left: tuple[int, int], right: tuple[int, int], expected: float) -> None:
    mask = torch.tensor([left, right], dtype=torch.float32).view(2, 1, 1, 2)
    assert reconstruction_loss(*images(), mask).item() == pytest.approx(expected)


def test_a_mask_of_ones_is_no_mask() -> None:
    output, image = torch.rand(5, 3, 8, 8).double(), torch.rand(5, 3, 8, 8).double()
    everywhere = torch.ones(5, 1, 8, 8).double()
    torch.testing.assert_close(reconstruction_loss(output, image), reconstruction_loss(output, image, everywhere))


def test_the_gradient_stays_in_the_mask() -> None:
    output, image = torch.rand(2, 3, 4, 4, requires_grad=True), torch.rand(2, 3, 4, 4)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, 0, 1:3, 2:] = 1
    mask[1, 0, 0, 0] = 1
    reconstruction_loss(output, image, mask).backward()
    expected = (output - image) * mask * torch.tensor([4 * 3, 3]).view(2, 1, 1, 1).reciprocal()
    torch.testing.assert_close(output.grad, expected.detach())


# --- (2) and (3)


def test_the_discriminators_two_terms() -> None:
    real, fake = discriminator_losses(LOGITS, LOGITS.flip(0) + 1)
    assert real.item() == pytest.approx(-(math.log(0.8) + math.log(0.25)) / 2)
    beliefs = [1 / (1 + math.exp(-logit - 1)) for logit in (math.log(1 / 3), math.log(4))]
    assert fake.item() == pytest.approx(-sum(math.log(1 - belief) for belief in beliefs) / 2)


def test_the_generator_swaps_the_label_of_its_images() -> None:
    """Equation (3) with the sign that the text means: what makes D believe lowers it."""
    assert adversarial_loss(LOGITS).item() == pytest.approx(-(math.log(0.8) + math.log(0.25)) / 2)
    assert adversarial_loss(LOGITS + 1) < adversarial_loss(LOGITS)
    assert torch.equal(adversarial_loss(LOGITS), discriminator_losses(LOGITS, -LOGITS)[0])


def test_sure_and_wrong_is_costly_but_finite() -> None:
    sure = torch.tensor([[1000.0]], requires_grad=True)
    real, fake = discriminator_losses(-sure, sure)
    assert (real.item(), fake.item(), adversarial_loss(-sure).item()) == (1000, 1000, 1000)
    fake.backward()
    assert sure.grad.item() == 1  # type: ignore[union-attr]


# --- all


def losses(output: Tensor, image: Tensor, mask: Tensor, real: Tensor, fake: Tensor) -> list[Tensor]:
    return [
        reconstruction_loss(output, image),
        reconstruction_loss(output, image, mask),
        *discriminator_losses(real, fake),
        adversarial_loss(fake),
    ]


def arguments(batch: int, seed: int, dtype: torch.dtype) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    output, image = (torch.rand(batch, 3, 6, 6, generator=random) for _ in range(2))
    mask = (torch.rand(batch, 1, 6, 6, generator=random) < torch.rand(batch, 1, 1, 1, generator=random)).float()
    logits = [torch.randn(batch, 1, generator=random) * 5 for _ in range(2)]
    return [tensor.to(dtype) for tensor in (output, image, mask, *logits)]


@pytest.mark.parametrize(
    ("dtype", "result"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float32, torch.float32),
     (torch.float64, torch.float64)],
)  # fmt: skip
def test_the_losses_are_scalars_in_float32_at_least(dtype: torch.dtype, result: torch.dtype) -> None:
    inputs = arguments(4, 0, dtype)
    exact = losses(*(tensor.double() for tensor in inputs))
    for loss, expected in zip(losses(*inputs), exact, strict=True):
        assert (loss.shape, loss.dtype) == ((), result)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_batch_may_be_cut_in_equal_parts(num_parts: int, part: int, seed: int) -> None:
    """Or accumulation and the number of processes would change the loss."""
    inputs = arguments(num_parts * part, seed, torch.float64)
    parts = [losses(*cut) for cut in zip(*(tensor.split(part) for tensor in inputs), strict=True)]
    for whole, *cut in zip(losses(*inputs), *parts, strict=True):
        torch.testing.assert_close(torch.stack(cut).mean(), whole, rtol=1e-12, atol=1e-15)


def test_weights_other_than_0_and_1_are_a_weighted_mean() -> None:
    output, image = torch.zeros(1, 3, 1, 2), torch.tensor([1.0, 2.0]).expand(1, 3, 1, 2)
    weights = torch.tensor([[[[25.0, 1.0]]]])
    assert reconstruction_loss(output, image, weights).item() == pytest.approx((25 * 1 + 1 * 4) / 26)
