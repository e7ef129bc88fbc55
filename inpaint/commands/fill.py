"""Fill the white part of a mask in an image, or in every image of a folder.

IMAGE and MASK are two files or two folders. In folders, an image and a mask belong together if their names without the
extension are the same; files without a partner are listed and skipped. Pixels outside the mask stay exactly as they
are, also with 16 bits, so save as PNG: a JPEG changes all of them a little. What a format cannot hold (16 bits,
transparency) is refused. The fill itself has a precision of 8 bits.

Of a generator that was trained by reconstruction first and with an adversary afterwards, --fidelity chooses between
the two: from 0 (sharp; the default) to 1 (closest to the truth on average, and blurred).

What is larger than the images that the generator was trained on is filled hole by hole: each is seen in a square around
it, scaled down to their size, and what is lost by that is copied from around the hole (--no-detail leaves it smooth).
--strategy whole shows the generator the whole image at its own size instead; it can then only fill holes of about the
size that it was trained on, in pixels.

examples:
  inpaint fill photo.jpg --mask mask.png -o filled.png
  inpaint fill photos/ --mask masks/ -o filled/ --model ORG/NAME --device cuda
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from inpaint.errors import InpaintError, InpaintWarning, UsageError
from inpaint.fidelity import require_fidelity
from inpaint.included import INCLUDED
from inpaint.photographs.how import STRATEGIES, How

if TYPE_CHECKING:
    from PIL import Image

    from inpaint.images.job import Filled

# Of the formats that lose something unless they are told otherwise.
OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True, "exact": True}}


class Job(NamedTuple):
    """Three files: what to fill, where, and where to put it."""

    image: Path
    mask: Path
    output: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE", help="an image, or a folder of images")
    parser.add_argument(
        "--mask", type=Path, required=True, help="white where to fill, as large as the image; or a folder of masks"
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


def run(args: argparse.Namespace) -> int:
    require_fidelity(args.fidelity)
    how = How(args.strategy, args.detail, args.grow_mask_px)
    is_folder, output = args.image.is_dir(), Path(args.output)
    if not is_folder and args.output.endswith(("/", os.sep)):
        output = output / f"{args.image.stem}.png"
    jobs = folder_jobs(args.image, args.mask, output) if is_folder else [file_job(args.image, args.mask, output)]
    inputs = {path.resolve() for job in jobs for path in (job.image, job.mask)}
    for job in jobs:
        if job.output.resolve() in inputs:
            raise UsageError(f"the output {job.output} is one of the inputs; give another place")
    for folder in {job.output.parent for job in jobs}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InpaintError(f"cannot create the folder {folder}: {error.strerror}") from error

    from tqdm import tqdm

    from inpaint.pipeline import InpaintingPipeline
    from inpaint.training.saved_generator import load_generator

    pipeline = InpaintingPipeline(load_generator(args.model, args.revision, args.fidelity), args.device)
    num_failed = 0
    for job in tqdm(jobs, unit="image", disable=not is_folder):
        try:
            with warnings.catch_warnings(record=True, action="always", category=InpaintWarning) as warned:
                filled = pipeline.fill(job.image, job.mask, **asdict(how), resize_mask=args.resize_mask)
        except InpaintError as error:
            if not is_folder:
                raise
            num_failed += 1
            tqdm.write(f"{job.image.name}: {error}", file=sys.stderr)
        else:
            save(filled, job.output)
            nothing = "the mask is all black (its largest value is 0, white is 255): nothing was filled"
            for told in [warning.message for warning in warned] + [nothing] * (filled.num_filled == 0):
                tqdm.write(f"inpaint fill: warning: {job.image}: {told}", file=sys.stderr)
    if num_failed:
        raise InpaintError(f"{num_failed} of {len(jobs)} images could not be filled; see above")
    print(f"filled {len(jobs)} images: {args.output}" if is_folder else f"filled: {jobs[0].output}")
    return 0


def file_job(image: Path, mask: Path, output: Path) -> Job:
    """The job for one image; if `output` is a folder, the result goes there as PNG under the image's name."""
    if not image.is_file():
        raise InpaintError(f"there is no image or folder {image}")
    if mask.is_dir():
        raise UsageError(f"{image} is a file and {mask} a folder: give two files or two folders")
    if not mask.is_file():
        raise InpaintError(f"there is no mask {mask}")
    if output.is_dir():
        output = output / f"{image.stem}.png"
    _format_of(output)
    return Job(image, mask, output)


def folder_jobs(images: Path, masks: Path, output: Path) -> list[Job]:
    """A job for every image of a folder that has a mask of the same name; the others are listed on stderr."""
    if not masks.is_dir():
        raise UsageError(f"{images} is a folder and the mask {masks} is not: give two files or two folders")
    if output.exists() and not output.is_dir():
        raise UsageError(f"the output {output} is a file; for a folder of images it must be a folder")
    image_of, mask_of = _by_stem(images), _by_stem(masks)
    paired = sorted(image_of.keys() & mask_of)
    if not paired:
        raise InpaintError(
            f"no image in {images} ({len(image_of)}) has the name of a mask in {masks} ({len(mask_of)}); names are "
            "compared without the extension"
        )
    for missing, lonely in (("mask", image_of.keys() - mask_of), ("image", mask_of.keys() - image_of)):
        if lonely:
            print(f"skipped, no {missing} of the same name: {', '.join(sorted(lonely))}", file=sys.stderr)
    return [Job(image_of[stem], mask_of[stem], output / f"{stem}.png") for stem in paired]


def save(filled: Filled, path: Path) -> None:
    """Write an image in the format of the path's extension, whole or not at all."""
    from inpaint.images import deep

    part = path.with_name(f".{path.name}.part")
    kind = _format_of(path)
    try:
        if filled.pixels.dtype == "uint16" and filled.pixels.ndim == 3:
            deep.write(part, kind, filled.pixels, filled.icc_profile)
        else:
            image = filled.to_image()
            image.save(part, kind, icc_profile=filled.icc_profile, **OPTIONS.get(kind, {}))
            if kind != "JPEG" and not _holds(part, image):
                raise ValueError(f"{kind} cannot hold an image of this kind ({image.mode}) exactly")
        part.replace(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or f"{error}; PNG can hold every kind of image"
        raise InpaintError(f"cannot write {path}: {reason}") from error
    finally:
        part.unlink(missing_ok=True)


def _holds(path: Path, image: Image.Image) -> bool:
    """Whether reading the file gives exactly the image that was written."""
    from PIL import Image

    with Image.open(path) as back:
        if image.mode.startswith("I"):
            return back.mode == image.mode and back.tobytes() == image.tobytes()
        return back.size == image.size and back.convert(image.mode).tobytes() == image.tobytes()


def _by_stem(folder: Path) -> dict[str, Path]:
    """The images directly in a folder by their names without the extension."""
    from PIL import Image

    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in Image.registered_extensions() or path.name.startswith(".") or not path.is_file():
            continue
        if path.stem in found:
            raise UsageError(f"{found[path.stem]} and {path} have one name but for the extension: rename one")
        found[path.stem] = path
    return found


def _format_of(path: Path) -> str:
    """Pillow's name of the format that the extension stands for; PNG where there is none."""
    from PIL import Image

    kind = Image.registered_extensions().get(path.suffix.lower(), "") if path.suffix else "PNG"
    Image.init()
    if kind not in Image.SAVE:
        raise UsageError(f"no image can be written as {path.suffix!r} ({path}); use .png, .jpg, .webp or .tiff")
    return kind
