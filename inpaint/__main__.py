"""`python -m inpaint`: the command `inpaint`."""

import sys

from inpaint.cli import main

if __name__ == "__main__":
    sys.exit(main())
