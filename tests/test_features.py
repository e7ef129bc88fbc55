"""The feature network and what is made of its vectors: distances between sets of images, P-IDS and U-IDS."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inpaint.data.synthetic.landscapes import render
from inpaint.evaluation import features
from inpaint.models import feature_network

needs_features = pytest.mark.skipif(
    find_spec(feature_network.PACKAGE) is None,
    reason="the feature network, the extra inpaint[features], is not installed",
)


def test_the_window_lies_round_the_hole_and_inside_the_image() -> None:
    images = torch.arange(3 * 64).reshape(3, 1, 8, 8)
    hole = torch.zeros(3, 1, 8, 8)
    hole[0, 0, 2:5, 3:6] = 1
    hole[1, 0, 7, 0] = 1
    found = features.windows(images, hole)
    assert found[:, 0, 0, 0].tolist() == [images[0, 0, 1, 2], images[1, 0, 4, 0], images[2, 0, 2, 2]]
    assert found.shape == (3, 1, 4, 4)


def test_the_distance_is_the_one_between_two_normal_distributions() -> None:
    random = torch.Generator().manual_seed(1)
    first = torch.randn(400, 5, generator=random, dtype=torch.float64) @ torch.randn(5, 5, generator=random).double()
    second = torch.randn(300, 5, generator=random, dtype=torch.float64) + 2

    def root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        values, vectors = np.linalg.eigh(matrix)
        return vectors @ np.diag(np.sqrt(values.clip(min=0))) @ vectors.T

    one, two = (np.cov(rows.numpy().T) for rows in (first, second))
    mixed = root(root(one) @ two @ root(one))
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum().item() + np.trace(one + two - 2 * mixed)
    assert features.frechet_distance(first, second) == pytest.approx(expected, rel=1e-4)
    assert features.frechet_distance(first, first) == pytest.approx(0, abs=1e-5)
    assert math.isnan(features.frechet_distance(first[:1], second))


def test_the_distance_has_the_same_bits_whatever_the_number_of_threads() -> None:
    first, second = (torch.randn(64, 1280, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    before, found = torch.get_num_threads(), set()
    try:
        for num_threads in (1, 2, 4):
            torch.set_num_threads(num_threads)
            found.add(features.frechet_distance(first, second))
            assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1


def test_discriminative_scores() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn, of the extra inpaint[features], is not installed")
    random = torch.Generator().manual_seed(2)
    truth = torch.randn(2000, 3, generator=random)
    same = features.inception_discriminative_scores(truth, truth + 0.3 * torch.randn(2000, 3, generator=random))
    assert same is not None and same[0] > 0.3 and same[1] > 0.4
    far = features.inception_discriminative_scores(truth, truth + 100)
    assert far == (0, 0)
    assert features.inception_discriminative_scores(truth[:2], truth[:2]) is None


def test_the_network_folds_its_batch_norm_and_gives_a_vector_an_image(features_file: Path) -> None:
    network = feature_network.load_feature_network(features_file)
    assert network is not None and not list(network.parameters())
    image = torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    found = network(image)
    assert found.shape == (3, feature_network.NUM_FEATURES) and found.isfinite().all()
    assert torch.allclose(network(image[1:2])[0], found[1], atol=1e-4)
    assert (found[0] - found[1]).abs().max() > 1e-3
    weights = feature_network.read_tensors(features_file.read_bytes())
    seen = torch.nn.functional.interpolate(image, (128, 128), mode="bilinear")
    stem = torch.nn.functional.conv2d(
        torch.nn.functional.pad((seen - 0.498) / 0.502, (0, 1, 0, 1)), weights["_conv_stem.weight"], stride=2
    )
    stem = stem / math.sqrt(1.001) + 0.5
    assert torch.allclose(network._convolve("_conv_stem", (seen - 0.498) / 0.502, 2), stem, atol=1e-4)


@needs_features
def test_its_file_is_read_as_torch_reads_it() -> None:
    spec = find_spec(feature_network.PACKAGE)
    assert spec is not None and spec.origin is not None
    file = Path(spec.origin).parent / feature_network.FILE
    expected = torch.load(file, weights_only=True)
    found = feature_network.read_tensors(file.read_bytes())
    assert len(found) == 165 and all(torch.equal(value, expected[name]) for name, value in found.items())


@needs_features
def test_blur_is_farther_than_a_little_noise_with_the_real_network() -> None:
    network = feature_network.load_feature_network()
    assert network is not None
    image = torch.from_numpy(render(0, np.arange(48), 32)).permute(0, 3, 1, 2) / 255
    blurred = torch.nn.functional.avg_pool2d(image, 7, 1, 3, count_include_pad=False)
    slight = (image + 0.01 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    truth = network(image)
    assert features.frechet_distance(truth, network(blurred)) > 3 * features.frechet_distance(truth, network(slight))
