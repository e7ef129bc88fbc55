"""DDP and every ZeRO stage compute the same bits on CPUs, and any number of processes the same numbers."""

from __future__ import annotations

import json
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from recording import divided_zero3
from running import CONFIGS, ENGINES, ROOT, differences, train
from torch import Tensor

from inpaint.models import feature_network
from inpaint.resolve import preset_names

WORKER = ROOT / "tests" / "engines_worker.py"


class Shape(NamedTuple):
    preset: str
    flags: dict[str, Any]

    def __str__(self) -> str:
        return " ".join([self.preset, *(f"{key.split('.')[-1]}={value}" for key, value in self.flags.items())])


def shape(width: int, batch: int, preset: str = "paper/original", **model: Any) -> Shape:
    flags = {"model.width": width, "training.global_batch_size": batch}
    return Shape(preset, flags | {f"model.{key}": value for key, value in model.items()})


# Through a network that no engine knows of.
FROZEN = {"loss.terms": {"frozen_features": 1.0}} if find_spec(feature_network.PACKAGE) else {}
# Differentiated twice, in two of four steps.
PENALISED = {"loss.terms": {"r1": 0.5, "r2": 0.5}, "loss.penalty_every": 2}
ADVERSARY = Shape(
    "paper/original",
    {"model.width": 4, "training.global_batch_size": 8, "model.discriminator": "patch", "model.norm": "none"}
    | {"model.generator": "smooth_prior", "loss.objective": "hinge", "loss.judged_region": "hole"}
    | PENALISED,
)
# With the mask as a channel, one image and one channel, layers must not choose another kernel by how a tensor lies.
SHAPES = [
    (Shape("quickstart", {}), "zero2"),
    (Shape("paper/original", shape(2, 2).flags | FROZEN), "zero3"),
    (Shape("paper/original", shape(4, 8, mask_channel=True, norm="none").flags | FROZEN), "zero1"),
    (shape(6, 6, "paper/global-average-pooling", norm="group"), "zero2"),
    (ADVERSARY, "zero1"),
    (ADVERSARY, "zero2"),
]
MORE = [
    *(shape(4, 8, preset, mask_channel=mask) for preset, mask in product(preset_names(), (False, True))),
    *(
        shape(width, batch, norm=norm, mask_channel=mask)
        for (width, batch), norm, mask in product(
            [(2, 4), (4, 2), (4, 32), (6, 10), (10, 64), (24, 6)], ["batch", "group", "none"], [False, True]
        )
    ),
    Shape("quickstart", {}),
    Shape("quickstart", {"data.image_size": 32}),
    Shape("quickstart", {"data.image_size": 128, "training.global_batch_size": 4}),
    Shape("quickstart", {"model.norm": "group", "loss.reconstruction_region": "hole"}),
]


def trained(
    folder: Path, runs: list[tuple[Shape, str | None]], phases: list[int], processes: int = 2
) -> list[dict[str, dict[str, Tensor]]]:
    """The tensors that each run of a shape under an engine (None: DDP) ends with."""
    files = {engine: str(CONFIGS / f"deepspeed_{engine}.json") for engine in ENGINES} | {"zero3": divided_zero3(folder)}
    scenarios = [
        {
            "name": str(number),
            "preset": shape.preset,
            "flags": shape.flags,
            "phases": phases,
            "engine": engine and files[engine],
        }
        for number, (shape, engine) in enumerate(runs)
    ]
    (folder / "scenarios.json").write_text(json.dumps(scenarios))
    arguments = (folder, folder / "scenarios.json")
    train(*arguments, processes=processes, engine=runs[0][1], script=WORKER, timeout_s=3_000).ok()
    return [torch.load(folder / f"{number}.pt") for number in range(len(runs))]


def apart(folder: Path, runs: list[tuple[Shape, str]], phases: list[int]) -> dict[str, dict[str, float]]:
    """For each run the files that differ from DDP's, and by how much."""
    shapes = {str(shape): shape for shape, _ in runs}
    plain = dict(zip(shapes, trained(folder, [(shape, None) for shape in shapes.values()], phases), strict=True))
    found = {}
    for (shape, engine), tensors in zip(runs, trained(folder, list(runs), phases), strict=True):
        found[f"{shape} {engine}"] = {file: by for file, by in differences(plain[str(shape)], tensors).items() if by}
    return {run: files for run, files in found.items() if files}


def test_engines_agree_in_every_bit_whatever_the_shape(tmp_path: Path) -> None:
    assert apart(tmp_path, SHAPES, [1, 3, 2, 3]) == {}


@pytest.mark.soak
@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree_in_every_bit_for_every_preset_and_many_shapes(engine: str, tmp_path: Path) -> None:
    assert apart(tmp_path, [(shape, engine) for shape in MORE], [1, 2, 3, 1, 3, 3]) == {}


@pytest.mark.soak
@pytest.mark.parametrize("shape", [Shape("quickstart", {}), shape(4, 8), shape(6, 8, norm="group")], ids=str)
def test_one_two_and_four_processes_agree_to_a_billionth_in_float64(shape: Shape, tmp_path: Path) -> None:
    run, phases = (Shape(shape.preset, shape.flags | {"training.precision": "float64"}), None), [1, 2, 3, 3] * 5
    one, *others = (trained(tmp_path, [run], phases, processes)[0] for processes in (1, 2, 4))
    by_size = [differences(one, other) for other in others]
    print(shape, by_size)
    assert max(by for files in by_size for by in files.values()) < 1e-9
