"""What `inpaint evaluate` is made of: fills and masks by name, the processes' shares, intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inpaint.errors import InpaintError
from inpaint.evaluation.measure import Measured, Measuring
from inpaint.evaluation.metrics import all_metrics
from inpaint.evaluation.subject import Subject, by_name
from inpaint.evaluation.summary import RESAMPLES, SEED, summarise


def test_bootstrap_intervals_are_those_of_a_loop_and_pairs_share_their_resamples() -> None:
    random = np.random.default_rng(5)
    metrics, num = {"sharpness": all_metrics()["sharpness"]}, 30
    rows = torch.from_numpy(random.random((num, 2)))
    worse = rows.clone()
    worse[:, 0] += 1
    nothing = torch.empty(num, 0)
    subject = Subject(np.zeros((num, 16, 16, 3), np.uint8), [""] * num, ["a"] * num, np.ones((num, 32), np.uint8))
    measured = {"one": Measured(rows, nothing), "two": Measured(worse, nothing)}
    summary = summarise(subject, metrics, measured, nothing, ["one", "two"])
    generator = np.random.default_rng(SEED)
    figures = []
    for _ in range(RESAMPLES):
        drawn = rows[torch.from_numpy(generator.integers(0, num, num))]
        figures.append((drawn[:, 0].sum() / drawn[:, 1].sum()).item())
    interval = summary.methods["one"]["intervals"]["sharpness"]
    assert interval == pytest.approx(np.percentile(figures, (2.5, 97.5)).tolist())
    (difference,) = summary.differences
    assert difference["figures"]["sharpness"] == pytest.approx(-num / rows[:, 1].sum().item())
    low, high = difference["intervals"]["sharpness"]
    assert low < difference["figures"]["sharpness"] < high
    assert summary.methods["one"]["groups"]["class a"]["intervals"]["sharpness"] == interval


class Share:
    """One of two processes; what it would add to the other's is seen."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size, self.is_main = rank, world_size, False

    def reduce_sum(self, value: torch.Tensor) -> torch.Tensor:
        return value


def test_each_process_fills_its_own_images_and_the_sum_is_the_whole_to_the_last_bit() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (70, 16, 16, 3), dtype=np.uint8)
    packed = random.integers(0, 256, (70, 32), dtype=np.uint8)
    subject = Subject(pixels, [""] * 70, [""] * 70, packed)
    network = torch.nn.Conv2d(3, 3, 3, padding=1)
    seen: list[int] = []

    def method(chosen: NDArray[np.int64]) -> Any:
        seen.extend(chosen.tolist())
        return lambda masked_image, mask: network(masked_image).sigmoid()

    def rows(rank: int, world_size: int, num_threads: int) -> torch.Tensor:
        share: Any = Share(rank, world_size)
        measuring = Measuring(subject, all_metrics(), None, share, torch.device("cpu"), num_threads)
        return measuring.measure("a network", method).rows

    whole = rows(0, 1, 3)
    assert sorted(seen) == list(range(70))
    seen.clear()
    parts = [rows(rank, 2, 1) for rank in (0, 1)]
    assert sorted(seen) == list(range(70))
    assert torch.equal(parts[0] + parts[1], whole)
    assert not (parts[0].any(1) & parts[1].any(1)).any()


def test_a_file_name_that_two_images_share_names_neither(tmp_path: Path) -> None:
    sources, labels = ["test/coast/1.png", "test/forest/1.png", "2"], ["coast", "forest", ""]
    for name in ("1.png", "2.webp"):
        (tmp_path / name).touch()
    with pytest.raises(InpaintError, match=r"2 of 3 images have no fill there: test/coast/1, test/forest/1"):
        by_name(tmp_path, sources, labels, "fill")
    for name in ("coast/1.png", "test/forest/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    found = by_name(tmp_path, sources, labels, "fill")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["coast/1.png", "test/forest/1.jpg", "2.webp"]
