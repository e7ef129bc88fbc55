"""Runs that tests/distributed_worker.py trains, many in one start of the processes, and what their ranks wrote down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from running import CONFIGS, WORKER, train, weights
from torch import Tensor

# The networks that a step of each phase trains.
TRAINED = {1: ["generator"], 2: ["discriminator"], 3: ["generator", "discriminator"]}


@dataclass(frozen=True)
class Recorded:
    """What the ranks of one run wrote down."""

    folder: Path
    name: str

    @cached_property
    def ranks(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob(f"{self.name}.rank*.json"))]

    @property
    def steps(self) -> list[tuple[dict[str, Any], ...]]:
        """By step, what each rank saw of it."""
        return list(zip(*(rank["steps"] for rank in self.ranks), strict=True))

    @property
    def losses(self) -> list[dict[str, float]]:
        """By step, the mean over ranks of each loss and score; the norm of a gradient is the same on all."""
        return [
            {name: sum(rank["terms"][name] for rank in ranks) / len(ranks) for name in ranks[0]["terms"]}
            for ranks in self.steps
        ]

    @property
    def weights(self) -> dict[str, dict[str, Tensor]]:
        return weights(self.folder / self.name)

    def moved_another(self) -> list[dict[str, Any]]:
        """The steps that moved a gradient, weight or statistic of a network they do not train, or left gradients."""
        return [
            step
            for ranks in self.steps
            for step in ranks
            if any(step["left_over"].values())
            or step["other_gradient_moved"]
            or step["moved"] != TRAINED[step["phase"]]
        ]

    def reduced_otherwise(self, micro_batches: int = 1) -> list[dict[str, Any]]:
        """The steps, of a run under DDP, that reduced more or less than each gradient of the networks they train, once,
        after the last of the `micro_batches`."""
        return [
            step
            for rank in self.ranks
            for step in rank["steps"]
            for network, events in step["bytes"].items()
            if events[:micro_batches] != ["micro batch"] * micro_batches * (network in TRAINED[step["phase"]])
            or sum(events[micro_batches:]) != rank["num_bytes"][network] * (network in TRAINED[step["phase"]])
        ]


def record(
    folder: Path, config: str | Path, scenarios: list[dict[str, Any]], processes: int, timeout_s: float = 3000
) -> Path:
    """Train the `scenarios`, each under its own engine, on top of a preset or config file in one start."""
    (folder / "scenarios.json").write_text(json.dumps(scenarios))
    how = {"processes": processes, "script": WORKER, "timeout_s": timeout_s}
    train("record", folder, config, folder / "scenarios.json", **how).ok()
    return folder


def divided_zero3(folder: Path, **settings: Any) -> str:
    """A DeepSpeed file of ZeRO-3 in `folder`. Networks as narrow as a test's would be kept whole by the one that users
    have; under this one all of their weights are divided."""
    divided = json.loads((CONFIGS / "deepspeed_zero3.json").read_text())
    divided["zero_optimization"] |= {"stage3_param_persistence_threshold": 0, **settings}
    path = folder / f"{'_'.join(['zero3', *settings])}.json"
    path.write_text(json.dumps(divided))
    return str(path)
