"""Losses and networks that somebody adds: one thing and a line in a table, and the step does not hear of it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from PIL import Image
from stepping import Setup, gradients_at_step, on_the_cpu  # noqa: F401 - the fixture acts here too
from torch import Tensor, nn

from inpaint.arguments import parse_arguments, usage
from inpaint.config import Config, ModelConfig
from inpaint.errors import InpaintError, UsageError
from inpaint.losses import adversarial_loss, discriminator_losses, reconstruction_loss
from inpaint.losses.seen import Seen
from inpaint.models.discriminators.judgement import Judgement
from inpaint.models.generator import Generator, GeneratorConfig
from inpaint.pipeline import InpaintingPipeline
from inpaint.tables import ADVERSARIAL_LOSSES, DISCRIMINATOR_LOSSES, DISCRIMINATORS, GENERATORS, LOSSES
from inpaint.training.identity import differences

NORM = {"norm": "group"}


def charbonnier(seen: Seen) -> Tensor:
    return ((seen.composite - seen.image).square() + 1e-6).sqrt().mean()


def features(seen: Seen) -> Tensor:
    pairs = zip(seen.fake.features, seen.real.features, strict=True)
    return torch.stack([(fake - real).abs().mean() for fake, real in pairs]).sum()


def slope(seen: Seen) -> Tensor | None:
    if seen.step % 2:
        return None
    image = seen.image.detach().requires_grad_()
    logits = seen.discriminator(image, seen.mask, seen.real_windows).logits
    (gradient,) = torch.autograd.grad(logits.sum(), image, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def hinge(seen: Seen) -> Tensor:
    return (1 - seen.real.logits).relu().mean() + (1 + seen.fake.logits).relu().mean()


def never(seen: Seen) -> Tensor:
    raise AssertionError("asked for, though it weighs nothing")


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "charbonnier", f"{__name__}:charbonnier")
    monkeypatch.setitem(LOSSES, "never", f"{__name__}:never")
    monkeypatch.setitem(ADVERSARIAL_LOSSES, "features", f"{__name__}:features")
    monkeypatch.setitem(DISCRIMINATOR_LOSSES, "slope", f"{__name__}:slope")
    monkeypatch.setitem(DISCRIMINATOR_LOSSES, "hinge", f"{__name__}:hinge")


def test_the_generators_gradient_is_the_weighted_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    terms = {"charbonnier": 2.0, "features": 0.5, "never": 0.0}
    setup = Setup(model=NORM, loss={"terms": terms, "reconstruction_weight": 7.0})
    generator, discriminator = (copy.deepcopy(net.module) for net in (setup.generator, setup.discriminator))
    gradients = gradients_at_step(setup, monkeypatch)
    logged = setup(3)
    batch = setup.batch()
    output = generator(batch.masked_image, batch.mask)
    whole = output * batch.mask + batch.image * (1 - batch.mask)
    rough = ((whole - batch.image).square() + 1e-6).sqrt().mean()
    fake = discriminator(output, batch.mask, batch.windows)
    real = discriminator(batch.image, batch.mask, batch.real_windows)
    close = sum(((a - b.detach()).abs().mean() for a, b in zip(fake[1], real[1], strict=True)), torch.zeros(()))
    total = 7 * reconstruction_loss(output, batch.image) + adversarial_loss(fake.logits) + 2 * rough + 0.5 * close
    expected = list(torch.autograd.grad(total, list(generator.parameters())))
    torch.testing.assert_close(gradients[setup.generator], expected, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(logged["loss/generator/charbonnier"], rough.detach())
    torch.testing.assert_close(logged["loss/generator/features"], close.detach())
    assert "loss/generator/charbonnier" in setup(1) and "loss/generator/features" not in setup(1)


@pytest.mark.parametrize("step", [1, 2])
def test_a_lazy_penalty_reaches_the_discriminator_in_its_own_steps(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(model=NORM, loss={"terms": {"slope": 10.0}})
    discriminator, generator = copy.deepcopy(setup.discriminator.module), copy.deepcopy(setup.generator.module)
    gradients = gradients_at_step(setup, monkeypatch)
    logged = setup(2, step - 1)
    batch = setup.batch(step - 1)
    image = batch.image.clone().requires_grad_()
    fake = generator(batch.masked_image, batch.mask).detach()
    real_logits = discriminator(image, batch.mask, batch.real_windows).logits
    total = sum(discriminator_losses(real_logits, discriminator(fake, batch.mask, batch.windows).logits))
    assert ("loss/discriminator/slope" in logged) == (step == 2)
    if step == 2:
        (slope,) = torch.autograd.grad(real_logits.sum(), image, create_graph=True)
        total = total + 10 * slope.square().sum() / len(image)
    expected = list(torch.autograd.grad(total, list(discriminator.parameters())))  # type: ignore[arg-type]
    torch.testing.assert_close(gradients[setup.discriminator], expected, rtol=1e-9, atol=1e-12)


def test_another_pair_takes_the_place_of_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(micro=2, model=NORM, loss={"terms": {"real": 0, "fake": 0, "hinge": 1.0}, "adversarial_weight": 0})
    logged = setup(3)
    assert [name for name in logged if name.startswith("loss/")] == [
        "loss/generator/reconstruction",
        "loss/discriminator/hinge",
    ]
    assert logged["gradient_norm/discriminator"] > 0


def test_a_phase_without_a_loss_moves_nothing() -> None:
    setup = Setup(model=NORM, loss={"reconstruction_weight": 0})
    before = [p.clone() for p in setup.generator.module.parameters()]
    assert setup(1)["gradient_norm/generator"] == 0
    assert all(torch.equal(*pair) for pair in zip(before, setup.generator.module.parameters(), strict=True))


def test_the_composite_keeps_known_pixels_and_their_type() -> None:
    image, output = torch.rand(2, 3, 4, 4, dtype=torch.float64), torch.rand(2, 3, 4, 4, dtype=torch.bfloat16)
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    mask[0, :, 1:3, :2] = 1
    output[1] = torch.nan
    nowhere = torch.zeros(2, 2, dtype=torch.int64)
    whole = Seen(image, mask, output, nowhere, nowhere, 1, Config().loss, True, lambda *_: None).composite  # type: ignore[arg-type, return-value]
    hole = mask.bool().expand_as(image)
    assert whole.dtype == torch.float64
    assert torch.equal(whole[~hole], image[~hole]) and torch.equal(whole[hole], output.double()[hole])


# --- networks that somebody adds


class Patch(nn.Module):
    """Logits of patches, no window, no features but one."""

    def __init__(self, model: ModelConfig, image_size: int, window_px: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(4, model.width, 4, 2, 1), nn.Conv2d(model.width, 1, 4, 2, 1)

    def forward(self, image: Tensor, mask: Tensor, windows: Tensor) -> Judgement:
        features = self.first(torch.cat([image, mask], dim=1)).relu()
        return Judgement(self.last(features), [features])


class Plain(nn.Module):
    multiple_px = 2
    inference_bytes_per_px = 100

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.only = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, masked_image: Tensor, mask: Tensor) -> Tensor:
        return self.only(torch.cat([masked_image, mask], dim=1)).sigmoid()


def test_other_networks_are_trained_saved_and_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(DISCRIMINATORS, "patch", f"{__name__}:Patch")
    monkeypatch.setitem(GENERATORS, "plain", f"{__name__}:Plain")
    model = {"generator": "plain", "discriminator": "patch"}
    setup = Setup(model=model, data={"image_size": 18}, loss={"terms": {"features": 1.0, "slope": 1.0}})
    before = {name: [p.clone() for p in net.parameters] for name, net in setup.task.networks.items()}
    for step, phase in enumerate((1, 2, 3)):
        assert all(value.isfinite() for value in setup(phase, step).values())
    for name, network in setup.task.networks.items():
        assert not any(torch.equal(*pair) for pair in zip(before[name], network.parameters, strict=True)), name
    published = setup.task.published_generator()
    assert published is not None
    published.save_pretrained(tmp_path)
    loaded = Generator.from_pretrained(tmp_path)
    assert (loaded.config.architecture, loaded.multiple_px) == ("plain", 2)
    mask = Image.new("L", (19, 21))
    mask.paste(255, (3, 3, 8, 8))
    assert InpaintingPipeline(loaded)(Image.new("RGB", (19, 21)), mask).size == (19, 21)
    monkeypatch.delitem(GENERATORS, "plain")
    with pytest.raises(InpaintError, match=r"architecture is 'plain'; allowed: dilated"):
        Generator.from_pretrained(tmp_path)


# --- how they are set


def test_terms_are_set_by_a_flag(tmp_path: Path) -> None:
    config, _ = parse_arguments(["--loss.terms", "{charbonnier: 1.0, slope: 10}", "--run-dir", str(tmp_path)])
    assert config.loss.terms == {"charbonnier": 1.0, "slope": 10.0}
    assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ("{charbonier: 1.0}", "there is no charbonier; did you mean charbonnier? Allowed: reconstruction, "),
        ("{charbonnier: -1}", "loss.terms.charbonnier = -1: must be greater than or equal to 0"),
        ("{adversarial: 2}", "adversarial has a setting of its own, loss.adversarial_weight"),
        ("charbonnier", "loss.terms = 'charbonnier' (--loss.terms): must be {name: weight}"),
    ],
)
def test_a_wrong_term_is_told_in_one_line(terms: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        parse_arguments(["--loss.terms", terms, "--run-dir", str(tmp_path)])
    assert words in str(caught.value) and "\n" not in str(caught.value).partition("\n")[2]


@pytest.mark.parametrize("flag", ["--loss.charbonnier_weight", "--loss.terms.charbonnier"])
def test_a_loss_that_is_taken_for_a_setting_is_shown_as_a_term(flag: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_arguments([flag, "2"])
    assert f"{flag}: no such setting; write --loss.terms '{{charbonnier: 2}}'" in str(caught.value)


def test_help_and_defaults_list_what_the_tables_have() -> None:
    help_, defaults = usage(), Config().explained()
    assert "charbonnier|never|" in help_ and "|slope|hinge" in help_
    assert "charbonnier | never | " in defaults and "(fused" in defaults and "(rectangle" in defaults


def test_another_loss_is_another_run_and_another_weight_is_not() -> None:
    before = Config.model_validate({"loss": {"terms": {"charbonnier": 1.0}}}).model_dump(mode="json")

    def changes(terms: dict[str, float]) -> tuple[list[str], list[str]]:
        return differences(before, Config.model_validate({"loss": {"terms": terms}}))

    assert changes({"charbonnier": 1.0}) == ([], [])
    assert changes({"charbonnier": 2.0}) == ([], ["loss.terms.charbonnier: 1.0 -> 2.0"])
    assert changes({}) == (["loss.terms.charbonnier: 1.0 -> 0.0"], [])
    assert changes({"charbonnier": 1.0, "slope": 3.0}) == (["loss.terms.slope: 0.0 -> 3.0"], [])
    assert differences({"loss": {"reconstruction_weight": 1.0}}, Config())[0] == []


def test_a_new_run_may_have_any_terms() -> None:
    assert differences({}, Config.model_validate({"loss": {"terms": {"real": 2.0}}})) == ([], [])
