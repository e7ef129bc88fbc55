"""`accelerate launch -m inpaint.training`, or with `python` for one process: what `train.py` runs."""

import sys

from inpaint.distributed.signals import StopRequest, die_with_launcher

if __name__ == "__main__":
    die_with_launcher()  # before the imports, which take seconds
    StopRequest.ends_process = True
    from inpaint.training.console import Unfailing
    from inpaint.training.launch import main

    sys.stdout, sys.stderr = Unfailing(sys.stdout), Unfailing(sys.stderr)
    sys.exit(main(sys.argv[1:]))
