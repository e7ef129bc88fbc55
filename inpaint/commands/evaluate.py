"""Measure how good generators are: on held-out images, beside classical methods or another system's fills.

Figures are of the 8-bit composite and of the raw output: PSNR, SSIM, L1, sharpness, and with `inpaint[features]` a
Fréchet distance, P-IDS and U-IDS; of all images, by class and by the hole's area, with 95% intervals. They are written
to `evaluation.json` and `evaluation.md`, with grids of the best, median and worst images. Under `accelerate launch`
the images are shared out, and the figures are the same to the last bit.

Another system's fills are images of the right size in a folder, found by name: by the path in the data, or by the
file's name where that is unique.

examples:
  inpaint evaluate --model runs/quickstart --baselines
  inpaint evaluate --model runs/mine --model ORG/NAME --data photos/ --holes mixed:7
  inpaint evaluate --fills their_fills/ --model runs/mine --data photos/ --holes masks/
  accelerate launch --num_processes 4 -m inpaint evaluate --model runs/mine --data ORG/DATASET
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inpaint.commands import judged
from inpaint.errors import UsageError
from inpaint.fidelity import require_fidelity

if TYPE_CHECKING:
    from inpaint.evaluation.measure import Method

TIMEOUT_S = 1800.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", action="append", default=[], metavar="DIR_OR_ID", help="a run, its generator/, or a Hub id; repeat")
    add(
        "--fills",
        action="append",
        default=[],
        metavar="DIR",
        help="a folder of another system's fills; may be repeated",
    )
    add("--baselines", action="store_true", help="also mean fill, Telea and Navier-Stokes")
    add("--features", metavar="FILE", help="EfficientNet-lite0's file, where inpaint[features] is not installed")
    add("--out", type=Path, metavar="DIR", help="default: evaluation/ in the run directory, else here")
    judged.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from inpaint.processes import rank_and_world_size

    rank, world_size = rank_and_world_size()
    if world_size == 1:
        return _evaluate(args)
    try:
        return _evaluate(args)
    except BaseException as error:  # noqa: BLE001 - the others may wait for this process: it ends here, in one line
        from inpaint.distributed.store import tell

        code = 2 if isinstance(error, UsageError) else 130 if isinstance(error, KeyboardInterrupt) else 1
        tell(rank, world_size, f"evaluate: {' '.join(str(error).split()) or type(error).__name__}", code)
        if args.debug:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _evaluate(args: argparse.Namespace) -> int:
    import torch.distributed as dist

    from inpaint.distributed.collectives import Collectives, meet
    from inpaint.distributed.signals import die_with_launcher
    from inpaint.evaluation import result
    from inpaint.evaluation.baselines import BASELINES
    from inpaint.evaluation.measure import Measuring
    from inpaint.evaluation.metrics import all_metrics, output_metrics
    from inpaint.evaluation.summary import summarise
    from inpaint.models.feature_network import load_feature_network
    from inpaint.processes import num_threads_here, start_prefix

    if not (args.model or args.fills or args.baselines):
        raise UsageError("nothing to evaluate: give --model, --fills or --baselines")
    given = [*args.model, *args.fills]
    if twice := {name for name in given if given.count(name) > 1}:
        raise UsageError(f"{min(twice)} is given twice")
    require_fidelity(args.fidelity)
    die_with_launcher()
    start_prefix(begin=True)
    collectives = Collectives(meet(TIMEOUT_S))
    device = _device(args.device, collectives.world_size)
    network = load_feature_network(args.features, device)
    generators = judged.load_generators(args.model, args.image_size, args.fidelity)
    size = judged.size_for(args.image_size, generators)
    folder = args.out or next(
        (Path(name) / "evaluation" for name in args.model if judged.is_run(name)), Path("evaluation")
    )
    if collectives.is_main:
        result.make_folder(folder)
    subject = judged.open_subject(args, size, collectives)

    methods: dict[str, Method] = {name: judged.always(its.to(device)) for name, its in generators.items()}
    for name in args.fills:
        methods[name] = judged.fills_in(name, subject)
    compared = list(methods)
    methods |= {name: judged.always(fill) for name, fill in BASELINES.items()} if args.baselines else {}

    metrics = all_metrics() | output_metrics()
    measuring = Measuring(subject, metrics, network, collectives, device, num_threads_here())
    truth = measuring.features_of_truth()
    measured = {name: measuring.measure(name, method) for name, method in methods.items()}
    collectives.barrier()
    if collectives.world_size > 1:
        dist.destroy_process_group()
    if not collectives.is_main:
        return 0
    digests = subject.digests()
    facts: dict[str, Any] = {
        "data": {
            "source": args.data or judged.SYNTHETIC,
            "split": args.split,
            "image_size": size,
            "num_images": len(subject),
            "sha256": digests["data"],
        },
        "holes": {"given": args.holes, "sha256": digests["holes"]},
        "models": {name: {"sha256": judged.digest_of(its)} for name, its in generators.items()},
        "versions": result.versions(),
        "not_available": result.not_available(network is not None, len(subject)),
    }
    summary = summarise(subject, metrics, measured, truth, compared)
    text = result.tables(facts, summary, metrics)
    result.write_grids(folder, measuring, methods, measured, compared)
    result.write_result(folder, text, facts, summary, metrics, compared)
    print(f"{text}\n\nwritten: {folder / result.MARKDOWN}, with {result.JSON} and grids beside it")
    return 0


def _device(name: str, world_size: int) -> Any:
    import torch

    from inpaint.distributed.collectives import device_type
    from inpaint.pipeline import find_device

    if name == "auto" and world_size > 1:
        name = device_type(world_size)
        if name == "cuda":
            name = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return find_device(name)
