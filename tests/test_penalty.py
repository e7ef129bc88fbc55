"""R1 and R2: the discriminator's slope by hand and by differences, and where, when and in what parts it is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from running import tiny_config, train
from stepping import Setup, gradients_at_step, on_the_cpu  # noqa: F401 - the fixture acts here too
from torch import Tensor, nn

from inpaint.config import LossConfig, ModelConfig
from inpaint.distributed import runtime
from inpaint.losses.penalty import r1, r2
from inpaint.losses.seen import Seen
from inpaint.models.discriminators.fused import FusedDiscriminator
from inpaint.models.discriminators.judgement import Judgement
from inpaint.models.discriminators.patch import PatchDiscriminator
from inpaint.training.launch import main

SIZE, BATCH = 16, 3
PATCH = {"discriminator": "patch", "discriminator_input": "composite"}
BOTH = {"r1": 0.5, "r2": 0.25}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def seen(discriminator: Any, step: int = 1, **settings: Any) -> Seen:
    """Noise with holes of a quarter, in float64."""
    image, output = torch.rand(2, BATCH, 3, SIZE, SIZE, dtype=torch.float64)
    mask = torch.zeros(BATCH, 1, SIZE, SIZE, dtype=torch.float64)
    mask[:, :, : SIZE // 2, : SIZE // 2] = 1
    windows = torch.tensor([[0, 0], [2, 3], [9, 9]])
    loss = LossConfig(**{"penalty_every": 1, **settings})
    return Seen(image, mask, output, windows, windows.flip(0), step, loss, True, discriminator)


def without_autocast(network: nn.Module) -> Any:
    def judge(*inputs: Tensor, in_float32: bool = False) -> Judgement:
        assert in_float32
        return network(*inputs)

    return judge


def networks() -> dict[str, nn.Module]:
    made = {
        f"fused, {norm}": FusedDiscriminator(ModelConfig(width=4, norm=norm), SIZE, 7) for norm in ("none", "group")
    }
    return {"patch": PatchDiscriminator(ModelConfig(width=4), SIZE, 7)} | made


# --- what it is


@pytest.mark.parametrize(("region", "counted"), [("image", 4), ("hole", 1)])
def test_the_slope_of_a_linear_discriminator_is_its_weight(region: str, counted: int) -> None:
    """Four logits an image, each the weighted sum of a quarter of it; in the hole's quarter alone with `hole`."""
    weight = torch.rand(3, SIZE // 2, SIZE // 2, dtype=torch.float64, requires_grad=True)

    def judge(image: Tensor, mask: Tensor, windows: Tensor, in_float32: bool) -> Judgement:
        quarters = image.unfold(2, SIZE // 2, SIZE // 2).unfold(3, SIZE // 2, SIZE // 2)
        return Judgement(torch.einsum("bcyxhw,chw->byx", quarters, weight)[:, None], [])

    for penalty in (r1, r2):
        found = penalty(seen(judge, judged_region=region))
        assert found is not None
        assert found.item() == pytest.approx(counted * weight.square().sum().item(), rel=1e-12)
        (gradient,) = torch.autograd.grad(found, weight)
        torch.testing.assert_close(gradient, 2 * counted * weight.detach())


@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize("penalty", [r1, r2])
def test_it_and_its_gradient_are_those_of_finite_differences(name: str, penalty: Any) -> None:
    network = networks()[name].double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)  # else the fused pair is nearly flat
            if name == "patch" and parameter.ndim == 4:
                parameter[0] += 1  # one singular value above the others, so that the gradient of the norm is exact
    this = seen(without_autocast(network))
    shown, windows = (this.image, this.real_windows) if penalty is r1 else (this.composite, this.windows)
    basis, step = 1e-5 * torch.eye(3 * SIZE * SIZE).double().view(-1, 3, SIZE, SIZE), 1e-6
    expected = []
    for image, mask, window in zip(shown, this.mask, windows, strict=True):
        others = mask.expand(len(basis), -1, -1, -1), window.expand(len(basis), -1)
        with torch.no_grad():
            above, below = (network(image + by, *others).logits.flatten(1).sum(1) for by in (basis, -basis))
        expected.append(((above - below) / 2e-5).square().sum())
    found = penalty(this)
    torch.testing.assert_close(found.detach(), torch.stack(expected).mean(), rtol=1e-5, atol=0)

    parameters = [p for p in network.parameters() if p.numel() > 1]
    gradients = torch.autograd.grad(found, parameters, materialize_grads=True)
    directions = [torch.randn_like(parameter) for parameter in parameters]
    values = []
    for by in (step, -2 * step):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(by * direction)
        values.append(penalty(this).detach())
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    torch.testing.assert_close((values[0] - values[1]) / (2 * step), slope, rtol=1e-4, atol=1e-9)


# --- when, and in what parts


def test_it_is_lazy_and_weighs_as_much_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """In two of eight steps, with four times the weight; what is logged is the squared slope itself."""
    logged = {}
    for every in (1, 4):
        setup = Setup(model=PATCH, loss={"terms": {"r1": 1.0, "real": 0, "fake": 0}, "penalty_every": every})
        gradients = gradients_at_step(setup, monkeypatch)
        steps = [setup(2, step, lr_scale=0) for step in range(8)]
        logged[every] = [step.get("loss/discriminator/r1") for step in steps], gradients[setup.discriminator]
    (always, last), (lazily, last_of_lazy) = logged[1], logged[4]
    assert [value is not None for value in lazily] == [step in (4, 8) for step in range(1, 9)]
    assert (lazily[3], lazily[7]) == (always[3], always[7])
    for one, four in zip(last, last_of_lazy, strict=True):
        torch.testing.assert_close(four, 4 * one)


@pytest.mark.parametrize("model", [PATCH, {"norm": "group"}])
@pytest.mark.parametrize("phase", [2, 3])
def test_micro_batches_change_nothing(model: dict[str, Any], phase: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for micro in (None, 2):
        loss = {"terms": BOTH, "penalty_every": 1, "judged_region": "hole"}
        setup = Setup(micro, model={"norm": "group", **model}, loss=loss)
        gradients = gradients_at_step(setup, monkeypatch)
        terms = setup(phase)
        found.append([*gradients[setup.discriminator], *(terms[f"loss/discriminator/{name}"] for name in BOTH)])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-14)


def test_under_bf16_it_is_taken_in_float32() -> None:
    values, types = [], set()
    for precision in ("float32", "bf16"):
        setup = Setup(precision=precision, model=PATCH, loss={"terms": BOTH, "penalty_every": 1})
        head = setup.discriminator.module.head
        head.register_forward_hook(lambda _, inputs, output: types.add((len(output), output.dtype)))
        terms = setup(2)
        assert all(value.isfinite() for value in terms.values())
        values.append(terms["loss/discriminator/r1"])
    assert torch.equal(*values)
    assert types == {(16, torch.float32), (16, torch.bfloat16), (8, torch.float32)}


def test_a_compiled_discriminator_is_called_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled graph cannot be differentiated twice."""
    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled(self, backend="aot_eager"))
    monkeypatch.setattr(runtime, "why_not_compiled", lambda device: None)
    values = []
    for compile_ in (False, True):
        loss = {"terms": {"r1": 1.0}, "penalty_every": 1}
        values.append(Setup(model=PATCH, loss=loss, training={"compile": compile_})(2)["loss/discriminator/r1"])
    torch.testing.assert_close(*values)


# --- where it is not


def test_batch_norm_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There the slope at an image is that of all logits of its micro batch."""
    arguments = ["--config", "paper/original", "--loss.terms", "{r1: 1, r2: 0}", "--run-dir", str(tmp_path / "run")]
    for more in (["--dry-run"], []):
        assert main([*arguments, *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "loss.terms r1" in line and "model.norm = batch" in line and "use group or none" in line
    assert not (tmp_path / "run").exists()
    assert main([*arguments, "--dry-run", "--model.discriminator", "patch"]) == 0
    assert main(["--config", "paper/original", "--dry-run", "--loss.terms", "{r1: 0}"]) == 0


def test_zero_3_is_refused(tmp_path: Path) -> None:
    """It lets go of a layer's weights after the first of the two derivatives."""
    arguments = ("--config", tiny_config(tmp_path), "--run-dir", tmp_path / "run", "--loss.terms", "{r2: 1}")
    line = train(*arguments, processes=2, engine="zero3").only_line()
    assert "loss.terms r2" in line and "ZeRO-3" in line and "deepspeed_zero2.yaml" in line
    assert not (tmp_path / "run").exists()
