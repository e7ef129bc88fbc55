"""The patch adversary and the smooth prior: losses by hand, a norm against an exact one, and what each may see."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from inpaint.config import LossConfig, ModelConfig
from inpaint.losses import absolute, adversarial
from inpaint.losses.seen import Seen
from inpaint.models.discriminators.judgement import Judgement
from inpaint.models.discriminators.patch import PatchDiscriminator, SpectralConvolution, spectral_norm
from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.models.generators.smooth_prior import smooth_fill

EMPTY = torch.empty(0)
SOFTPLUS_1 = math.log(1 + math.e)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def seen(**given: Any) -> Seen:
    settings = LossConfig(**{name: given.pop(name) for name in ("objective", "judged_region") if name in given})
    blank = dict.fromkeys(("image", "mask", "output", "windows", "real_windows"), EMPTY)
    return Seen(**{**blank, **given}, step=1, settings=settings, shows_composite=True, discriminator=lambda *_: 1 / 0)


def judged(real: Tensor, fake: Tensor, **given: Any) -> Seen:
    features = given.pop("features", ([], []))
    return seen(judgements=[Judgement(real, features[0]), Judgement(fake, features[1])], **given)


# --- objectives


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        # Logits: real 2 and -1, fake 1 and -2. Each: (generator's, real, fake).
        ("hinge", ((-1 + 2) / 2, (0 + 2) / 2, (2 + 0) / 2)),
        ("bce", ((SOFTPLUS_1 - 1 + math.log1p(math.exp(2))) / 2, None, (SOFTPLUS_1 + math.log1p(math.exp(-2))) / 2)),
        ("relativistic", (SOFTPLUS_1, SOFTPLUS_1 - 1, None)),  # real is above its fake by 1 in both pairs
    ],
)
def test_the_objectives_by_hand(objective: str, expected: tuple[float | None, ...]) -> None:
    logits = torch.tensor([[2.0], [-1.0]]), torch.tensor([[1.0], [-2.0]])
    for region in ("image", "hole"):
        this = judged(*logits, objective=objective, judged_region=region)
        for loss, value in zip((adversarial.adversarial, adversarial.real, adversarial.fake), expected, strict=True):
            found = loss(this)
            if loss is adversarial.fake and objective == "relativistic":
                assert found is None
            elif value is not None:
                assert found is not None and found.item() == pytest.approx(value, rel=1e-6)


def test_only_patches_with_enough_of_the_hole_are_judged() -> None:
    """Two images of 2 x 2 patches of 4 x 4 px. The first's hole is all of one patch and a quarter of another, the
    second's a single pixel: no patch is judged for less than 0.3, but where there is no such patch its best is."""
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, 0, :4, :4] = 1
    mask[0, 0, 4:, 0] = 1
    mask[1, 0, 7, 7] = 1
    logits = torch.arange(8.0).view(2, 1, 2, 2)
    this = judged(logits, logits, mask=mask, objective="hinge", judged_region="hole")
    assert adversarial.adversarial(this).item() == pytest.approx(-(0 + 7) / 2)
    everywhere = judged(logits, logits, mask=mask, objective="hinge", judged_region="image")
    assert adversarial.adversarial(everywhere).item() == pytest.approx(-3.5)


def test_feature_matching_is_the_mean_over_layers_of_mean_absolute_differences() -> None:
    real = [torch.zeros(2, 3, 4, 4), torch.ones(2, 8)]
    fake = [torch.full((2, 3, 4, 4), 0.5), torch.full((2, 8), -1.0)]
    this = judged(EMPTY, EMPTY, features=(real, fake))
    assert adversarial.feature_matching(this).item() == pytest.approx((0.5 + 2) / 2)


def test_absolute_errors_by_hand() -> None:
    """4 px cells of a 64 px image. Errors of +1 and -1 in the hole cancel in a cell, but not pixel by pixel."""
    image, mask = torch.zeros(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    mask[0, 0, :4, :4] = 1
    mask[1, 0, 8:12, 8:14] = 1
    output = torch.zeros(2, 3, 64, 64)
    output[0, :, :4, :2], output[0, :, :4, 2:4] = 1.0, -1.0
    output[1, :, 8:12, 8:12] = 0.5  # 2/3 of the second's hole
    output[1, :, 20:24] = 0.25  # known
    this = seen(image=image, mask=mask, output=output)
    assert absolute.hole_l1(this).item() == pytest.approx((1 + 1 / 3) / 2)
    assert absolute.area_l1(this).item() == pytest.approx((0 + 1 / 3) / 2)
    assert absolute.known_l1(this).item() == pytest.approx((0 + 0.25 * 256 / (4096 - 24)) / 2)


# --- the discriminator


@pytest.mark.parametrize("shape", [(1, 32, 3, 3), (16, 4, 4, 4), (128, 64, 4, 4), (128, 128, 3, 3)])
def test_the_spectral_norm_is_that_of_an_exact_decomposition(shape: tuple[int, ...]) -> None:
    for weight in (torch.randn(shape), torch.nn.init.orthogonal_(torch.empty(shape)), 1e-4 * torch.rand(shape)):
        exact = torch.linalg.matrix_norm(weight.flatten(1), 2).item()
        assert 0.98 * exact <= spectral_norm(weight).item() <= exact * (1 + 1e-5)


def test_its_gradient_is_that_of_an_exact_decomposition() -> None:
    weight = torch.randn(8, 4, 3, 3, dtype=torch.float64)
    weight[0] += 3  # one singular value above the others
    weight.requires_grad_()
    (ours,) = torch.autograd.grad(spectral_norm(weight), weight)
    (exact,) = torch.autograd.grad(torch.linalg.matrix_norm(weight.flatten(1), 2), weight)
    torch.testing.assert_close(ours, exact, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("size", [16, 64, 100, 256])
def test_the_patch_discriminator_judges_each_image_by_itself(size: int) -> None:
    discriminator = PatchDiscriminator(ModelConfig(width=2), size, 8).double()
    image, mask = torch.rand(3, 3, size, size).double(), (torch.rand(3, 1, size, size) < 0.2).double()
    windows = torch.zeros(3, 2, dtype=torch.int64)
    together = discriminator(image, mask, windows)
    alone = [discriminator(image[i : i + 1], mask[i : i + 1], windows[:1]) for i in range(3)]
    torch.testing.assert_close(together.logits, torch.cat([one.logits for one in alone]))
    assert together.logits.shape[-1] <= 8 and len(together.features) == len(discriminator.layers)
    assert not torch.allclose(together.logits, discriminator(image, 1 - mask, windows).logits)  # it sees the mask


def test_its_layers_do_not_stretch() -> None:
    layer = SpectralConvolution(6, 12, 3, padding=1)
    with torch.no_grad():
        layer.weight.mul_(50)
        weight = layer.weight / spectral_norm(layer.weight)
    assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)
    value = torch.randn(1, 6, 8, 8)
    torch.testing.assert_close(layer(value), torch.nn.functional.conv2d(value, weight, layer.bias, padding=1))


# --- the prior


@pytest.mark.parametrize(("height", "width"), [(64, 64), (4, 4), (37, 91), (1, 130)])
def test_the_smooth_fill_keeps_what_is_known(height: int, width: int) -> None:
    image, mask = torch.rand(4, 3, height, width), (torch.rand(4, 1, height, width) < 0.4).float()
    mask[..., 0, 0] = 0
    fill = smooth_fill(image * (1 - mask), mask)
    assert torch.equal(fill * (1 - mask), image * (1 - mask))
    low, high = torch.where(mask > 0, 9, image).amin((2, 3)), torch.where(mask > 0, -9, image).amax((2, 3))
    assert (fill.amin((2, 3)) >= low - 1e-6).all() and (fill.amax((2, 3)) <= high + 1e-6).all()


def test_the_smooth_fill_of_one_colour_is_that_colour_and_of_two_halves_is_between() -> None:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 20:44, 20:44] = 1
    grey = torch.full((1, 3, 64, 64), 0.3)
    torch.testing.assert_close(smooth_fill(grey * (1 - mask), mask), grey)
    halves = torch.zeros(1, 3, 64, 64)
    halves[..., 32:] = 1
    row = smooth_fill(halves * (1 - mask), mask)[0, 0, 32, 20:44]
    assert row[0] < 0.2 and row[-1] > 0.8 and (row.diff() >= -1e-6).all()


def test_the_generator_begins_with_the_smooth_fill_and_changes_only_the_hole() -> None:
    generator = Generator(GeneratorConfig(width=4, architecture="smooth_prior")).eval()
    image, mask = torch.rand(2, 3, 32, 48), torch.zeros(2, 1, 32, 48)
    mask[..., 8:20, 8:30] = 1
    masked = image * (1 - mask)
    assert torch.equal(generator(masked, mask), smooth_fill(masked, mask))
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    output = generator(masked, mask)
    assert torch.equal(output * (1 - mask), masked) and not torch.equal(output, smooth_fill(masked, mask))
    assert output.min() >= 0 and output.max() <= 1


@pytest.mark.parametrize("architecture", ["smooth_prior", "gated"])
def test_where_all_is_alike_the_fill_does_not_repeat_in_steps_of_the_strides(architecture: str) -> None:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(width=4, bottleneck=1, architecture=architecture)).eval()
    torch.nn.init.normal_(generator.layers[-1].weight)
    mask = torch.zeros(1, 1, 256, 256)
    mask[..., 8:-8, 8:-8] = 1
    # Far from the padding, which differs from the rest too.
    middle = generator(torch.full((1, 3, 256, 256), 0.5) * (1 - mask), mask)[..., 96:160, 96:160]
    spread = float(middle.std())
    assert spread > 1e-3
    for step in (1, 2, 4):
        assert float((middle[..., step:] - middle[..., :-step]).abs().mean()) > 0.1 * spread
