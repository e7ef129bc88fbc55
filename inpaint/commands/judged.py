"""What commands that judge fills share: the options that say which fills and images these are, and opening them."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inpaint.errors import UsageError

if TYPE_CHECKING:
    from inpaint.distributed.collectives import Collectives
    from inpaint.evaluation.measure import Method
    from inpaint.evaluation.subject import Subject
    from inpaint.models.generator import Generator

DEFAULT_SIZE_PX = 64
NUM_SYNTHETIC = 1024
SYNTHETIC = "synthetic landscapes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", metavar="DIR_OR_ID", help="as training's data.path; default: synthetic landscapes")
    add("--split", choices=("train", "validation", "test"), default="test", help="default: %(default)s")
    add(
        "--holes",
        default="stored",
        metavar="stored|KIND:SEED|DIR",
        help="default: the data's own; KIND is one of data.hole_kinds, `mixed`, or weights such as "
        "'{strokes: 2, blobs: 1}'; or a folder of masks",
    )
    add("--limit", type=int, metavar="N", help="only the first N images of the split")
    add("--image-size", type=int, metavar="PX", help="side of the images; default: the model's, else 64")
    add("--fidelity", type=float, metavar="F", help="of the models, as inpaint fill takes it: 0 (default) to 1")
    add("--device", default="auto", help="auto (default: CUDA, else MPS, else CPU), cuda, mps or cpu")


def load_generators(names: list[str], asked: int | None, fidelity: float | None) -> dict[str, Generator]:
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


def size_for(asked: int | None, generators: dict[str, Generator]) -> int:
    """The side of the images, which every generator can fill; UsageError where one cannot."""
    size = asked or next((its.config.image_size for its in generators.values()), None) or DEFAULT_SIZE_PX
    multiples = {name: its.multiple_px for name, its in generators.items()}
    if size < 16 or (odd := [name for name, px in multiples.items() if size % px]):
        why = "at least 16" if size < 16 else f"divisible by {multiples[odd[0]]}, for {odd[0]}"
        raise UsageError(f"--image-size is {size}; it must be {why}")
    return size


def open_subject(args: argparse.Namespace, size: int, collectives: Collectives) -> Subject:
    """The images of the split, with their holes; UsageError where `--limit` leaves none."""
    from inpaint.data.decoded import SyntheticSpec, open_images
    from inpaint.distributed.store import once_each
    from inpaint.evaluation.subject import subject_of
    from inpaint.holes.spec import HoleSpec
    from inpaint.sources.keys import SPLITS
    from inpaint.sources.opening import open_source

    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit is {args.limit}; it must be at least 1")
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


def always(fill: Any) -> Method:
    """One fill for all images."""
    return lambda chosen: fill


def fills_in(folder: str, subject: Subject) -> Method:
    """Another system's, from a folder."""
    from inpaint.evaluation.subject import read_fills

    return partial(_given, read_fills(Path(folder), subject))


def digest_of(generator: Generator) -> str:
    """SHA-256 of the names and values of all weights."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(generator.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def is_run(name: str) -> bool:
    return any((Path(name) / part).is_dir() for part in ("checkpoints", "generator"))


def _given(read: Any, chosen: Any) -> Any:
    return lambda masked_image, mask: read(chosen).to(masked_image.device)
