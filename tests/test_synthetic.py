"""The embedded landscapes: a function of (seed, index) alone, the same scene at every size, and varied."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from inpaint.data.recipes import SyntheticRecipe, SyntheticSpec
from inpaint.data.synthetic.clutter import is_cluttered, with_clutter
from inpaint.data.synthetic.landscapes import CLASSES, labels, render


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    return render(5, np.arange(210), 64)


def test_shape_and_type(pictures: NDArray[np.uint8]) -> None:
    assert pictures.shape == (210, 64, 64, 3)
    assert pictures.dtype == np.uint8
    assert labels(5, np.arange(210)).dtype == np.int64
    for size in (16, 20, 33, 100):
        assert render(0, np.array([3]), size).shape == (1, size, size, 3)
    assert render(0, np.array([], np.int64), 64).shape == (0, 64, 64, 3)


def test_too_small_a_size_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16; got 15"):
        render(0, np.array([0]), 15)


def test_the_same_bytes_alone_in_any_batch_and_in_any_order(pictures: NDArray[np.uint8]) -> None:
    chosen = np.array([90, 3, 17, 64, 200])
    assert np.array_equal(render(5, chosen, 64), pictures[chosen])
    for index in (0, 3, 41, 90, 133, 209):
        assert np.array_equal(render(5, np.array([index]), 64)[0], pictures[index])
        assert labels(5, np.array([index]))[0] == labels(5, np.arange(210))[index]


def test_the_same_bytes_in_another_process(pictures: NDArray[np.uint8]) -> None:
    code = "import hashlib, numpy as np; from inpaint.data.synthetic.landscapes import render as r;"
    code += "print(hashlib.sha256(r(5, np.arange(9), 64).tobytes()).hexdigest())"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert seen == hashlib.sha256(pictures[:9].tobytes()).hexdigest()


def test_seeds_and_indices_give_other_images(pictures: NDArray[np.uint8]) -> None:
    assert len({image.tobytes() for image in pictures}) == len(pictures)
    other = render(6, np.arange(16), 64).astype(float)
    assert np.abs(other - pictures[:16]).mean(axis=(1, 2, 3)).min() > 5
    far = render(2**63 + 1, np.array([0, 2**40]), 64)
    assert not np.array_equal(far[0], far[1])


@pytest.mark.parametrize("size", [32, 128, 256])
def test_another_size_is_the_same_scene(size: int, pictures: NDArray[np.uint8]) -> None:
    num = 12 if size < 256 else 4
    scaled = render(5, np.arange(num), size).astype(float)
    reference, small = pictures[:num].astype(float), min(size, 64)

    def shrink(images: NDArray[np.float64]) -> NDArray[np.float64]:
        step = images.shape[1] // small
        return images.reshape(num, small, step, small, step, 3).mean(axis=(2, 4))

    error = np.abs(shrink(scaled) - shrink(reference)).mean(axis=(1, 2, 3))
    others = np.abs(shrink(scaled) - shrink(np.roll(reference, 1, axis=0))).mean(axis=(1, 2, 3))
    assert error.mean() < 6
    assert (error < 0.5 * others).all()


def test_every_class_and_hour_occurs(pictures: NDArray[np.uint8]) -> None:
    counts = np.bincount(labels(5, np.arange(7000)), minlength=len(CLASSES))
    assert len(counts) == len(CLASSES)
    assert (np.abs(counts - 1000) < 150).all()
    brightness = pictures.mean(axis=(1, 2, 3))
    assert (brightness < 50).mean() > 0.05  # nights
    assert (brightness > 150).mean() > 0.10  # bright days
    warmth = pictures[..., 0].mean(axis=(1, 2)) - pictures[..., 2].mean(axis=(1, 2))
    assert (warmth > 20).mean() > 0.05
    assert (warmth < -20).mean() > 0.10


def test_images_are_neither_flat_nor_noise(pictures: NDArray[np.uint8]) -> None:
    values = pictures.astype(float)
    contrast = values.std(axis=(1, 2, 3))
    neighbours = np.abs(np.diff(values, axis=2)).mean(axis=(1, 2, 3))
    assert (contrast > 4).all()
    assert np.median(contrast) > 25
    assert np.median(neighbours / contrast) < 0.25  # white noise: 1.13
    assert ((pictures == 255).all(axis=-1).mean(axis=(1, 2)) < 0.25).all()


def test_lakes_mirror_what_stands_above_them() -> None:
    """The columns of a lake correlate with the upper half turned over more than those of a meadow do."""
    which = labels(5, np.arange(600))

    def likeness(name: str) -> float:
        grey = render(5, np.flatnonzero(which == CLASSES.index(name))[:40], 64).astype(float).mean(axis=-1)
        best = []
        for image in grey:
            detail = image - image.mean(axis=1, keepdims=True)
            scores = []
            for shore in range(26, 42):
                above, below = detail[shore - 16 : shore][::-1].ravel(), detail[shore : shore + 16].ravel()
                scores.append(above @ below / (np.linalg.norm(above) * np.linalg.norm(below) + 1e-9))
            best.append(max(scores))
        return float(np.mean(best))

    assert likeness("lake") > likeness("meadow") + 0.08


def test_clutter_is_a_function_of_seed_and_index_and_as_rough_as_photographs(pictures: NDArray[np.uint8]) -> None:
    cluttered = with_clutter(5, np.arange(210), pictures)
    chosen = np.array([90, 3, 17, 64, 200])
    assert np.array_equal(with_clutter(5, chosen, pictures[chosen]), cluttered[chosen]), "whatever the batch"
    rough, plain = (np.abs(np.diff(its.astype(float), axis=2)).mean(axis=(1, 2, 3)) for its in (cluttered, pictures))
    # Photographs of landscapes: a median of 8, landscapes without clutter 3 (levels from a pixel to the next).
    assert 5 < np.median(rough) < 11 and np.median(plain) < 4
    assert rough.std() > 2.5, "some are calm, some wild"


def test_a_share_of_the_training_images_has_clutter_and_no_other() -> None:
    drawn = {}
    for share in (0.0, 0.5):
        recipe = SyntheticRecipe(SyntheticSpec(200, 40, 40, seed=5, clutter=share), 32)
        drawn[share] = [task.decode().pixels for task in recipe.tasks(200)]
    differs = [(one != other).any(axis=(1, 2, 3)) for one, other in zip(*drawn.values(), strict=True)]
    assert np.array_equal(differs[0], is_cluttered(5, np.arange(200), 0.5)) and 80 < differs[0].sum() < 120
    assert not differs[1].any() and not differs[2].any()
