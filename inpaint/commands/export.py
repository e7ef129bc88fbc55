"""Write a generator as a file that runs without PyTorch.

--format onnx writes one file for onnxruntime and everything else that reads ONNX. It takes `image` (uint8 [B, H, W, 3])
and `mask` (uint8 [B, H, W], 128 or more where to fill) of any size and gives `filled`, in which pixels outside the mask
are those of the image: examples/fill_onnx.py fills a photograph with it in ten lines. The image is seen at its own
size, as by `inpaint fill --strategy whole`. Before it is kept, the file has filled images of several sizes as PyTorch
does, to 1 of 255. Needs pip install 'inpaint[onnx]'.

examples:
  inpaint export runs/quickstart --format onnx -o model.onnx
  inpaint export ORG/NAME --format onnx -o model.onnx --fidelity 0.5
"""

from __future__ import annotations

import argparse
from pathlib import Path

from inpaint.errors import InpaintError, UsageError
from inpaint.fidelity import require_fidelity
from inpaint.tables import load

# What writes each format: called with the generator, the path and the precision; InpaintError is its word of failure.
FORMATS = {"onnx": "inpaint.exports.onnx_file:write_onnx"}
PRECISIONS = ("float32", "fp16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR_OR_ID", help="a run directory, its generator/, or a Hub id")
    parser.add_argument("--format", choices=FORMATS, required=True, help="what to write")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="where to write it")
    parser.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    parser.add_argument(
        "--fidelity", type=float, metavar="F", help="from 0, sharp (default), to 1, closest to the truth on average"
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of weights and sums; fp16 halves the file"
    )


def run(args: argparse.Namespace) -> int:
    require_fidelity(args.fidelity)
    if args.output.is_dir():
        raise UsageError(f"the output {args.output} is a folder; give a file, such as {args.output / 'model.onnx'}")
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InpaintError(f"cannot create the folder {args.output.parent}: {error.strerror}") from error

    from inpaint.training.saved_generator import load_generator

    write = load(FORMATS, args.format)
    write(load_generator(args.model, args.revision, args.fidelity), args.output, args.precision)
    print(f"written: {args.output} ({args.output.stat().st_size / 1e6:.1f} MB)")
    return 0
