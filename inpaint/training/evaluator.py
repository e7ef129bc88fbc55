"""Owns how a run is judged while it trains and at its end: held-out figures, the sample grid, the final report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from inpaint.config import Config
from inpaint.data.decoded import DecodedSplit
from inpaint.distributed.runtime import Runtime
from inpaint.errors import InpaintError
from inpaint.evaluation.baselines import BASELINES, Fill, mean_fill
from inpaint.evaluation.features import frechet_distance, windows
from inpaint.evaluation.grid import sample_grid
from inpaint.evaluation.metrics import HOLE_PSNR, VARIETY, Filled, Metric, all_metrics, composite_u8, to_u8
from inpaint.evaluation.table import means, metric_sums, no_sums
from inpaint.models.feature_network import NUM_FEATURES, FeatureNetwork, require_feature_network
from inpaint.sources.keys import Split
from inpaint.training.final_report import final_report, newest_grid
from inpaint.training.run_directory import EVALUATION, REPORT, RunDirectory

# Pixels filled and measured at once: what the paper's networks keep of so many takes about 0.7 GiB.
_PIXELS_AT_ONCE = 2**20
MEAN_FILL = "mean_fill_hole_psnr"


def distance_network(config: Config, device: torch.device | str = "cpu") -> FeatureNetwork | None:
    """What `evaluation.best_by` = distance measures with; UsageError if it is not installed."""
    if config.evaluation.best_by != "distance":
        return None
    return require_feature_network("evaluation.best_by = distance", "set it to hole_psnr or last", device)


class Evaluator:
    """Evaluates a generator on images it was not trained on; always the same ones, with the same holes.

    Every process calls each method alike and measures its share.
    """

    def __init__(self, runtime: Runtime, images: dict[Split, DecodedSplit], config: Config) -> None:
        self.runtime, self.images, self.config = runtime, images, config
        by_area = _PIXELS_AT_ONCE // config.data.image_size**2
        self.at_once = max(1, min(by_area, runtime.micro_batch_size))
        self.network = distance_network(config, runtime.device)
        self._mean_fill: dict[str, float] | None = None

    def validate(self, generator: nn.Module, stopped: Callable[[], bool]) -> dict[str, float] | None:
        """The mean figures on `evaluation.num_pictures` of the validation split; None if `stopped` said so."""
        split = self.images["validation"]
        num = min(self.config.evaluation.num_pictures, len(split.pixels))
        chosen = _spread(len(split.pixels), num)
        if self._mean_fill is None:  # what later figures are held against, measured once
            self._mean_fill = self._measure(
                mean_fill, split, chosen, stopped, torch.device("cpu"), {MEAN_FILL: HOLE_PSNR}
            )
            if self._mean_fill is None:
                return None
        metrics = {**all_metrics(), "variety": VARIETY}
        figures = self._measure(
            self._fill(generator), split, chosen, stopped, self.runtime.device, metrics, self.network
        )
        return None if figures is None else figures | self._mean_fill

    def save_samples(self, generator: nn.Module, run: RunDirectory, epoch: int) -> Image.Image | None:
        """samples/epoch_NNNN.png: the same validation images after each epoch; the main process returns the grid."""
        split = self.images["validation"]
        chosen = _spread(len(split.pixels), min(self.config.evaluation.num_samples, len(split.pixels)))
        image = torch.from_numpy(split.pixels[chosen]).permute(0, 3, 1, 2)
        mask = split.masks(chosen)
        masked = image * (mask < 0.5)
        fill, device = self._fill(generator), self.runtime.device
        parts = zip(masked.split(self.at_once), mask.split(self.at_once), strict=True)
        output = torch.cat([fill(part.float().div(255).to(device), its.to(device)).cpu() for part, its in parts])
        if not self.runtime.is_main:
            return None
        shown = [image, masked, to_u8(output), composite_u8(output, image, mask)]
        grid, png = sample_grid(*[tensor.byte().permute(0, 2, 3, 1).numpy() for tensor in shown]), BytesIO()
        grid.save(png, "PNG")
        run.write(f"samples/epoch_{epoch:04d}.png", png.getvalue(), "the sample grid")
        return grid

    def finish(
        self, generator: nn.Module, run: RunDirectory, facts: dict[str, Any], stopped: Callable[[], bool]
    ) -> str | None:
        """Measure on the whole test split beside the classical baselines; write the report.

        It is returned on the main process, "" on the others; None if `stopped` said so.
        """
        split = self.images["test"]
        everything = np.arange(len(split.pixels))
        rows = {}
        # The baselines too are shared out: on one process a large split would keep the others waiting past their limit.
        for method, fill in {**BASELINES, "generator": self._fill(generator)}.items():
            device = self.runtime.device if method == "generator" else torch.device("cpu")
            if (figures := self._measure(fill, split, everything, stopped, device)) is None:
                return None
            rows[method] = figures
        if not self.runtime.is_main:
            return ""
        shown = {name: metric.description() for name, metric in all_metrics().items()}
        evaluation = {"split": "test", "num_pictures": len(split.pixels), "metrics": shown, "rows": rows, **facts}
        health = run.health()
        evaluation["health"] = [verdict.name for verdict in health]
        report = final_report(run.path.name, evaluation, self.config.model_dump(), health) + newest_grid(run.path)
        run.write(EVALUATION, (json.dumps(evaluation, indent=1) + "\n").encode())
        run.write(REPORT, report.encode())
        return report

    def _measure(
        self,
        fill: Fill,
        split: DecodedSplit,
        chosen: NDArray[np.int64],
        stopped: Callable[[], bool],
        device: torch.device,
        metrics: Mapping[str, Metric] | None = None,
        network: FeatureNetwork | None = None,
    ) -> dict[str, float] | None:
        """The figures of `chosen` images, with a `network` their distance; InpaintError in all if a metric fails."""
        sums, world, failure = no_sums(metrics), self.runtime.world_size, ""
        features = torch.zeros(2, len(chosen), NUM_FEATURES if network is not None else 0, dtype=torch.float64)
        for start in range(0, len(chosen), self.at_once * world):
            if stopped():
                return None
            chunk = chosen[start : start + self.at_once * world]
            mine = chunk[self.runtime.rank :: world]
            # ZeRO-3 gathers the weights in each call, so all processes call equally often; some for an image too many.
            seen = mine if len(mine) else chunk[:1]
            filled = Filled.by(fill, split.pixels[seen], split.masks(seen), device)
            try:
                if len(mine) and not failure:
                    sums += metric_sums(filled, metrics)
            except InpaintError as error:
                failure = str(error)
            if len(mine) and network is not None:
                own = slice(start + self.runtime.rank, start + len(chunk), world)
                for place, images in enumerate((filled.image, filled.composite)):
                    features[place, own] = network(windows(images, filled.hole) / 255).cpu().double()
        for failed in self.runtime.others_than("", failure).values():
            raise InpaintError(failed)
        figures = means(self.runtime.reduce_sum(sums), metrics)
        if network is not None:
            figures["distance"] = frechet_distance(*self.runtime.reduce_sum(features))
        return figures

    def _fill(self, generator: nn.Module) -> Fill:
        dtype = self.runtime.dtype

        @torch.no_grad()
        def fill(masked_image: Tensor, mask: Tensor) -> Tensor:
            was_training = generator.training
            generator.eval()
            try:
                return generator(masked_image.to(dtype), mask.to(dtype)).float()
            finally:
                generator.train(was_training)

        return fill


def _spread(num: int, count: int) -> NDArray[np.int64]:
    """`count` indices spread evenly over `num`, so that all classes of a sorted split are seen."""
    return np.linspace(0, num - 1, count).round().astype(np.int64)
