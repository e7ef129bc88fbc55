"""Train an inpainting GAN: `accelerate launch train.py --help`."""

from runpy import run_module

if __name__ == "__main__":
    run_module("inpaint.training", run_name="__main__")
