"""Owns a generator as images are filled with it: what it can be shown, and what can go wrong while it works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from inpaint.errors import InpaintError
from inpaint.memory import free_bytes
from inpaint.models.generator import Generator

_SMALLER = "fill it hole by hole (strategy crop), or scale it down"


class Network:
    """A generator in evaluation mode on its device.

    Attributes:
        multiple_px: what heights and widths must be divisible by.
        size_px: side of the images that it was trained on; None: not recorded.
    """

    def __init__(self, generator: nn.Module, device: torch.device) -> None:
        self.generator, self.device = generator, device
        self.multiple_px = int(getattr(generator, "multiple_px", 1))
        self.size_px = generator.config.image_size if isinstance(generator, Generator) else None

    @torch.inference_mode()
    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        """The outputs, [B, 3, H, W].

        Args:
            images: [B, 3, H, W] in [0, 1], whatever in the hole.
            masks: [B, 1, H, W] floats, 1 in the hole.

        Raises:
            InpaintError: too little memory, or an output that is not finite.
        """
        with self.within_memory(*images.shape[2:]):
            output: Tensor = self.generator(images * (1 - masks), masks)
        if not output.isfinite().all():
            raise InpaintError("the generator's output is not finite: its weights are broken")
        return output

    @contextmanager
    def within_memory(self, height: int, width: int) -> Iterator[None]:
        """An InpaintError in place of one that says that memory gave out while so many pixels were filled."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:  # OutOfMemoryError is a RuntimeError
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            raise InpaintError(
                f"filling {width}x{height} pixels needs more memory than {self.device} has; {_SMALLER}"
            ) from error

    def require_memory(self, height: int, width: int, num: int) -> None:
        """InpaintError if there is too little for showing it so many images of a size at once."""
        free = free_bytes(self.device)
        if free is None or not isinstance(self.generator, Generator):
            return
        needed = num * self.generator.inference_bytes(height, width)
        if needed > free:
            raise InpaintError(
                f"filling {width}x{height} pixels ({width * height / 1e6:.1f} megapixels) needs about "
                f"{needed / 2**30:.1f} GiB of memory with this generator, and {free / 2**30:.1f} GiB are free on "
                f"{self.device}; {_SMALLER}"
            )
