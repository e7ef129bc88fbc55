"""Write a generator as what runs without PyTorch: a file, or a page for the browser.

--format onnx writes one file for onnxruntime and everything else that reads ONNX. It takes `image` (uint8 [B, H, W, 3])
and `mask` (uint8 [B, H, W], 128 or more where to fill) of any size and gives `filled`, in which pixels outside the mask
are those of the image: examples/fill_onnx.py fills a photograph with it in ten lines. The image is seen at its own
size, as by `inpaint fill --strategy whole`. Before it is kept, the file has filled images of several sizes as PyTorch
does, to 1 of 255.

--format web writes the page of `inpaint demo` as a folder that any static host serves, such as `python -m http.server`:
the network runs in the visitor's browser, offline too, and no photograph leaves it. It fills as `inpaint fill
--no-detail` does. What runs it, 14 MB of onnxruntime-web, is fetched by npm the first time; on a machine without npm
give it as --runtime. `inpaint push FOLDER --space ORG/NAME` publishes the folder.

Both need pip install 'inpaint[onnx]'.

examples:
  inpaint export runs/quickstart --format onnx -o model.onnx
  inpaint export ORG/NAME --format onnx -o model.onnx --fidelity 0.5
  inpaint export --format web -o page/
  inpaint export runs/quickstart --format web -o page/ --runtime onnxruntime-web-1.30.0.tgz
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from inpaint.errors import InpaintError, UsageError
from inpaint.fidelity import require_fidelity
from inpaint.included import INCLUDED

FORMATS = ("onnx", "web")
PRECISIONS = ("float32", "fp16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    of_model = "a run directory, its generator/, or a Hub id; without it the small one that comes with inpaint"
    parser.add_argument("given", nargs="?", metavar="DIR_OR_ID", help=of_model)
    parser.add_argument("--model", metavar="DIR_OR_ID", help="the same, as other commands take it")
    parser.add_argument("--format", choices=FORMATS, required=True, help="what to write")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the file, or the new folder")
    parser.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    parser.add_argument(
        "--fidelity", type=float, metavar="F", help="from 0, sharp (default), to 1, closest to the truth on average"
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of weights and sums; fp16 halves the file (onnx)"
    )
    parser.add_argument(
        "--runtime",
        type=Path,
        metavar="PACKAGE",
        help="folder or .tgz of the npm package onnxruntime-web 1.30.0 (web); default: fetched by npm, and kept",
    )


def run(args: argparse.Namespace) -> int:
    require_fidelity(args.fidelity)
    if args.given is not None and args.model is not None:
        raise UsageError(f"two models are given, {args.given} and --model {args.model}; give one")
    model = args.given or args.model or INCLUDED
    return _web(args, model) if args.format == "web" else _onnx(args, model)


def _onnx(args: argparse.Namespace, model: str | Path) -> int:
    if args.runtime is not None:
        raise UsageError("--runtime is for --format web")
    from inpaint.files import require_replaceable

    if args.output.is_dir():
        raise UsageError(f"the output {args.output} is a folder; give a file, such as {args.output / 'model.onnx'}")
    require_replaceable(args.output)
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InpaintError(f"cannot create the folder {args.output.parent}: {error.strerror}") from error

    from inpaint.exports.onnx_file import write_onnx
    from inpaint.training.saved_generator import load_generator

    write_onnx(load_generator(model, args.revision, args.fidelity), args.output, args.precision, _say)
    print(f"written: {args.output} ({args.output.stat().st_size / 1e6:.1f} MB)")
    return 0


def _web(args: argparse.Namespace, model: str | Path) -> int:
    if args.precision != "float32":
        raise UsageError(f"--precision is {args.precision}; browsers compute in float32: leave it out for --format web")

    from inpaint.exports.web_folder import require_room, write_web
    from inpaint.training.saved_generator import load_generator

    require_room(args.output)  # before the time that the rest takes
    generator = load_generator(model, args.revision, args.fidelity)
    write_web(generator, args.output, model, args.revision, args.fidelity, args.runtime, _say)
    size = sum(path.stat().st_size for path in args.output.iterdir())
    print(f"written: {args.output} ({size / 1e6:.1f} MB)")
    print(f"look at it: python -m http.server --bind 127.0.0.1 --directory {args.output}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
