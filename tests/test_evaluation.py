"""Figures against values by hand, fills that must come out exactly, and what each process adds to the table."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from painting import mask_of, smooth_images
from running import metrics, tiny_config
from torch import Tensor

from inpaint.evaluation.baselines import BASELINES, Fill, mean_fill
from inpaint.evaluation.metrics import MAX_PSNR_DB, Filled, Metric, all_metrics, composite_u8
from inpaint.evaluation.table import markdown_table, means, metric_sums, no_sums
from inpaint.holes.rectangle import rasterise
from inpaint.tables import METRICS
from inpaint.training.launch import main


def sums_of(fill: Fill, images: NDArray[np.uint8], holes: NDArray[np.int32], batch_size: int) -> Tensor:
    """What one process adds up."""
    masks, sums = rasterise(torch.from_numpy(holes), images.shape[1]).float(), no_sums()
    for start in range(0, len(images), batch_size):
        batch = slice(start, start + batch_size)
        sums += metric_sums(Filled.by(fill, images[batch], masks[batch]))
    return sums


def evaluate(fill: Fill, images: NDArray[np.uint8], holes: NDArray[np.int32], batch_size: int) -> dict[str, float]:
    """The figures of one process."""
    return means(sums_of(fill, images, holes, batch_size))


def figures_of(composite: Tensor, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Every metric of every image."""
    filled = Filled(composite, image, mask, composite.float() / 255)
    return {name: metric.per_image(filled) for name, metric in all_metrics().items() if metric.per_image is not None}


# --- figures


def test_psnr_and_l1_by_hand() -> None:
    image = torch.full((1, 3, 24, 24), 100, dtype=torch.uint8)
    mask = mask_of(2, 3, 6, 4)
    composite = torch.where(mask > 0, image + 10, image)
    figures = figures_of(composite, image, mask)
    share = 6 * 4 / 24**2
    assert figures["hole_l1"].item() == pytest.approx(10 / 255)
    assert figures["l1"].item() == pytest.approx(share * 10 / 255)
    assert figures["hole_psnr"].item() == pytest.approx(20 * math.log10(255 / 10))
    assert figures["psnr"].item() == pytest.approx(20 * math.log10(255 / 10) - 10 * math.log10(share))


def test_psnr_is_averaged_over_images_and_not_over_errors() -> None:
    image = np.zeros((2, 24, 24, 3), np.uint8)
    image[1] = 200
    holes = np.array([[0, 0, 8, 8]] * 2, np.int32)
    # White is 255 away from the first image and 55 from the second.
    figures = evaluate(lambda masked_image, mask: torch.ones_like(masked_image), image, holes, 2)
    assert figures["hole_psnr"] == pytest.approx((0 + 20 * math.log10(255 / 55)) / 2)


def ssim_map_by_loops(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Wang et al. 2004, equation 13, pixel by pixel for one channel in [0, 1]."""
    at = np.arange(-5, 6)
    window = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    first, second = np.pad(first, 5, mode="reflect"), np.pad(second, 5, mode="reflect")
    similarity = np.empty((first.shape[0] - 10, first.shape[1] - 10))
    for y, x in np.ndindex(similarity.shape):
        a, b = first[y : y + 11, x : x + 11], second[y : y + 11, x : x + 11]
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        variance_a, variance_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
        covariance = (window * (a - mean_a) * (b - mean_b)).sum()
        luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
        similarity[y, x] = luminance * (2 * covariance + 0.03**2) / (variance_a + variance_b + 0.03**2)
    return similarity


def test_ssim_is_the_published_formula_in_the_hole_and_whole() -> None:
    # Of little contrast, so that the constants count and their range must be 255, not what the images span.
    image, other = smooth_images(1, 18) // 5 + 90, smooth_images(1, 18, seed=1) // 5 + 90
    mask = mask_of(1, 6, 9, 5, size=18)
    composite = torch.where(mask > 0, other, image)
    channels = zip(image[0].numpy() / 255, composite[0].numpy() / 255, strict=True)
    expected = np.stack([ssim_map_by_loops(*pair) for pair in channels])
    figures = figures_of(composite, image, mask)
    assert figures["ssim"].item() == pytest.approx(expected.mean(), abs=1e-4)
    assert figures["hole_ssim"].item() == pytest.approx(expected[:, 6:11, 1:10].mean(), abs=1e-4)


def test_each_image_is_judged_alone() -> None:
    image, composite = smooth_images(3), smooth_images(3, seed=1)
    mask = torch.cat([mask_of(0, 0, 5, 9), mask_of(8, 2, 3, 3), mask_of(20, 20, 4, 4)])
    together = figures_of(composite, image, mask)
    for index in range(3):
        alone = figures_of(*(tensor[index : index + 1] for tensor in (composite, image, mask)))
        for name in METRICS:
            assert together[name][index].item() == pytest.approx(alone[name].item(), rel=1e-5)


def test_identical_images_score_the_cap_and_empty_holes_nothing() -> None:
    image = smooth_images(2)
    figures = figures_of(image, image, torch.cat([mask_of(2, 2, 4, 4), torch.zeros(1, 1, 24, 24)]))
    assert figures["psnr"].tolist() == [MAX_PSNR_DB] * 2
    assert figures["hole_psnr"][0].item() == MAX_PSNR_DB
    assert figures["ssim"].tolist() == pytest.approx([1, 1])
    assert all(figures[name][1].isnan() for name in ("hole_psnr", "hole_l1", "hole_ssim"))


def test_sharpness_is_the_gradient_energy_of_all_holes_over_that_of_the_truths() -> None:
    image, other = smooth_images(3), smooth_images(3, seed=1)
    image[2] = 90  # whose energy is 0 counts with its fill's
    mask = torch.cat([mask_of(1, 2, 6, 9), mask_of(0, 0, 24, 3), mask_of(20, 20, 4, 4)])
    composite = torch.where(mask > 0, other, image)

    def energy(images: Tensor) -> float:
        total = 0.0
        for values, hole in zip(images.double().numpy() / 255, mask[:, 0].numpy() > 0, strict=True):
            for y, x in zip(*np.nonzero(hole), strict=True):
                for below, beside in ((y + 1, x), (y, x + 1)):
                    if below < 24 and beside < 24 and hole[below, beside]:
                        total += ((values[:, y, x] - values[:, below, beside]) ** 2).sum()
        return total

    sharpness = means(metric_sums(Filled(composite, image, mask, composite / 255)))["sharpness"]
    assert sharpness == pytest.approx(energy(composite) / energy(image), rel=1e-5)
    blurred = torch.nn.functional.avg_pool2d(image.float(), 5, 1, 2, count_include_pad=False).round().byte()
    assert means(metric_sums(Filled(blurred, image, mask, blurred / 255)))["sharpness"] < 0.9
    assert means(metric_sums(Filled(image, image, mask, image / 255)))["sharpness"] == 1


# --- table


def split(num: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    holes = np.concatenate([random.integers(0, 12, (num, 2)), random.integers(4, 12, (num, 2))], axis=1)
    return smooth_images(num).permute(0, 2, 3, 1).numpy(), holes.astype(np.int32)


def test_the_shares_of_the_processes_add_up_whatever_the_batches() -> None:
    images, holes = split(7)
    whole = evaluate(mean_fill, images, holes, 7)
    shares = [slice(0, 3), slice(3, 7), slice(7, 7)]
    summed = torch.stack([sums_of(mean_fill, images[share], holes[share], 2) for share in shares]).sum(0)
    assert means(summed) == pytest.approx(whole, rel=1e-5)


def test_an_image_without_a_hole_counts_only_where_it_has_figures() -> None:
    images, holes = split(2)
    holes[1, 2:] = 0
    figures = evaluate(mean_fill, images, holes, 2)
    assert figures["hole_psnr"] == pytest.approx(evaluate(mean_fill, images[:1], holes[:1], 2)["hole_psnr"])
    assert figures["psnr"] > MAX_PSNR_DB / 2
    assert all(math.isnan(value) for value in means(no_sums()).values())


class MeanColourDistance(Metric):
    """Of a whole set: how far the mean colour of the composites is from the true images'."""

    def rows(self, filled: Filled) -> Tensor:
        colours = torch.cat([filled.composite, filled.image], dim=1).double().mean((2, 3))
        return torch.cat([colours, torch.ones(len(colours), 1)], dim=1)

    def compute(self, state: Tensor) -> Tensor:
        return (state[..., :3] - state[..., 3:6]).norm(dim=-1) / state[..., 6]


def test_a_metric_of_a_whole_set_is_summed_over_processes_as_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "colour", f"{__name__}:COLOUR")
    images, holes = split(7)
    summed = sum((sums_of(mean_fill, images[share], holes[share], 2) for share in (slice(3), slice(3, 7))), no_sums())
    masks = rasterise(torch.from_numpy(holes), 24).float()
    image = torch.from_numpy(images).permute(0, 3, 1, 2)
    composite = composite_u8(mean_fill(image / 255 * (1 - masks), masks), image, masks)
    by_hand = (composite.double().mean((0, 2, 3)) - image.double().mean((0, 2, 3))).norm().item()
    assert means(summed)["colour"] == pytest.approx(by_hand)
    assert "| colour |" in markdown_table({"mean fill": means(summed)})


COLOUR = MeanColourDistance("colour", 3, "lower", state_size=7)


def test_what_several_metrics_need_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchmetrics.functional.image as library

    called, original = [], library.structural_similarity_index_measure
    counting = lambda *args, **kwargs: (called.append(1), original(*args, **kwargs))[1]  # noqa: E731
    monkeypatch.setattr(library, "structural_similarity_index_measure", counting)
    images, holes = split(2)
    evaluate(mean_fill, images, holes, 2)
    assert len(called) == 1


def test_the_fill_sees_a_black_hole_at_x_y_width_height() -> None:
    seen: list[Tensor] = []

    def fill(masked_image: Tensor, mask: Tensor) -> Tensor:
        seen.extend([masked_image, mask])
        return masked_image

    evaluate(fill, np.full((1, 24, 24, 3), 255, np.uint8), np.array([[2, 5, 7, 3]], np.int32), 1)
    assert torch.equal(seen[1], mask_of(2, 5, 7, 3))
    assert torch.equal(seen[0], (1 - seen[1]).expand(1, 3, 24, 24))


def test_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*METRICS][7:]:
        monkeypatch.delitem(METRICS, name)
    row = {"hole_psnr": 20.123, "hole_l1": 0.05, "hole_ssim": math.nan, "sharpness": 0.0976, "psnr": 30.0, "l1": 0.01}
    assert markdown_table({"Telea": row | {"ssim": 0.9}}).splitlines() == [
        "| method | hole PSNR | hole L1 | hole SSIM | sharpness |  PSNR |     L1 |   SSIM |",
        "| ------ | --------: | ------: | --------: | --------: | ----: | -----: | -----: |",
        "| Telea  |     20.12 |  0.0500 |         - |     0.098 | 30.00 | 0.0100 | 0.9000 |",
    ]
    monkeypatch.setitem(METRICS, "colour", f"{__name__}:COLOUR")
    assert markdown_table({"Telea": row | {"ssim": 0.9}}).endswith(" | 0.9000 |      - |"), "what nobody measured"
    images, holes = split(2)
    assert list({method: evaluate(fill, images, holes, 2) for method, fill in BASELINES.items()}) == [
        "mean fill",
        "Telea",
        "Navier-Stokes",
    ]


# --- a metric of somebody else's

GRADIENT_PSNR = '''
from torch import Tensor

from inpaint.evaluation.metrics import Filled, Metric, psnr


def gradient_psnr(filled: Filled) -> Tensor:
    """PSNR of the differences between neighbouring pixels, in the hole."""
    error = filled.difference
    across = (error - error.roll(1, 3)).square() + (error - error.roll(1, 2)).square()
    return psnr(filled.mean_in_hole(across / 2))


GRADIENT_PSNR = Metric("gradient PSNR", 1, "higher", gradient_psnr, "dB")
'''


def test_a_new_metric_is_a_file_and_a_line_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gradients.py").write_text(GRADIENT_PSNR)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(METRICS, "gradient_psnr", "gradients:GRADIENT_PSNR")
    config, run = tiny_config(tmp_path, training={"epochs": 1, "max_steps": 10}), tmp_path / "run"
    arguments = ["--config", str(config), "--run-dir", str(run)]
    assert main([*arguments, "--dry-run"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["metrics"] == [*METRICS]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    evaluation = json.loads((run / "evaluation.json").read_text())
    shown = f"{evaluation['rows']['generator']['gradient_psnr']:.1f}"
    (line,) = (line for line in metrics(run) if "evaluation/gradient_psnr" in line)
    assert f", gradient PSNR {line['evaluation/gradient_psnr']:.1f} dB" in err
    for text in (out, (run / "report.md").read_text()):
        heading, _, *rows = (row for row in text.splitlines() if row.startswith("|"))
        assert heading.endswith(" gradient PSNR |") and rows[-1].endswith(f" {shown} |")
    card = (run / "generator" / "README.md").read_text()
    assert "| gradient PSNR ↑ |" in card and f" {shown} |\n" in card
    assert "gradient PSNR (dB)" in card.partition("\n---\n")[0]
    status = subprocess.run([sys.executable, "-m", "inpaint", "status", run], capture_output=True, text=True)
    assert "images/s, peak memory " in status.stdout
    assert "hole PSNR" in status.stdout, status.stderr  # in a process that does not have the file
