"""The networks: the paper's sizes, any image's shape, a gradient for every parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from inpaint.config import Config, ModelConfig
from inpaint.holes.spec import HoleSpec
from inpaint.models.discriminators.fused import FusedDiscriminator
from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.models.layers import convolution

NORMS = ["batch", "group", "none"]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def num_parameters(build: Callable[[], nn.Module]) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def discriminator_of(image_size: int, **settings: Any) -> FusedDiscriminator:
    return FusedDiscriminator(ModelConfig(**settings), image_size, HoleSpec.scaled(image_size).window_px)


# --- sizes


def test_the_papers_number_of_parameters() -> None:
    """ "More than 34 million": 35.66; with global average pooling 16.79."""
    model = Config().model
    generator = num_parameters(lambda: Generator(GeneratorConfig(model.width, model.bottleneck, model.mask_channel)))
    flattened, pooled = (
        num_parameters(lambda on=on: discriminator_of(64, global_average_pooling=on))
        for on in (False, True)  # type: ignore[misc]
    )
    assert (generator, flattened, pooled) == (6_067_555, 29_594_753, 10_720_385)
    assert 34e6 < generator + flattened < 36e6
    assert round((generator + pooled) / 1e6, 2) == 16.79


def test_glcics_completion_network_has_its_published_number_of_parameters() -> None:
    """With biases, which stand before any normalisation but BatchNorm, where they would do nothing."""
    assert num_parameters(lambda: Generator(GeneratorConfig(width=64, mask_channel=True, norm="group"))) == 6_072_131


def test_a_bottleneck_of_3_has_one_convolution_less() -> None:
    four, three = (num_parameters(lambda n=n: Generator(GeneratorConfig(bottleneck=n))) for n in (4, 3))  # type: ignore[misc]
    assert four - three == 256 * 256 * 9 + 2 * 256


@pytest.mark.parametrize(("dilation", "size"), [(16, 16), (16, 12), (4, 4), (8, 9), (2, 16)])
def test_taps_left_out_would_have_met_padding_only(dilation: int, size: int) -> None:
    left_out = convolution(3, 4, 3, "none", dilation=dilation)[0].double()
    plain = nn.Conv2d(3, 4, 3, padding=dilation, dilation=dilation).double()
    plain.load_state_dict(left_out.state_dict())
    image = torch.randn(2, 3, size, size - 1, dtype=torch.float64)
    outputs = [network(image) for network in (left_out, plain)]
    assert torch.allclose(*outputs, atol=1e-12)
    gradients = [
        torch.autograd.grad(out.square().sum(), net.weight) for out, net in zip(outputs, (left_out, plain), strict=True)
    ]
    assert torch.allclose(gradients[0][0], gradients[1][0], atol=1e-12)


@pytest.mark.parametrize("image_size", [16, 32, 48, 64, 68, 96, 128, 256, 512, 1024])
def test_heads_do_not_grow_with_the_image(image_size: int) -> None:
    with torch.device("meta"):
        network = discriminator_of(image_size)
    heads = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert all(head.in_features <= 4 * 4 * 512 for head in heads)
    assert sum(p.numel() for p in network.parameters()) < 90e6


@pytest.mark.parametrize("bottleneck", [1, 2, 3, 4])
def test_dilations_double(bottleneck: int) -> None:
    with torch.device("meta"):
        network = Generator(GeneratorConfig(width=2, bottleneck=bottleneck))
    dilations = [module.dilation[0] for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [dilation for dilation in dilations if dilation > 1] == [2, 4, 8, 16][:bottleneck]


# --- forward and backward


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("mask_channel", [False, True])
@pytest.mark.parametrize("size", [(4, 4), (16, 36), (64, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_generator_keeps_shape_and_type(
    norm: Any, mask_channel: bool, size: tuple[int, int], dtype: torch.dtype
) -> None:
    network = Generator(GeneratorConfig(width=2, mask_channel=mask_channel, norm=norm)).to(dtype)
    image, mask = torch.rand(2, 3, *size, dtype=dtype), torch.zeros(2, 1, *size, dtype=dtype)
    output = network(image, mask)
    assert (output.shape, output.dtype) == (image.shape, dtype)
    assert 0 <= output.min() <= output.max() <= 1


@pytest.mark.parametrize("size", [(30, 32), (32, 33)])
def test_other_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"divisible by 4; got {size[0]} x {size[1]}"):
        Generator(GeneratorConfig(width=2))(torch.zeros(1, 3, *size), torch.zeros(1, 1, *size))


def test_the_mask_is_seen_only_with_its_channel() -> None:
    image = torch.rand(1, 3, 16, 16)
    for mask_channel in (False, True):
        network = Generator(GeneratorConfig(width=8, mask_channel=mask_channel, norm="group"))
        same = torch.equal(network(image, torch.zeros(1, 1, 16, 16)), network(image, torch.ones(1, 1, 16, 16)))
        assert same is not mask_channel


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("image_size", [16, 20, 64, 100])
def test_the_discriminator_gives_one_logit_an_image(norm: Any, pooled: bool, image_size: int) -> None:
    network = discriminator_of(image_size, width=2, global_average_pooling=pooled, norm=norm).double()
    image, corner = torch.rand(3, 3, image_size, image_size).double(), torch.zeros(3, 2, dtype=torch.int64)
    logits, features = network(image, image[:, :1], corner)
    assert (logits.shape, logits.dtype) == ((3, 1), torch.float64)
    assert all(len(values) == 3 for values in features) and len(features) == 8 + 2 * (image_size > 64)
    assert logits.isfinite().all()


def test_the_discriminator_looks_at_both_the_image_and_the_window() -> None:
    """One branch has no gradient outside the window; to the other the window's place makes no difference."""
    network = discriminator_of(32, width=2, norm="none")
    image, mask, corner = (
        torch.rand(1, 3, 32, 32, requires_grad=True),
        torch.zeros(1, 1, 32, 32),
        torch.tensor([[3, 5]]),
    )
    with torch.no_grad():
        network.fusion.weight[:, 64:] = 0  # the global branch's
    network(image, mask, corner).logits.sum().backward()
    seen = image.grad.abs().sum(dim=(0, 1)) > 0  # type: ignore[union-attr]
    assert seen[5:19, 3:17].any() and not seen[:5].any() and not seen[:, 17:].any()
    with torch.no_grad():
        network.fusion.weight[:, 64:], network.fusion.weight[:, :64] = 1, 0
    assert torch.equal(network(image, mask, corner).logits, network(image, mask, corner + 4).logits)


@pytest.mark.parametrize("norm", ["group", "none"])
@pytest.mark.parametrize("pooled", [False, True])
def test_without_batch_statistics_images_do_not_see_one_another(norm: Any, pooled: bool) -> None:
    generator = Generator(GeneratorConfig(width=4, norm=norm)).double()
    discriminator = discriminator_of(32, width=4, global_average_pooling=pooled, norm=norm).double()
    image, mask = torch.rand(3, 3, 32, 32).double(), torch.zeros(3, 1, 32, 32).double()
    corners = torch.tensor([[0, 0], [3, 5], [18, 18]])
    together = discriminator(generator(image, mask), mask, corners).logits
    alone = [
        discriminator(generator(*one), one[1], corner).logits
        for *one, corner in zip(*(tensor.split(1) for tensor in (image, mask, corners)), strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pooled", [False, True])
def test_every_parameter_gets_a_gradient(norm: Any, pooled: bool) -> None:
    generator = Generator(GeneratorConfig(width=8, mask_channel=True, norm=norm)).double()
    discriminator = discriminator_of(32, width=8, global_average_pooling=pooled, norm=norm).double()
    output = generator(torch.rand(4, 3, 32, 32).double(), torch.ones(4, 1, 32, 32).double())
    discriminator(output, output[:, :1], torch.full((4, 2), 3)).logits.square().sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
