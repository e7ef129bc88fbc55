"""Train an inpainting GAN: `accelerate launch train.py --help`."""

import sys

from inpaint.training.launch import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
