"""Publish a run on the Hugging Face Hub, or finish what its training could not push; or a page as a Space.

First everything in the run's queue is pushed, one commit and one tag each, then the run as it is now. What is on the
Hub already is not sent again. The token comes from `hf auth login` or from HF_TOKEN.

--space takes the folder of a page that `inpaint export --format web` wrote, and makes it a static Space: visitors
fill photographs in their own browser, with no server to pay for.

examples:
  inpaint push runs/quickstart --repo-id ORG/NAME --private
  inpaint push runs/quickstart            (to the repository that the run pushed to before)
  inpaint push page/ --space ORG/NAME
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from inpaint.errors import InpaintError, UsageError

LONGEST_TIMEOUT_S = 604_800


def add_arguments(parser: argparse.ArgumentParser) -> None:
    of_what = "a run directory, such as runs/quickstart; with --space, an exported page"
    parser.add_argument("run_dir", type=Path, metavar="RUN", help=of_what)
    parser.add_argument("--space", metavar="ORG/NAME", help="push an exported page as this static Space")
    parser.add_argument(
        "--repo-id", metavar="ORG/NAME", help="default: the repository that the run pushed to, or tried to"
    )
    parser.add_argument("--private", action="store_true", help="if the repository is new, make it private")
    parser.add_argument(
        "--timeout-s", type=float, default=900.0, help="give up after this many seconds (default: %(default)g)"
    )


def run(args: argparse.Namespace) -> int:
    if args.space is not None:
        return _push_space(args)
    from inpaint.files import read_object
    from inpaint.hub.publisher import HubPublisher
    from inpaint.hub.queue import PushQueue

    if not (args.run_dir / "generator" / "config.json").is_file():
        raise UsageError(f"{args.run_dir} cannot be pushed: it has no generator/config.json; give a run directory")
    if not 0 < args.timeout_s <= LONGEST_TIMEOUT_S:  # nan is in no range
        raise UsageError(f"--timeout-s is {args.timeout_s:g}; give seconds, more than 0 and up to {LONGEST_TIMEOUT_S}")
    queue = PushQueue(args.run_dir)
    known = [(s.repo_id, s.private) for s in queue.waiting()] + [
        (line["repo_id"], line["private"]) for line in queue.ledger()
    ]
    hub = read_object(args.run_dir / "config.yaml").get("hub")
    if isinstance(hub, dict) and isinstance(hub.get("repo_id"), str):
        known.append((hub["repo_id"], hub.get("private") is True))
    if args.repo_id is None and not known:
        raise UsageError(f"{args.run_dir} has not been pushed yet: give --repo-id ORG/NAME")
    repo_id = args.repo_id or known[0][0]
    is_private = args.private or (repo_id, True) in known
    publisher = HubPublisher(repo_id, is_private, args.run_dir, show_progress=True)
    print(f"pushing to {repo_id}; giving up after {args.timeout_s:g} s (--timeout-s)", file=sys.stderr, flush=True)
    is_queued = publisher.submit("final" if (args.run_dir / "evaluation.json").exists() else "latest")
    print(publisher.close(args.timeout_s))
    if left := len(queue.waiting()) + (not is_queued):
        raise InpaintError(f"{left} of this run's snapshots could not be pushed; see above")
    return 0


def _push_space(args: argparse.Namespace) -> int:
    from inpaint.hub.push import limit_waiting
    from inpaint.hub.space import push_space

    if args.repo_id is not None:
        raise UsageError(
            "--space and --repo-id are given; a page is pushed to a Space, a run to a repository: give one"
        )
    limit_waiting()
    print(f"pushed: {push_space(args.run_dir, args.space, args.private)}")
    return 0
