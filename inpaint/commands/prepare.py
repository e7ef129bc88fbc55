"""Make a training dataset of images: small squares without people or duplicates, with splits and fixed holes.

SRC is the Places365 "easyformat" folder, a tar of it (read without unpacking), any folder of images, or a dataset on
the Hub that has a column of images. If it is stopped, the same command continues. Started several times, on one
machine or on many that see the same --out, it shares the work, and who finishes last writes the dataset. On several
GPUs: accelerate launch -m inpaint prepare ...

examples:
  inpaint prepare --source places365_standard/ --out data/landscapes --people-filter darknet \\
      --darknet-cfg yolov3.cfg --darknet-weights yolov3.weights
  inpaint prepare --source photos.tar --out data/photos --people-filter transformers --push-to ORG/NAME
  inpaint prepare --check data/photos
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from inpaint.errors import InpaintError, UsageError

EXIT_STOPPED = 130

if TYPE_CHECKING:
    from inpaint.prepare.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source", metavar="SRC", help="a folder, tar, zip, or ORG/NAME[:CONFIG][@REVISION] on the Hub"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write the dataset; an empty or new folder")
    parser.add_argument(
        "--check", metavar="DIR_OR_ID", help="check whether a dataset can be trained on, and say what is wrong"
    )
    parser.add_argument("--size", type=int, default=64, metavar="PX", help="side of the images (default: %(default)s)")
    parser.add_argument(
        "--classes", metavar="FILE|all", help="default: 50 natural classes of a Places365 tree, all of any other source"
    )
    parser.add_argument(
        "--resplit", action="store_true", help="ignore the splits of the source and split the images anew"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="for a first look: only N images, spread evenly over the source"
    )
    grey = "leave out images as grey whose channels differ by less than this on average, of 255; 0 keeps all "
    grey += "(default: %(default)s)"
    parser.add_argument("--grey-steps", type=float, default=2.5, metavar="STEPS", help=grey)
    people = parser.add_argument_group("people")

    def add(*flags: str, dest: str, **more: Any) -> None:
        """A field of `PeopleFilter`, which has the default."""
        people.add_argument(*flags, dest=dest, default=argparse.SUPPRESS, **more)

    add("--people-filter", dest="kind", metavar="KIND", help="none (default), darknet, onnx, transformers")
    add("--person-threshold", dest="threshold", type=float, metavar="SCORE", help="default: 0.3")
    area = "ignore boxes smaller than this share of the image"
    add("--person-min-area", dest="min_area", type=float, metavar="SHARE", help=area)
    add("--person-class", dest="class_name", metavar="NAME", help="what to find (default: person)")
    add("--darknet-cfg", dest="cfg", type=Path, metavar="FILE", help="such as yolov3.cfg")
    add("--darknet-weights", dest="weights", type=Path, metavar="FILE", help="such as yolov3.weights")
    add("--onnx", dest="onnx", type=Path, metavar="FILE", help="such as yolox_nano.onnx")
    names = "the detector's classes; default: coco.names next to its file"
    add("--detector-names", "--darknet-names", dest="names", type=Path, metavar="FILE", help=names)
    side = "side of the detector's input (default: the cfg's, else 416)"
    add("--detector-size", "--darknet-size", dest="input_px", type=int, metavar="PX", help=side)
    add("--detector", dest="model", metavar="ID[@REVISION]", help="the checkpoint for transformers")
    work = parser.add_argument_group("work")
    work.add_argument("--workers", type=int, metavar="N", help="number of processes; the result does not depend on it")
    chunk = "images that a worker does at a time (default: %(default)s)"
    work.add_argument("--chunk-images", "--chunk-pictures", type=int, default=500, metavar="N", help=chunk)
    work.add_argument("--push-to", metavar="ORG/NAME", help="publish the finished dataset there")
    work.add_argument("--private", action="store_true", help="if the repository is new, make it private")


def run(args: argparse.Namespace) -> int:
    if args.check is not None:
        return _check(args.check)
    if args.source is None or args.out is None:
        raise UsageError("give --source SRC and --out DIR, or --check DIR_OR_ID")
    if args.push_to is not None and args.push_to.count("/") != 1:
        raise UsageError(f"--push-to is {args.push_to!r}; it must be ORG/NAME")
    with _interrupted_once():
        try:
            _prepare(args)
        except KeyboardInterrupt:
            line = "inpaint prepare: stopped; what is done so far is kept: the same command goes on"
            print(line, file=sys.stderr, flush=True)
            return EXIT_STOPPED
    return 0


def _prepare(args: argparse.Namespace) -> None:
    from inpaint.prepare.people import PeopleFilter
    from inpaint.prepare.run import Options, is_finished, prepare

    given = vars(args)
    people = PeopleFilter(**{field.name: given[field.name] for field in fields(PeopleFilter) if field.name in given})
    options = {field.name: given[field.name] for field in fields(Options) if field.name in given}
    told = Options(**options, people=people)
    plan = prepare(told)
    if plan is not None:
        _report(plan, args.out)
    if args.push_to is not None and (plan is not None or is_finished(told)):
        push(args.out, args.push_to, args.private)


@contextmanager
def _interrupted_once() -> Iterator[None]:
    """SIGTERM is Ctrl-C, and of both only the first counts: a launcher passes on what the terminal has sent already."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals do not reach it
        return
    numbers, is_stopped = (signal.SIGINT, signal.SIGTERM), False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopped
        if not is_stopped:
            is_stopped = True
            raise KeyboardInterrupt

    # What a shell has had ignored, as it does for a job in its background, stays so.
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        if not is_stopped:  # else the process is about to end
            for number, handler in before.items():
                signal.signal(number, handler)


def push(folder: Path, repo_id: str, private: bool) -> None:
    """Publish a finished dataset; what is on the Hub already is not sent again."""
    from huggingface_hub import HfApi

    from inpaint.hub.push import limit_waiting, retried

    limit_waiting()
    api, trouble = HfApi(), f"the dataset is complete in {folder}, but could not be pushed to {repo_id}"
    retried(lambda: api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True), trouble)
    ours = ["data/*.parquet", "README.md", "*.csv", "figure.png"]
    commit = retried(
        lambda: api.upload_folder(
            repo_id=repo_id,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=ours,
            delete_patterns=["data/*.parquet"],
            commit_message="Dataset prepared by inpaint",
        ),
        f"{trouble}; the same command continues",
    )
    print(f"pushed to {commit.repo_url}")


def _report(plan: Plan, out: Path) -> None:
    counts = plan.counts()
    splits = ", ".join(f"{split} {len(images)}" for split, images in plan.order.items())
    dropped = ", ".join(f"{num} {reason}" for reason, num in counts.items() if num and reason != "kept")
    print(f"{out}: {counts['kept']} of {counts.total()} images kept ({splits}); left out: {dropped or 'none'}")
    if num_alike := len(plan.alike()):
        print(f"{num_alike} of them are near-duplicates, such as crops of one image: see {out}/alike.csv")
    if num_straddling := plan.num_straddling():
        print(f"{num_straddling} near-duplicates are in different splits, as in the source; --resplit splits it anew")
    for split, images in plan.order.items():
        if not len(images):
            print(f"there is no image in {split}: training needs all three splits; prepare more images")
    print(f"{out}/.prepare may be deleted; as long as it exists, another --person-threshold needs no new detection")


def _check(name: str) -> int:
    from inpaint.prepare.check import faults

    found = faults(name)
    for fault in found:
        print(f"- {fault}")
    if found:
        raise InpaintError(f"{name} cannot be trained on as it is: {len(found)} fault(s), listed above")
    print(f"{name} can be trained on")
    return 0
