"""Equations (1) to (3) differentiated by hand, against what the trainer computes, whatever is configured."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from stepping import BATCH, Setup, gradients_at_step
from torch import Tensor, nn

from inpaint.data.batches import Batch


@pytest.fixture(autouse=True, scope="module")
def on_the_cpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        yield


WEIGHTS = st.sampled_from([0.0, 0.3, 1.0, 30_000.0])
SETTINGS = st.fixed_dictionaries(
    {
        "data": st.fixed_dictionaries(
            {
                "image_size": st.sampled_from([16, 20, 32]),
                "local_real": st.sampled_from(["random", "hole"]),
                "flip": st.booleans(),
            }
        ),
        "model": st.fixed_dictionaries(
            {
                "width": st.sampled_from([2, 4]),
                "bottleneck": st.integers(1, 4),
                "global_average_pooling": st.booleans(),
                "mask_channel": st.booleans(),
                "norm": st.sampled_from(["batch", "group", "none"]),
                "discriminator_input": st.sampled_from(["output", "composite"]),
            }
        ),
        "loss": st.fixed_dictionaries(
            {
                "reconstruction_weight": WEIGHTS,
                "adversarial_weight": WEIGHTS,
                "reconstruction_region": st.sampled_from(["image", "hole"]),
            }
        ),
    }
)


def by_hand(
    setup: Setup, phase: int, generator: nn.Module, discriminator: nn.Module, judge: nn.Module, part: Batch
) -> list[list[Tensor]]:
    """The gradients of both networks for one micro batch; only the networks' own layers are left to autograd.

    `judge` is the discriminator as it was before the step, in evaluation mode.
    """
    loss, num = setup.config.loss, len(part.image)
    generator.train(phase != 2)
    output = generator(part.image * (1 - part.mask), part.mask)
    composite = setup.config.model.discriminator_input == "composite"
    shown = part.mask if composite else torch.ones_like(part.mask)  # where the discriminators see the output
    fake = (shown * output + (1 - shown) * part.image).detach().requires_grad_()

    # (1): the derivative of the mean over n values of (C - x)^2 M is 2 (C - x) M / n.
    counted = part.mask if loss.reconstruction_region == "hole" else torch.ones_like(part.mask)
    values = 3 * counted.sum(dim=(1, 2, 3), keepdim=True)
    slope = loss.reconstruction_weight * 2 * (output.detach() - part.image) * counted / values / num
    if phase == 3:
        # (3): that of -log D with D = sigmoid(s), by s, is D - 1.
        logits = judge(fake, part.mask, part.windows).logits
        ahead = loss.adversarial_weight * (logits.sigmoid() - 1) / num
        slope = slope + torch.autograd.grad(logits, fake, ahead.detach())[0] * shown
    of_generator = [] if phase == 2 else list(torch.autograd.grad(output, list(generator.parameters()), slope))
    if phase == 1:
        return [of_generator, []]

    # (2): of -log D by s it is D - 1 on real images, and of -log(1 - D) it is D on generated ones.
    images = torch.cat([part.image, fake.detach()])
    corners = torch.cat([part.real_windows, part.windows])
    logits = discriminator(images, torch.cat([part.mask] * 2), corners).logits
    real = (torch.arange(2 * num) < num)[:, None]
    slope = (logits.sigmoid() - real.to(logits.dtype)) / num
    return [of_generator, list(torch.autograd.grad(logits, list(discriminator.parameters()), slope.detach()))]


@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(sections=SETTINGS, micro=st.sampled_from([BATCH, BATCH // 2, BATCH // 4]), phase=st.integers(1, 3))
def test_the_trainers_gradients_are_those_of_the_equations(sections: dict[str, Any], micro: int, phase: int) -> None:
    setup = Setup(micro, **copy.deepcopy(sections))
    setup(3)  # statistics and weights of a network that has begun
    copies = [copy.deepcopy(network.module) for network in (setup.generator, setup.discriminator)]
    copies.append(copy.deepcopy(copies[1]).eval())
    with pytest.MonkeyPatch.context() as patch:
        gradients = gradients_at_step(setup, patch)
        setup(phase, step=1)
    parts = [by_hand(setup, phase, *copies, part) for part in setup.batch(1).split(micro)]
    for index, network in enumerate((setup.generator, setup.discriminator)):
        expected = [torch.stack(each).mean(dim=0) for each in zip(*(part[index] for part in parts), strict=True)]
        found = gradients.get(network, [])
        assert len(found) == len(expected)
        scale = max((gradient.abs().max().item() for gradient in expected), default=0.0)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12 * scale)
