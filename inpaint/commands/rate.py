"""Have people judge fills from 1 to 10, or tell them from photographs, on a page in the browser.

Every MODEL is a run, its generator/, an id on the Hub, or a folder of another system's fills; the fills are those that
`inpaint evaluate` judges with the same options. They are shown blind: in an order that is random over the models, and a
function of --seed and the rater's name alone. Answers are kept in an SQLite file, each on the disk before the next
image is shown; raters stop and go on as they like, several at a time, each under a name of their own. --results prints
means with 95% intervals, the raters' agreement, and how well each metric agrees with them.

The page is for browsers of this machine alone; from another one, use a tunnel: ssh -L 8000:localhost:8000 HOST.

examples:
  inpaint rate runs/a runs/b --data photos/
  inpaint rate runs/a their_fills/ --data photos/ --holes mixed:7 --num-images 20 --ratings mixed.sqlite
  inpaint rate --results ratings.sqlite
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from inpaint.commands import judged
from inpaint.errors import InpaintError, UsageError
from inpaint.fidelity import require_fidelity

if TYPE_CHECKING:
    from inpaint.rating.answers import Mode
    from inpaint.rating.gallery import Gallery


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("models", nargs="*", metavar="MODEL", help="a run, its generator/, a Hub id, or a folder of fills")
    add("--results", type=Path, metavar="FILE", help="print what the answers in FILE come to; nothing is served")
    add("--ratings", type=Path, default=Path("ratings.sqlite"), metavar="FILE", help="default: %(default)s")
    add("--num-images", type=int, default=30, metavar="N", help="of each mode, drawn by the seed; default: %(default)s")
    add("--seed", type=int, default=0, metavar="N", help="of the images and their order; default: %(default)s")
    add("--baselines", action="store_true", help="also mean fill, Telea and Navier-Stokes")
    add("--port", type=int, metavar="N", help="0 is any free one; default: 8000, or any free one if it is in use")
    judged.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.results is not None:
        if args.models:
            raise UsageError("--results prints what a file of ratings says, and takes no models")
        return _print_results(args.results)
    if not (args.models or args.baselines):
        raise UsageError("nothing to rate: give models, or folders of fills")
    if twice := {name for name in args.models if args.models.count(name) > 1}:
        raise UsageError(f"{min(twice)} is given twice")
    if args.num_images < 1:
        raise UsageError(f"--num-images is {args.num_images}; it must be at least 1")
    require_fidelity(args.fidelity)
    from inpaint.web import require_web

    require_web("inpaint rate")
    return _serve(args)


def _print_results(path: Path) -> int:
    from inpaint.rating.answers import Answers
    from inpaint.rating.results import results
    from inpaint.rating.tables import text

    found = results(path)
    with Answers(path) as answers:
        facts = answers.facts()
    print(text(found, facts))
    return 0


def _serve(args: argparse.Namespace) -> int:
    from inpaint.rating.answers import Answers
    from inpaint.rating.page import RatingPage
    from inpaint.web import serve

    # Opened first, for a damaged file is to be known before anything is filled.
    with Answers(args.ratings, do_create=True) as answers:
        gallery, images, models = _open(args)
        answers.begin(_facts(args, gallery), models, gallery.fills)
        both = set(images["score"]) & set(images["photograph"])

        def announce(address: str) -> None:
            print(f"rating {', '.join(models)} on {len(images['score'])} images; answers are kept in {args.ratings}")
            if both:
                print(f"{len(both)} images are in both parts: `Which one is the photograph?` is to be done first")
            print(f"open {address} (Ctrl-C stops)", flush=True)

        serve(RatingPage(gallery, images, args.seed, answers).app(), args.port, announce)
        num = len(answers.of("score")) + len(answers.of("photograph"))
    print(f"\nstopped; {num} answers are in {args.ratings}: inpaint rate --results {args.ratings}")
    return 0


def _open(args: argparse.Namespace) -> tuple[Gallery, dict[Mode, list[str]], dict[str, str]]:
    """The gallery, the images of each mode, and the digest of every model."""
    from inpaint.distributed.collectives import Collectives, meet
    from inpaint.evaluation.baselines import BASELINES
    from inpaint.evaluation.measure import Measuring
    from inpaint.evaluation.metrics import all_metrics
    from inpaint.pipeline import find_device
    from inpaint.processes import num_threads_here, rank_and_world_size
    from inpaint.rating.gallery import digest_of_fills, fill_all, image_keys
    from inpaint.rating.order import choose

    if rank_and_world_size(do_meet=False)[1] > 1:
        raise UsageError("inpaint rate is one process: start it without a launcher")
    folders = [name for name in args.models if _holds_fills(name)]
    device = find_device(args.device)
    names = [name for name in args.models if name not in folders]
    generators = judged.load_generators(names, args.image_size, args.fidelity)
    collectives = Collectives(meet(60.0))
    subject = judged.open_subject(args, judged.size_for(args.image_size, generators), collectives)
    methods = {name: judged.always(its.to(device)) for name, its in generators.items()}
    models = {name: judged.digest_of(its) for name, its in generators.items()}
    measuring = Measuring(subject, all_metrics(), None, collectives, device, num_threads_here())
    for name in folders:
        methods[name] = judged.fills_in(name, subject)
        models[name] = digest_of_fills(measuring, methods[name])
    if args.baselines:
        methods |= {name: judged.always(fill) for name, fill in BASELINES.items()}
        models |= dict.fromkeys(BASELINES, "")
    images = choose(image_keys(subject), args.seed, args.num_images)
    wanted = dict.fromkeys([*images["score"], *images["photograph"]])
    return fill_all(measuring, methods, list(wanted)), images, models


def _facts(args: argparse.Namespace, gallery: Gallery) -> dict[str, str]:
    """What must not change while a file of ratings is used, by flag."""
    size = len(next(iter(gallery.originals.values())))
    facts = {"--data": _place(args.data or judged.SYNTHETIC), "--split": args.split, "--holes": _place(args.holes)}
    facts |= {"--image-size": str(size), "--seed": str(args.seed)}
    return facts | ({} if args.limit is None else {"--limit": str(args.limit)})


def _place(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).exists() else name


def _holds_fills(name: str) -> bool:
    """Whether it is a folder of images, as against a run or a saved generator; InpaintError for other folders."""
    from inpaint.images.pixels import IMAGE_SUFFIXES

    folder = Path(name)
    if not folder.is_dir() or judged.is_run(name) or (folder / "config.json").is_file():
        return False
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.rglob("*")):
        return True
    raise InpaintError(f"{name} holds no run, no saved generator and no fills; give one of them, or an id on the Hub")
