"""Fill the white part of a mask in an image, or in thousands.

IMAGE is a file, or several: folders, patterns such as 'photos/**/*.jpg', files. MASK is one mask for all, or a folder:
then an image and a mask belong together if their names without the extension are the same, and files without a partner
are listed and skipped. Pixels outside the mask stay exactly as they are, also with 16 bits, so save as PNG: a JPEG
changes all of them a little. What a format cannot hold (16 bits, transparency) is refused. The fill itself has a
precision of 8 bits. EXIF and resolution are kept where the format has them (JPEG, PNG, WebP, TIFF), but for the maker's
note and the thumbnail, which would show what was filled. A photograph without colour gets a fill without.

Transparent parts of a mask count as black. A mask that covers more than 90% of an image is filled and warned about.
Of a file with several frames or pages the first is filled, and that is said.

Of several images, those whose result is there and newer than image and mask are not filled again, so that the same
command resumes (--overwrite fills all). What cannot be filled is named and passed over; the exit code is then 1.

Of a generator that was trained by reconstruction first and with an adversary afterwards, --fidelity chooses between
the two: from 0 (sharp; the default) to 1 (closest to the truth on average, and blurred).

What is larger than the images that the generator was trained on is filled hole by hole: each is seen in a square around
it, scaled down to their size, and what is lost by that is copied from around the hole (--no-detail leaves it smooth).
--strategy whole shows the generator the whole image at its own size instead; it can then only fill holes of about the
size that it was trained on, in pixels.

examples:
  inpaint fill photo.jpg --mask mask.png -o filled.png
  inpaint fill photos/ --mask masks/ -o filled/ --model ORG/NAME --device cuda --precision bf16
  inpaint fill photos/ --mask logo.png -o filled/ --resize-mask
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from inpaint.errors import InpaintError, UsageError
from inpaint.fidelity import require_fidelity
from inpaint.included import INCLUDED
from inpaint.photographs.how import STRATEGIES, How

if TYPE_CHECKING:
    from inpaint.filling.files import Files
    from inpaint.images.job import FillJob
    from inpaint.pipeline import InpaintingPipeline

PRECISIONS = ("float32", "bf16", "fp16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", nargs="+", metavar="IMAGE", help="images, folders of images, patterns")
    parser.add_argument(
        "--mask", type=Path, required=True, help="white where to fill, as large as the image; or a folder of them"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="a file, whose extension sets the format; or folder/ (PNG)"
    )
    parser.add_argument(
        "--model",
        metavar="DIR_OR_ID",
        default=INCLUDED,
        help="a run directory, its generator/, or a Hub id; without it the small one that comes with inpaint",
    )
    parser.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    parser.add_argument(
        "--fidelity", type=float, metavar="F", help="from 0, sharp (default), to 1, closest to the truth on average"
    )
    parser.add_argument(
        "--strategy", default="auto", metavar="S", help=f"{', '.join(STRATEGIES)}: see above (default: auto)"
    )
    parser.add_argument(
        "--detail", action=argparse.BooleanOptionalAction, default=True, help="copy detail from around a hole (default)"
    )
    parser.add_argument(
        "--grow-mask-px",
        type=int,
        default=0,
        metavar="N",
        help="make the hole N pixels larger all around (default: 0); 2 to 10 if a rim of what is to go is left",
    )
    parser.add_argument("--device", default="auto", help="auto (default: CUDA, else MPS, else CPU), cuda, mps or cpu")
    parser.add_argument("--resize-mask", action="store_true", help="scale a mask of another size to the image's")
    parser.add_argument("--invert-mask", action="store_true", help="fill where the mask is black")
    parser.add_argument("--overwrite", action="store_true", help="of several images, fill again what is there already")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of the convolutions; bf16 is for GPUs"
    )
    parser.add_argument("--compile", action="store_true", help="let torch.compile make code for this machine first")


def run(args: argparse.Namespace) -> int:
    require_fidelity(args.fidelity)
    how = How(args.strategy, args.detail, args.grow_mask_px)

    from inpaint.filling.files import all_of, is_pattern, one_of, prepare_folder

    is_one = len(args.image) == 1 and not is_pattern(args.image[0]) and not Path(args.image[0]).is_dir()
    if is_one:
        jobs = [one_of(Path(args.image[0]), args.mask, args.output)]
    else:
        jobs = all_of(args.image, args.mask, args.output)
    inputs = {path.resolve() for job in jobs for path in (job.image, job.mask)}
    for job in jobs:
        if job.output.resolve() in inputs:
            raise UsageError(f"the output {job.output} is one of the inputs; give another place")
    left = jobs if is_one or args.overwrite else [job for job in jobs if not job.is_done]
    if num_done := len(jobs) - len(left):
        print(f"{num_done} of {len(jobs)} images are filled already; --overwrite fills them again", file=sys.stderr)
    if not left:
        return 0
    prepare_folder(left[0].output.parent)

    from inpaint.pipeline import InpaintingPipeline
    from inpaint.training.saved_generator import load_generator

    generator = load_generator(args.model, args.revision, args.fidelity)
    pipeline = InpaintingPipeline(generator, args.device, precision=args.precision, is_compiled=args.compile)
    if is_one:
        return _fill_one(left[0], pipeline, how, args)
    return _fill_many(left, pipeline, how, args)


def _fill_one(job: Files, pipeline: InpaintingPipeline, how: How, args: argparse.Namespace) -> int:
    from inpaint.images.writing import save

    (filled,) = pipeline.fill_jobs([_read(job, how, args)], how)
    save(filled, job.output)
    if told := filled.told:
        print(f"inpaint fill: warning: {job.image}: {told}", file=sys.stderr)
    print(f"filled: {job.output}")
    return 0


def _fill_many(jobs: list[Files], pipeline: InpaintingPipeline, how: How, args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from inpaint.filling.many import fill_many

    num_failed = 0
    # The rate is the mean since the start, for images come in bursts: some are filled together.
    with tqdm(total=len(jobs), unit="image", smoothing=0, miniters=1) as bar:
        for result in fill_many(
            jobs, lambda job: _read(job, how, args), lambda read: pipeline.fill_jobs(read, how), ended=bar.update
        ):
            if result.error is not None:
                num_failed += 1
                tqdm.write(f"{result.files.image}: {result.error}", file=sys.stderr)
            elif result.warning is not None:
                tqdm.write(f"inpaint fill: warning: {result.files.image}: {result.warning}", file=sys.stderr)
    if num_failed:
        raise InpaintError(f"{num_failed} of {len(jobs)} images could not be filled; see above")
    print(f"filled {len(jobs)} image{'s' * (len(jobs) > 1)}: {args.output}")
    return 0


def _read(job: Files, how: How, args: argparse.Namespace) -> FillJob:
    from inpaint.files import require_replaceable
    from inpaint.images.job import FillJob

    require_replaceable(job.output)
    return FillJob.of(job.image, job.mask, args.resize_mask, args.invert_mask).grown(how.grow_mask_px)
