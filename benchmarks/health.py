"""Whether `inpaint.training.health` calls runs what they are: some made ill on purpose, and sound ones.

Each run takes up to a minute on one thread; all stay in runs/health/, and the same command goes on where it was. The
bounds of the verdicts were fixed on `TUNING` with the seeds 0 and 1; what is told here is of other settings and seeds.
What counts is the first verdict after the last epoch, and in the sound runs those after every epoch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import inpaint
from benchmarks.measuring import Figure
from inpaint.config import Config
from inpaint.data.synthetic.landscapes import render
from inpaint.files import read_json_lines
from inpaint.models.generator import GeneratorConfig
from inpaint.tables import GENERATORS
from inpaint.training.health import BLURRED, COLLAPSED, CONVERGING, DIVERGING, ILL, SATURATED, judge
from inpaint.training.metrics_file import is_evaluation
from inpaint.training.run_directory import METRICS

RUNS = Path("runs", "health")
SEEDS = (17, 18, 19, 20, 21)
SIZE, NUM_COPIES = 32, 600

Settings = dict[str, Any]

# Holes of half the image's side, in which a squared error alone gives a clear blur.
COMMON: Settings = {
    "data.image_size": SIZE,
    "data.holes": "resampled",
    "data.hole_min_px": 16,
    "data.hole_max_px": 20,
    "data.window_px": 24,
    "data.synthetic_train": 1024,
    "data.synthetic_held_out": 128,
    "model.mask_channel": True,
    "training.epochs": 6,
    "training.global_batch_size": 16,
    "training.log_every": 8,
    "training.num_threads": 1,
    "evaluation.num_pictures": 128,
    "evaluation.best_by": "last",
}
DISCRIMINATOR, GENERATOR = "optimizer.discriminator_learning_rate", "optimizer.generator_learning_rate"
TUNING: Settings = COMMON | {
    "model.width": 16,
    "model.discriminator_input": "composite",
    "loss.reconstruction_weight": 100.0,
    GENERATOR: 1e-3,
    DISCRIMINATOR: 2e-4,
    "training.phases": (0.5, 0.1, 0.4),
}
# What is made ill: the paper's networks and losses, narrower and with more weight on the reconstruction.
PAPER: Settings = COMMON | {
    "model.width": 12,
    "loss.reconstruction_weight": 50.0,
    GENERATOR: 7e-4,
    DISCRIMINATOR: 2e-4,
    "training.phases": (0.4, 0.2, 0.4),
}
# What is sound.
HINGE: Settings = COMMON | {
    "model.discriminator_input": "composite",
    "model.generator": "smooth_prior",
    "model.discriminator": "patch",
    "model.width": 8,
    "loss.reconstruction_weight": 0.0,
    "loss.objective": "hinge",
    "loss.judged_region": "hole",
    "loss.terms": {"hole_l1": 6.0, "feature_matching": 10.0},
    GENERATOR: 8e-4,
    DISCRIMINATOR: 4e-4,
    "optimizer.beta2": 0.99,
    "optimizer.schedule": "late_linear",
    "ema.half_life_kimg": 1.0,
    "training.phases": (0.0, 0.0, 1.0),
    "training.epochs": 8,
}
RELATIVISTIC: Settings = HINGE | {"loss.objective": "relativistic"}


EVERY = slice(None)
COPIES = RUNS / "copies_of_one_image"


@dataclass(frozen=True)
class Kind:
    """Runs of one kind: the verdicts that are right, the settings, and which of the seeds."""

    name: str
    expected: tuple[str, ...]
    settings: Settings
    seeds: slice


def kinds(settings: Settings = PAPER, sound: Sequence[Settings] = (HINGE, RELATIVISTIC)) -> list[Kind]:
    """What is tried: made ill from `settings`, and `sound` as it is."""
    faster = {name: 1000 * settings[name] for name in (DISCRIMINATOR, GENERATOR)}
    behind = {GENERATOR: 1e-6, DISCRIMINATOR: 5 * settings[DISCRIMINATOR], "model.generator": "smooth_prior"}
    made_ill: list[tuple[str, tuple[str, ...], Settings, slice]] = [
        # It saturates, or guesses; then the fills are as blurred as without it.
        ("discriminator's rate x 50", (SATURATED, BLURRED), {DISCRIMINATOR: 50 * settings[DISCRIMINATOR]}, EVERY),
        # What has diverged may give one image for all from then on.
        ("both rates x 1000", (DIVERGING, COLLAPSED), faster, EVERY),
        ("no adversarial loss", (BLURRED,), {"loss.adversarial_weight": 0.0}, EVERY),
        ("a generator of one image", (COLLAPSED,), {"model.generator": "one_image"}, slice(0, 3)),
        ("a dataset of one image", (COLLAPSED,), {"data.path": str(COPIES)}, slice(3, None)),
        ("a generator that falls behind", (SATURATED,), behind, EVERY),
    ]
    return [
        *(Kind(name, expected, {**settings, **changes}, seeds) for name, expected, changes, seeds in made_ill),
        *(Kind(f"sound, {its.get('loss.objective', 'bce')}", (CONVERGING,), its, EVERY) for its in sound),
    ]


class OneImage(nn.Module):
    """A generator that learns one image and gives it for every input."""

    multiple_px = 1
    inference_bytes_per_px = 60

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.image = nn.Parameter(torch.zeros(3, SIZE, SIZE))

    def forward(self, masked_image: Tensor, mask: Tensor) -> Tensor:
        return self.image.sigmoid().expand(len(mask), -1, -1, -1)


def verdicts(kind: Kind, seed: int) -> list[list[str]]:
    """Those after each epoch of a run, which is trained as far as it is not yet."""
    if "data.path" in kind.settings and not COPIES.is_dir():
        write_copies(COPIES)
    run = RUNS / f"{kind.name.replace(' ', '_')}-{seed}"
    with patch.dict(GENERATORS, one_image=f"{__name__}:OneImage"):
        outcome = inpaint.train(Config(), run, {**kind.settings, "training.seed": seed}).outcome
    if outcome != "finished":
        raise SystemExit(f"{run}: {outcome}; the same command goes on")
    lines, _ = read_json_lines(run / METRICS)
    ends = [number for number, line in enumerate(lines, 1) if is_evaluation(line)]
    return [[verdict.name for verdict in judge(lines[:end])] for end in ends]


def write_copies(folder: Path) -> None:
    """The same landscape under many names."""
    image, beside = Image.fromarray(render(0, np.array([3]), 2 * SIZE)[0]), folder.with_name(f".{folder.name}")
    beside.mkdir(parents=True, exist_ok=True)
    for number in range(NUM_COPIES):
        image.save(beside / f"{number:04d}.png")
    beside.rename(folder)


def run(seeds: Sequence[int] = SEEDS) -> list[Figure]:
    figures = []
    for kind in kinds():
        after = [verdicts(kind, seed) for seed in seeds[kind.seeds]]
        if not after:
            continue
        last = [names[-1] for names in after]
        told = Counter(names[0] for names in last)
        num_right = sum(names[0] in kind.expected for names in last)
        note = "told: " + ", ".join(f"{name} {num}" for name, num in told.most_common())
        if beside := Counter(name for names in last for name in names[1:]):
            note += "; beside it: " + ", ".join(f"{name} {num}" for name, num in beside.most_common())
        if kind.expected == (CONVERGING,):
            wrong = sum(bool(ILL & {*names}) for run in after for names in run)
            note += f"; alarms after {wrong} of {sum(map(len, after))} epochs"
        figures.append(Figure(f"{kind.name}: {' or '.join(kind.expected)}", num_right, f"of {len(after)}", note=note))
    return figures
