"""Fill photographs on a page in the browser: paint over what is to go.

Open, drop or paste a photograph, paint over what is to disappear, and press Fill. Masks can be uploaded, grown,
shrunk and inverted, fills compared with the photograph and taken back. The download is a PNG in which every pixel that
was not painted over is the photograph's, with its bit depth and colour profile, turned as its EXIF says; or, of a JPEG,
a JPEG with its EXIF, in which all pixels are written anew.

The page is for browsers of this machine alone; from another one, use a tunnel: ssh -L 8000:localhost:8000 HOST. It
asks nobody but this server for anything. Fills are made one at a time; others wait in a queue whose length they see.

--host lets other machines in. Whoever reaches that address can then use the page and this machine's time, without a
password, and whoever can read the network on the way sees the photographs, for nothing is encrypted: use it only where
all are trusted. A page of another site is still refused.

examples:
  inpaint demo
  inpaint demo --model runs/quickstart
  inpaint demo --model ORG/NAME --device cuda --port 8080
  inpaint demo --host 0.0.0.0
"""

from __future__ import annotations

import argparse

from inpaint.included import INCLUDED, name_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    of_model = "a run directory, its generator/, or a Hub id; without it the small one that comes with inpaint"
    add("--model", default=INCLUDED, metavar="DIR_OR_ID", help=of_model)
    add("--revision", help="branch, tag or commit of a model on the Hub")
    add("--device", default="auto", help="auto (default: CUDA, else MPS, else CPU), cuda, mps or cpu")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="of this machine; 0.0.0.0 is all; default: %(default)s")
    add("--port", type=int, metavar="N", help="0 is any free one; default: 8000, or any free one if it is in use")
    add("--max-upload-mb", type=float, default=64, metavar="N", help="of a photo and its mask; default: %(default)g")
    add("--max-megapixels", type=float, default=64, metavar="N", help="of a photo; default: %(default)g")


def run(args: argparse.Namespace) -> int:
    from inpaint.web import require_web, serve

    require_web("inpaint demo")
    from inpaint.demo.page import DemoPage, Limits
    from inpaint.pipeline import InpaintingPipeline
    from inpaint.training.saved_generator import load_generator

    limits = Limits(args.max_upload_mb, args.max_megapixels)
    pipeline, name = InpaintingPipeline(load_generator(args.model, args.revision), args.device), name_of(args.model)

    def announce(address: str) -> None:
        print(f"filling with {name} on {pipeline.device}")
        print(f"open {address} (Ctrl-C stops)", flush=True)

    serve(DemoPage(pipeline, name, limits, args.host).app(), args.port, announce, args.host)
    print("\nstopped")
    return 0
