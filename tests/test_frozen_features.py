"""The loss on a frozen network's features: its value, what its gradient reaches, and where it is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from features_file import make_features_file
from running import tiny_config
from stepping import Setup, gradients_at_step, on_the_cpu  # noqa: F401 - the fixture acts here too
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, pad

from inpaint.config import Config
from inpaint.distributed import runtime
from inpaint.hub.card import write_generator_card
from inpaint.losses.frozen_features import frozen_features, frozen_network
from inpaint.losses.seen import Seen
from inpaint.models import feature_network
from inpaint.training.launch import main

INSTALLED = find_spec(feature_network.PACKAGE)
# Before a convolution and after it: by its kernel and stride, as TensorFlow pads an image of even size.
PADDING = {(1, 1): (0, 0), (3, 1): (1, 1), (5, 1): (2, 2), (3, 2): (0, 1), (5, 2): (1, 2)}
# Of blocks 0 to 4.
STRIDES = (1, 2, 1, 2, 1)
NORM = {"norm": "group"}


@pytest.fixture(autouse=True)
def weights_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with weights of the right shapes stands in for the one that may not be installed."""
    file = tmp_path / "stand_in_features" / feature_network.FILE
    file.parent.mkdir(parents=True)
    (tmp_path / "stand_in_features" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(feature_network, "PACKAGE", "stand_in_features")
    frozen_network.cache_clear()
    yield make_features_file(file, monkeypatch)
    frozen_network.cache_clear()


def seen(image: Tensor, output: Tensor, mask: Tensor) -> Seen:
    nowhere = torch.zeros(len(image), 2, dtype=torch.int64)
    return Seen(image, mask, output, nowhere, nowhere, 1, Config().loss, True, lambda *_: pytest.fail("asked"))


def given(num: int = 4, size: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    image, output = torch.rand(2, num, 3, size, size, generator=random, dtype=torch.float64)
    mask = torch.zeros(num, 1, size, size, dtype=torch.float64)
    for index in range(num):
        mask[index, :, 6 : 12 + 2 * index, 10:20] = 1
    return image, output.requires_grad_(), mask


def maps_by_hand(weights: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    """Of the first, second and third stage, layer by layer and without folding anything."""

    def layer(values: Tensor, name: str, norm: str, stride: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"].double()
        before, after = PADDING[weight.shape[-1], stride]
        groups = len(weight) if weight.shape[1] == 1 else 1
        values = conv2d(pad(values, (before, after) * 2), weight, stride=stride, groups=groups)
        mean, variance, scale, shift = (
            weights[f"{norm}.{its}"].double() for its in ("running_mean", "running_var", "weight", "bias")
        )
        return batch_norm(values, mean, variance, scale, shift, eps=1e-3)

    values, maps = layer((image - 0.498) / 0.502, "_conv_stem", "_bn0", 2).clamp(0, 6), []
    for number, stride in enumerate(STRIDES):
        name, inner = f"_blocks.{number}", values
        if number:
            inner = layer(inner, f"{name}._expand_conv", f"{name}._bn0").clamp(0, 6)
        inner = layer(inner, f"{name}._depthwise_conv", f"{name}._bn1", stride).clamp(0, 6)
        inner = layer(inner, f"{name}._project_conv", f"{name}._bn2")
        values = inner + values if number in (2, 4) else inner
        maps += [values] if number in (0, 2, 4) else []
    return maps


@pytest.mark.parametrize("which", ["stand-in", "real"])
def test_its_value_is_that_of_the_network_as_published(
    which: str, weights_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if which == "real":
        if INSTALLED is None or INSTALLED.origin is None:
            pytest.skip("the feature network, the extra inpaint[features], is not installed")
        monkeypatch.undo()
        weights_file = Path(INSTALLED.origin).parent / feature_network.FILE
    weights = feature_network.read_tensors(weights_file.read_bytes())
    image, output, mask = given(size=64)
    composite = image * (1 - mask) + output * mask
    pairs = [*zip(maps_by_hand(weights, composite), maps_by_hand(weights, image), strict=True)]
    assert [tuple(one.shape[1:]) for one, _ in pairs] == [(16, 32, 32), (24, 16, 16), (40, 8, 8)]
    expected = sum(((one - other).abs().mean() for one, other in pairs), torch.zeros(())) / 3
    found = frozen_features(seen(image, output, mask))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    slope, by_hand = (torch.autograd.grad(value, output)[0] for value in (found, expected))
    # Where a unit is at the very edge of ReLU6, folding may tip it over.
    assert (slope - by_hand).norm() < 1e-3 * by_hand.norm()
    assert slope[mask.bool().expand_as(slope)].count_nonzero() > 0.9 * 3 * mask.sum()
    assert not slope[~mask.bool().expand_as(slope)].any()
    assert frozen_features(seen(image, image, mask)) == 0


def test_it_is_float32_at_least_and_a_batch_may_be_cut_in_equal_parts() -> None:
    image, output, mask = given()
    whole = frozen_features(seen(image, output, mask))
    parts = [frozen_features(seen(*cut)) for cut in zip(*(its.split(2) for its in (image, output, mask)), strict=True)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-12, atol=0)
    half = frozen_features(seen(image.bfloat16(), output.bfloat16(), mask.bfloat16()))
    assert (whole.dtype, half.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(half.double(), whole, rtol=0.05, atol=0)
    both = [frozen_network(torch.device("cpu"), dtype) for dtype in (torch.float64, torch.float32)]
    assert both[0] is frozen_network(torch.device("cpu"), torch.float64) and frozen_network.cache_info().misses == 2


@pytest.mark.parametrize(("phase", "compiled"), [(1, False), (3, False), (3, True)])
def test_a_step_adds_its_gradient_to_the_generators_alone(
    phase: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_(self, backend="aot_eager"))
    monkeypatch.setattr(runtime, "why_not_compiled", lambda device: None)
    loss = {"reconstruction_weight": 0.0, "adversarial_weight": 0.0, "terms": {"frozen_features": 0.25}}
    setup = Setup(2, model=NORM, loss=loss, training={"compile": compiled})
    kept, generator = setup.task.state(), copy.deepcopy(setup.generator.module)
    network = frozen_network(setup.runtime.device, setup.runtime.dtype)
    before = [buffer.clone() for buffer in network.buffers()]
    gradients = gradients_at_step(setup, monkeypatch)
    logged = setup(phase)
    batch = setup.batch()
    value = frozen_features(seen(batch.image, generator(batch.masked_image, batch.mask), batch.mask))
    expected = torch.autograd.grad(0.25 * value, list(generator.parameters()))
    torch.testing.assert_close(gradients[setup.generator], list(expected), rtol=1e-8, atol=1e-13)
    torch.testing.assert_close(logged["loss/generator/frozen_features"], value.detach())
    assert not any(buffer.requires_grad for buffer in network.buffers()) and not list(network.parameters())
    assert all(torch.equal(*pair) for pair in zip(before, network.buffers(), strict=True))
    names = {file: tensors.keys() for file, tensors in kept.items() if not file.startswith("optimizer")}
    assert {file: its.keys() for file, its in setup.task.state().items() if file in names} == names


# --- where it cannot be


@pytest.mark.parametrize("flag", ["--dry-run", "--debug=false"])
@pytest.mark.parametrize(
    ("package", "best_by", "said"),
    [
        (
            "no_such_package",
            "last",
            "loss.terms.frozen_features needs a feature network: pip install 'inpaint[features]', or leave the term",
        ),
        (
            "stand_in_features",
            "distance",
            "evaluation.best_by = distance measures with the network that loss.terms.frozen_features trains on",
        ),
    ],
)
def test_what_cannot_be_is_told_in_a_line_before_anything_is_begun(
    package: str,
    best_by: str,
    said: str,
    flag: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(feature_network, "PACKAGE", package)
    config = tiny_config(tmp_path, evaluation={"best_by": best_by}, loss={"terms": {"frozen_features": 1.0}})
    command = ["--config", str(config), "--run-dir", str(tmp_path / "run"), flag]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line and not (tmp_path / "run").exists()


def test_a_weight_of_0_needs_no_network_and_the_card_tells_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(feature_network, "PACKAGE", "no_such_package")
    config = tiny_config(tmp_path, loss={"terms": {"frozen_features": 0.0}})
    assert main(["--config", str(config), "--run-dir", str(tmp_path / "run"), "--dry-run"]) == 0
    capsys.readouterr()
    for weight, told in ((0.0, False), (1.0, True)):
        (tmp_path / "config.yaml").write_text(f"loss: {{terms: {{frozen_features: {weight}}}}}\n")
        write_generator_card(tmp_path, tmp_path)
        assert (tmp_path / "README.md").read_text().count("flatter this generator") == told
