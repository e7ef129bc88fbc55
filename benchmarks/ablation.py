"""What each step from the losses of `paper/final` to those of `landscape-64` is worth, at equal images seen.

    python -m benchmarks.ablation --data PHOTOS/ --runs DIR [--epochs 3] [--width 16] [--seeds 0 1 2]

Each row changes one thing of the row above; all have one width, batches of 16, one optimizer and average. The first and
the last are trained with each seed, the others with the first. Figures are of the validation split with one rectangular
hole each; `distance` needs `inpaint[features]`. Runs that are there are resumed, or read where they are finished.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMON: dict[str, Any] = {
    "data": {"holes": "resampled", "flip": True},
    "model": {},
    "optimizer": {
        "generator_learning_rate": 8e-4,
        "discriminator_learning_rate": 4e-4,
        "beta1": 0.5,
        "beta2": 0.99,
        "schedule": "late_linear",
    },
    "ema": {"half_life_kimg": 2.0},
    "training": {"global_batch_size": 16, "phases": [0.2, 0.5, 0.3], "log_every": 50},
    "evaluation": {"best_by": "last", "num_pictures": 64},
    "loss": {"reconstruction_weight": 10.0, "adversarial_weight": 1.0},
}
SHARP: dict[str, Any] = {"reconstruction_weight": 0.0, "terms": {"hole_l1": 6.0, "area_l1": 2.0}}
STEPS: list[tuple[str, dict[str, dict[str, Any]]]] = [
    ("losses of `paper/final`", {}),
    (
        "the generator sees the mask, the discriminator the composite",
        {"model": {"mask_channel": True, "discriminator_input": "composite"}},
    ),
    ("both networks in every step", {"training": {"phases": [0.0, 0.0, 1.0]}}),
    ("patch discriminator", {"model": {"discriminator": "patch"}}),
    ("hinge", {"loss": {"objective": "hinge"}}),
    ("patches judged in the hole", {"loss": {"judged_region": "hole"}}),
    ("absolute errors in the hole, the adversary weighs 0.1", {"loss": {**SHARP, "adversarial_weight": 0.1}}),
    ("feature matching", {"loss": {"terms": {**SHARP["terms"], "feature_matching": 10.0}}}),
    ("smooth prior, with skips", {"model": {"generator": "smooth_prior"}}),
    (
        "the adversary comes after 0.3 of the run, and rises: `landscape-64`",
        {"training": {"phases": [0.3, 0.0, 0.7], "phases_per": "run"}, "loss": {"adversarial_warmup_kimg": 3.0}},
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", required=True, type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in arguments.seeds:
        settings = COMMON
        for number, (label, change) in enumerate(STEPS):
            settings = {name: {**settings[name], **change.get(name, {})} for name in settings}
            if seed == arguments.seeds[0] or number in (0, len(STEPS) - 1):
                rows.setdefault(label, []).append(_figures(settings, arguments, number, seed))
                print(_row(label, rows[label]), file=sys.stderr, flush=True)
    print("| each row changes one thing of the row above | hole PSNR | sharpness | distance |")
    print("| --- | ---: | ---: | ---: |", *(_row(*row) for row in rows.items()), sep="\n")


def _figures(settings: dict[str, Any], arguments: argparse.Namespace, number: int, seed: int) -> dict[str, float]:
    """Of one run, trained or taken from where it stands."""
    run = arguments.runs / f"{number:02d}-seed{seed}"
    config = arguments.runs / f"{number:02d}-seed{seed}.json.yaml"
    arguments.runs.mkdir(parents=True, exist_ok=True)
    training = {**settings["training"], "epochs": arguments.epochs, "seed": seed, "precision": arguments.precision}
    model = {**settings["model"], "width": arguments.width}
    config.write_text(json.dumps({**settings, "training": training, "model": model}))
    train = [sys.executable, "-m", "inpaint.training", "--config", str(config), "--data.path", arguments.data]
    subprocess.run([*train, "--run-dir", str(run)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    result = run / "validation" / "evaluation.json"
    if not result.exists():
        judge = [sys.executable, "-m", "inpaint", "evaluate", "--model", str(run), "--data", arguments.data]
        judge += ["--split", "validation", "--out", str(result.parent)]
        subprocess.run(judge, check=True, stdout=subprocess.DEVNULL)
    return json.loads(result.read_text())["methods"][str(run)]["figures"]


def _row(label: str, runs: list[dict[str, float]]) -> str:
    def cell(name: str, decimals: int) -> str:
        values = [its[name] for its in runs]
        spread = f" ± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{decimals}f}{spread}"

    return f"| {label} | {cell('hole_psnr', 2)} | {cell('sharpness', 3)} | {cell('distance', 0)} |"


if __name__ == "__main__":
    main()
