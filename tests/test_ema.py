"""The average of the generator: a half-life in images, by hand, whatever the batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inpaint.config import EmaConfig
from inpaint.distributed.network import Network
from inpaint.distributed.runtime import Runtime
from inpaint.training.ema import Ema


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def module(weight: float) -> nn.Sequential:
    """One weight and BatchNorm's buffers."""
    layers = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1)).double()
    nn.init.constant_(layers[0].weight, weight)  # type: ignore[arg-type]
    return layers


def network(weight: float) -> Network:
    return Runtime("float64").prepare("generator", module(weight), {"lr": 1.0}, False)


def ema(start: float, half_life_kimg: float = 1.0, ramp_up: float = 1.0) -> Ema:
    return Ema(module(start), EmaConfig(half_life_kimg=half_life_kimg, ramp_up=ramp_up))


def value(average: Ema) -> float:
    return average.module[0].weight.item()  # type: ignore[index]


def test_a_weights_share_halves_in_one_half_life() -> None:
    average = ema(8.0)
    average.update(network(0.0), images_seen=5_000, batch_size=1_000)
    assert value(average) == pytest.approx(4)
    average.update(network(0.0), images_seen=7_000, batch_size=2_000)
    assert value(average) == pytest.approx(1)
    average.update(network(2.0), images_seen=7_500, batch_size=500)
    assert value(average) == pytest.approx(2 + (1 - 2) * 0.5**0.5)


def test_at_the_start_the_half_life_is_a_share_of_the_images_seen() -> None:
    average = ema(8.0, half_life_kimg=10, ramp_up=0.05)
    average.update(network(0.0), images_seen=2_000, batch_size=100)
    assert value(average) == pytest.approx(4)
    average.update(network(0.0), images_seen=10**9, batch_size=10_000)
    assert value(average) == pytest.approx(2)


@pytest.mark.parametrize("images_seen", [0, 1, 10**9])
def test_without_a_half_life_yet_it_is_a_copy(images_seen: int) -> None:
    average = ema(8.0, ramp_up=0.0)
    average.update(network(3.0), images_seen, batch_size=16)
    assert value(average) == 3


def test_the_batch_does_not_change_the_average() -> None:
    """Of weights that grow with the images seen, it lags by the same number of images."""
    ends, trained = [], network(0.0)
    for batch_size in (20, 40, 100):
        average = ema(0.0)
        for images_seen in range(batch_size, 10_001, batch_size):
            nn.init.constant_(trained.module[0].weight, images_seen)  # type: ignore[index, arg-type]
            average.update(trained, images_seen + 10**6, batch_size)
        ends.append(10_000 - value(average))
    assert ends == pytest.approx([1_000 / torch.tensor(2.0).log().item()] * 3, rel=0.06)


def test_statistics_are_averaged_like_the_weights_and_counts_are_copied() -> None:
    """Beside averaged weights the statistics of the moment are those of other layers."""
    average, trained = ema(8.0), network(0.0)
    statistics = trained.module[1]  # type: ignore[index]
    statistics.running_mean.fill_(4)
    statistics.running_var.fill_(3)
    statistics.num_batches_tracked.fill_(7)
    average.update(trained, images_seen=5_000, batch_size=1_000)
    averaged = average.module[1]  # type: ignore[index]
    assert value(average) == pytest.approx(4)
    assert averaged.running_mean.item() == pytest.approx(2) and averaged.running_var.item() == pytest.approx(2)
    assert averaged.num_batches_tracked.item() == 7


def test_frozen_weights_are_averaged_too() -> None:
    """The generator is frozen while the discriminators learn; an average that then copied would be none."""
    average, trained = ema(8.0), network(0.0)
    trained.module.requires_grad_(False)
    average.update(trained, images_seen=5_000, batch_size=1_000)
    assert value(average) == pytest.approx(4)


def test_the_average_is_never_trained_and_touches_nothing_of_the_network() -> None:
    average, trained = ema(8.0), network(0.0)
    average.update(trained, images_seen=5_000, batch_size=1_000)
    assert not average.module.training
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    assert trained.module[0].weight.item() == 0
    assert trained.module.training
    with torch.no_grad():
        trained.module[1].running_mean += 1
    assert average.module[1].running_mean.item() == 0  # type: ignore[index]
