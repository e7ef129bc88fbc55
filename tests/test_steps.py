"""The three kinds of step: only the network being trained pays, and what is done is what the equations say."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from stepping import BATCH, SIZE, Setup, gradients_at_step, on_the_cpu  # noqa: F401 - the fixture acts here too
from torch import Tensor, nn

from inpaint.losses import adversarial_loss, discriminator_losses, reconstruction_loss

RATES = {"generator_learning_rate": 1e-3, "discriminator_learning_rate": 1e-3}
TERMS = {
    1: {"loss/generator/reconstruction", "output/batch_std", "gradient_norm/generator"},
    2: {
        "loss/discriminator/real", "loss/discriminator/fake", "score/real", "score/fake", "output/batch_std",
        "gradient_norm/discriminator",
    },
}  # fmt: skip
TERMS[3] = TERMS[1] | TERMS[2] | {"loss/generator/adversarial"}


def state(module: nn.Module, buffers: bool) -> dict[str, Tensor]:
    named = module.named_buffers() if buffers else module.named_parameters()
    return {name: tensor.detach().clone() for name, tensor in named}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


# --- promise 4: only the network being trained pays


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(
    ("phase", "trained"), [(1, {"generator"}), (2, {"discriminator"}), (3, {"generator", "discriminator"})]
)
def test_a_phase_moves_the_networks_it_trains_and_nothing_of_the_other(
    phase: int, trained: set[str], norm: str
) -> None:
    setup = Setup(model={"norm": norm})
    networks = {"generator": setup.generator.module, "discriminator": setup.discriminator.module}
    before = {name: (state(net, False), state(net, True)) for name, net in networks.items()}
    setup(phase)
    for name, network in networks.items():
        parameters, buffers = before[name]
        has_buffers = norm == "batch" and name in trained
        assert moved(parameters, state(network, False)) == (parameters.keys() if name in trained else set())
        assert moved(buffers, state(network, True)) == (buffers.keys() if has_buffers else set())
        assert all(parameter.grad is None for parameter in network.parameters())
        assert all(parameter.requires_grad for parameter in network.parameters())
        assert all(module.training for module in network.modules())


def test_the_generators_turn_leaves_the_discriminator_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """No gradient that its own next backward would add to, no statistics moved by images that do not train it."""
    setup = Setup()
    discriminator = setup.discriminator.module
    before, looked = state(discriminator, True), []
    original = setup.task._train_discriminator

    def look(*arguments: Any) -> Any:
        looked.append(all(p.grad is None or not p.grad.any() for p in discriminator.parameters()))
        looked.append(not moved(before, state(discriminator, True)))
        return original(*arguments)

    monkeypatch.setattr(setup.task, "_train_discriminator", look)
    setup(3)
    assert looked == [True, True]
    tracked = [buffer for name, buffer in discriminator.named_buffers() if name.endswith("num_batches_tracked")]
    assert all(int(number) == 1 for number in tracked)


@pytest.mark.parametrize(("phase", "generator_runs", "discriminator_runs"), [(1, 1, 0), (2, 1, 1), (3, 1, 2)])
@pytest.mark.parametrize("micro", [8, 2])
def test_no_network_runs_more_often_than_it_must(
    phase: int, generator_runs: int, discriminator_runs: int, micro: int
) -> None:
    """In phase 3 the generator runs once for both updates."""
    setup, runs = Setup(micro), {"generator": 0, "discriminator": 0}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            runs[name] += 1

        return hook

    setup.generator.module.register_forward_hook(count("generator"))
    setup.discriminator.module.register_forward_hook(count("discriminator"))
    setup(phase)
    num_micro = BATCH // micro
    assert runs == {"generator": generator_runs * num_micro, "discriminator": discriminator_runs * num_micro}


def test_learning_alone_the_discriminator_costs_no_graph_of_the_generator() -> None:
    setup, needed = Setup(), []
    setup.generator.module.register_forward_hook(lambda _module, _inputs, output: needed.append(output.requires_grad))
    setup(2)
    assert needed == [False]


# --- what is done


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("seen_by_d", ["output", "composite"])
@pytest.mark.parametrize("region", ["image", "hole"])
def test_both_gradients_are_those_of_the_equations(
    norm: str, seen_by_d: str, region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the frozen discriminator too: autograd on copies that nobody froze."""
    weights = {"reconstruction_weight": 7.0, "adversarial_weight": 0.3, "reconstruction_region": region}
    setup = Setup(model={"norm": norm, "discriminator_input": seen_by_d}, loss=weights)
    setup(3)  # so that the second step shows what the first may have left behind
    generator, discriminator = (copy.deepcopy(net.module) for net in (setup.generator, setup.discriminator))
    gradients = gradients_at_step(setup, monkeypatch)
    terms = setup(3, step=1)

    batch = setup.batch(1)
    output = generator(batch.image * (1 - batch.mask), batch.mask)
    fake = torch.where(batch.mask > 0, output, batch.image) if seen_by_d == "composite" else output
    discriminator.eval()
    adversarial = adversarial_loss(discriminator(fake, batch.mask, batch.windows).logits)
    reconstruction = reconstruction_loss(output, batch.image, batch.mask if region == "hole" else None)
    expected = torch.autograd.grad(7.0 * reconstruction + 0.3 * adversarial, list(generator.parameters()))
    torch.testing.assert_close(gradients[setup.generator], list(expected), rtol=1e-9, atol=1e-14)

    discriminator.train()
    images, windows = torch.cat([batch.image, fake.detach()]), torch.cat([batch.real_windows, batch.windows])
    real, fooled = discriminator(images, torch.cat([batch.mask] * 2), windows).logits.chunk(2)
    both = discriminator_losses(real, fooled)
    expected = torch.autograd.grad(sum(both), list(discriminator.parameters()))  # type: ignore[arg-type]
    torch.testing.assert_close(gradients[setup.discriminator], list(expected), rtol=1e-9, atol=1e-14)

    # What is logged is unweighted.
    torch.testing.assert_close(terms["loss/generator/reconstruction"], reconstruction.detach())
    torch.testing.assert_close(terms["loss/generator/adversarial"], adversarial.detach())
    torch.testing.assert_close(terms["loss/discriminator/real"], both[0].detach())
    torch.testing.assert_close(terms["loss/discriminator/fake"], both[1].detach())
    torch.testing.assert_close(terms["score/fake"], fooled.detach().float().sigmoid().mean())
    norms = torch.stack([gradient.norm() for gradient in gradients[setup.generator]]).norm()
    torch.testing.assert_close(terms["gradient_norm/generator"], norms)


@pytest.mark.parametrize("seen_by_d", ["output", "composite"])
def test_what_the_discriminators_see(seen_by_d: str) -> None:
    setup = Setup(model={"discriminator_input": seen_by_d})
    batch, px, outputs, seen, locals_seen = setup.batch(), setup.config.data.hole_spec.window_px, [], [], []
    setup.generator.module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.detach()))
    setup.discriminator.module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs))
    first = setup.discriminator.module.local_branch[0]
    first.register_forward_pre_hook(lambda _module, inputs: locals_seen.append(inputs[0]))
    setup(3)
    (output,) = outputs
    known = (batch.mask == 0).expand_as(output)
    (for_generator, mask, windows), (images, masks, both_windows) = seen
    assert torch.equal(mask, batch.mask) and torch.equal(masks, torch.cat([mask, mask]))
    assert torch.equal(windows, batch.windows) and torch.equal(both_windows, torch.cat([batch.real_windows, windows]))
    local = locals_seen[1]
    real, fake = images.chunk(2)
    assert torch.equal(real, batch.image)
    assert torch.equal(fake, for_generator)
    assert torch.equal(fake[~known], output[~known])
    assert torch.equal(fake[known], batch.image[known] if seen_by_d == "composite" else output[known])
    for index in range(BATCH):
        for picture, (x, y), window in (
            (real[index], batch.real_windows[index].tolist(), local[index]),
            (fake[index], batch.windows[index].tolist(), local[BATCH + index]),
        ):
            assert torch.equal(window, picture[:, y : y + px, x : x + px])


@pytest.mark.parametrize("micro", [4, 2])
@pytest.mark.parametrize("phase", [1, 2, 3])
def test_micro_batches_with_batch_norm_are_means_over_the_networks_of_before(
    phase: int, micro: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every micro batch normalised by itself, and judged by discriminators whose statistics have not moved yet."""
    setup = Setup(micro, model={"norm": "batch"}, optimizer=RATES)
    for step in range(4):
        setup(3, step)
    generator, discriminator = (copy.deepcopy(net.module) for net in (setup.generator, setup.discriminator))
    gradients = gradients_at_step(setup, monkeypatch)
    terms = setup(phase, step=4)

    def mean(losses: list[Tensor], network: nn.Module) -> list[Tensor]:
        return list(torch.autograd.grad(torch.stack(losses).mean(), list(network.parameters())))

    parts, outputs, for_generator, for_discriminator = setup.batch(4).split(micro), [], [], []
    generator.train(phase != 2)
    discriminator.eval()
    for part in parts:
        outputs.append(output := generator(part.masked_image, part.mask))
        fooled = adversarial_loss(discriminator(output, part.mask, part.windows).logits)
        for_generator.append(reconstruction_loss(output, part.image) + fooled * (phase == 3))
    if phase != 2:
        expected = mean(for_generator, generator)
        torch.testing.assert_close(gradients[setup.generator], expected, rtol=1e-9, atol=1e-14)
        logged = terms["loss/generator/reconstruction"] + terms.get("loss/generator/adversarial", 0)
        torch.testing.assert_close(logged, torch.stack(for_generator).mean().detach())
    discriminator.train()
    if phase != 1:
        for part, output in zip(parts, outputs, strict=True):
            images, windows = torch.cat([part.image, output.detach()]), torch.cat([part.real_windows, part.windows])
            judgement = discriminator(images, torch.cat([part.mask] * 2), windows)
            losses = discriminator_losses(*judgement.logits.chunk(2))
            for_discriminator.append(losses[0] + losses[1])
        expected = mean(for_discriminator, discriminator)
        torch.testing.assert_close(gradients[setup.discriminator], expected, rtol=1e-9, atol=1e-14)
    for trained, copied in ((setup.generator, generator), (setup.discriminator, discriminator)):
        torch.testing.assert_close(state(trained.module, True), state(copied, True))


@pytest.mark.parametrize("region", ["image", "hole"])
def test_accumulated_micro_batches_are_the_whole_batch(region: str) -> None:
    """Every phase in float64; `group` does not look across images."""
    whole, cut = (
        Setup(micro, model={"norm": "group"}, loss={"reconstruction_region": region}, optimizer=RATES)
        for micro in (None, 2)
    )
    for step, phase in enumerate((1, 2, 3, 3)):
        logged, cut_logged = whole(phase, step), cut(phase, step)
        for name in logged.keys() - {"output/batch_std"}:
            torch.testing.assert_close(cut_logged[name], logged[name], rtol=1e-6, atol=1e-9)
    for one, other in ((whole.generator, cut.generator), (whole.discriminator, cut.discriminator)):
        torch.testing.assert_close(other.module.state_dict(), one.module.state_dict(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("phase", [1, 2, 3])
def test_the_schedule_scales_each_networks_own_rate(phase: int) -> None:
    """Adam's first step is its rate, whatever the gradient, for all weights that are not idle."""
    setup = Setup(optimizer={"generator_learning_rate": 4e-3, "discriminator_learning_rate": 1e-3})
    trained = {1: [(setup.generator, 4e-3)], 2: [(setup.discriminator, 1e-3)]}
    trained[3] = trained[1] + trained[2]
    before = {network: state(network.module, False) for network, _ in trained[phase]}
    setup(phase, lr_scale=0.25)
    for network, rate in trained[phase]:
        after = state(network.module, False)
        largest = max((after[name] - old).abs().max().item() for name, old in before[network].items())
        assert largest == pytest.approx(rate * 0.25, rel=1e-3)


@pytest.mark.parametrize("phase", [1, 2, 3])
@pytest.mark.parametrize("precision", ["float64", "float32", "bf16"])
def test_a_step_tells_finite_scalars_and_keeps_the_weights_precision(phase: int, precision: str) -> None:
    setup = Setup(precision=precision)
    terms = setup(phase)
    assert terms.keys() == TERMS[phase]
    for name, term in terms.items():
        assert term.shape == ()
        assert term.isfinite()
        assert not term.requires_grad
        assert term.dtype in (torch.float32, torch.float64), name
    kept = torch.float64 if precision == "float64" else torch.float32
    assert {p.dtype for net in (setup.generator, setup.discriminator) for p in net.module.parameters()} == {kept}
