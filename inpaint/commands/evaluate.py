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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inpaint.errors import UsageError
from inpaint.fidelity import require_fidelity

if TYPE_CHECKING:
    from inpaint.distributed.collectives import Collectives
    from inpaint.evaluation.measure import Method
    from inpaint.evaluation.subject import Subject
    from inpaint.models.generator import Generator

TIMEOUT_S = 1800.0
DEFAULT_SIZE_PX = 64
NUM_SYNTHETIC = 1024
SYNTHETIC = "synthetic landscapes"


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
    add("--data", metavar="DIR_OR_ID", help="as training's data.path; default: synthetic landscapes")
    add("--split", choices=("train", "validation", "test"), default="test", help="default: %(default)s")
    add(
        "--holes",
        default="stored",
        metavar="stored|KIND:SEED|DIR",
        help="default: the data's own; KIND is one of data.hole_kinds, `mixed`, or weights such as "
        "'{strokes: 2, blobs: 1}'; or a folder of masks",
    )
    add("--image-size", type=int, metavar="PX", help="side of the images; default: the model's, else 64")
    add("--limit", type=int, metavar="N", help="only the first N images of the split")
    add("--features", metavar="FILE", help="EfficientNet-lite0's file, where inpaint[features] is not installed")
    add("--out", type=Path, metavar="DIR", help="default: evaluation/ in the run directory, else here")
    add("--fidelity", type=float, metavar="F", help="of the models, as inpaint fill takes it: 0 (default) to 1")
    add("--device", default="auto", help="auto (default: CUDA, else MPS, else CPU), cuda, mps or cpu")


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
    from inpaint.evaluation.subject import read_fills
    from inpaint.evaluation.summary import summarise
    from inpaint.models.feature_network import load_feature_network
    from inpaint.processes import num_threads_here, start_prefix

    if not (args.model or args.fills or args.baselines):
        raise UsageError("nothing to evaluate: give --model, --fills or --baselines")
    given = [*args.model, *args.fills]
    if twice := {name for name in given if given.count(name) > 1}:
        raise UsageError(f"{min(twice)} is given twice")
    require_fidelity(args.fidelity)
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit is {args.limit}; it must be at least 1")
    die_with_launcher()
    start_prefix(begin=True)
    collectives = Collectives(meet(TIMEOUT_S))
    device = _device(args.device, collectives.world_size)
    network = load_feature_network(args.features, device)
    generators = _load(args.model, args.image_size, args.fidelity)
    size = args.image_size or next((its.config.image_size for its in generators.values()), None) or DEFAULT_SIZE_PX
    _refuse_odd(size, generators)
    folder = args.out or next((Path(name) / "evaluation" for name in args.model if _is_run(name)), Path("evaluation"))
    if collectives.is_main:
        result.make_folder(folder)
    subject = _subject(args, size, collectives)

    methods: dict[str, Method] = {name: _always(its.to(device)) for name, its in generators.items()}
    for name in args.fills:
        methods[name] = partial(_given, read_fills(Path(name), subject))
    judged = list(methods)
    methods |= {name: _always(fill) for name, fill in BASELINES.items()} if args.baselines else {}

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
            "source": args.data or SYNTHETIC,
            "split": args.split,
            "image_size": size,
            "num_images": len(subject),
            "sha256": digests["data"],
        },
        "holes": {"given": args.holes, "sha256": digests["holes"]},
        "models": {name: {"sha256": _digest(its)} for name, its in generators.items()},
        "versions": result.versions(),
        "not_available": result.not_available(network is not None, len(subject)),
    }
    summary = summarise(subject, metrics, measured, truth, judged)
    text = result.tables(facts, summary, metrics)
    result.write_grids(folder, measuring, methods, measured, judged)
    result.write_result(folder, text, facts, summary, metrics, judged)
    print(f"{text}\n\nwritten: {folder / result.MARKDOWN}, with {result.JSON} and grids beside it")
    return 0


def _load(names: list[str], asked: int | None, fidelity: float | None) -> dict[str, Generator]:
    """The generators, all of one image size, and of the one that was asked for; by what they are called in tables."""
    from inpaint.training.saved_generator import load_generator

    suffix = "" if fidelity is None else f" at fidelity {fidelity:g}"
    generators = {f"{name}{suffix}": load_generator(name, fidelity=fidelity) for name in names}
    sizes = {name: its.config.image_size for name, its in generators.items() if its.config.image_size is not None}
    if asked is not None:
        sizes["--image-size"] = asked
    if len(set(sizes.values())) > 1:
        of_each = ", ".join(f"{name}: {size} px" for name, size in sizes.items())
        raise UsageError(
            f"the models and the data are of different sizes ({of_each}): figures of one size say nothing of another; "
            "evaluate models of one size together, and leave --image-size out"
        )
    return generators


def _refuse_odd(size: int, generators: dict[str, Generator]) -> None:
    multiples = {name: its.multiple_px for name, its in generators.items()}
    if size < 16 or (odd := [name for name, px in multiples.items() if size % px]):
        why = "at least 16" if size < 16 else f"divisible by {multiples[odd[0]]}, for {odd[0]}"
        raise UsageError(f"--image-size is {size}; it must be {why}")


def _subject(args: argparse.Namespace, size: int, collectives: Collectives) -> Subject:
    from inpaint.data.decoded import SyntheticSpec, open_images
    from inpaint.distributed.store import once_each
    from inpaint.evaluation.subject import subject_of
    from inpaint.holes.spec import HoleSpec
    from inpaint.sources.keys import SPLITS
    from inpaint.sources.opening import open_source

    # The landscapes of a split are the same however many the others have.
    numbers = [NUM_SYNTHETIC if split == args.split else 1 for split in SPLITS]
    spec = HoleSpec.scaled(size)
    once_a_job, once_a_machine = once_each(collectives.rank, collectives.world_size)
    split = open_images(
        args.data,
        spec,
        cache_dir=None,
        max_bad_fraction=0.05,
        synthetic=SyntheticSpec(numbers[0], numbers[1], numbers[2], seed=0),
        show_progress=collectives.is_main,
        once_a_job=once_a_job,
        once_a_machine=once_a_machine,
    )[args.split]
    labels: dict[str, str] = {}
    if args.data is not None and collectives.is_main:
        wanted = set(map(str, split.sources))
        entries = open_source(args.data).entries(with_data=False)
        labels = {entry.source: entry.label for entry in entries if entry.source in wanted}
    return subject_of(split, collectives.broadcast(labels), args.holes, spec, args.limit)


def _always(fill: Any) -> Method:
    return lambda chosen: fill


def _given(read: Any, chosen: Any) -> Any:
    return lambda masked_image, mask: read(chosen).to(masked_image.device)


def _device(name: str, world_size: int) -> Any:
    import torch

    from inpaint.distributed.collectives import device_type
    from inpaint.pipeline import find_device

    if name == "auto" and world_size > 1:
        name = device_type(world_size)
        if name == "cuda":
            name = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return find_device(name)


def _is_run(name: str) -> bool:
    return any((Path(name) / part).is_dir() for part in ("checkpoints", "generator"))


def _digest(generator: Generator) -> str:
    """SHA-256 of the names and values of all weights."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(generator.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
