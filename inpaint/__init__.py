"""Train landscape-inpainting GANs on any number of GPUs."""
