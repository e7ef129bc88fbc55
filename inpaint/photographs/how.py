"""Owns how a photograph is to be filled, as the pipeline and the command `fill` are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from inpaint.errors import InpaintError, UsageError, shorten

Strategy = Literal["auto", "crop", "whole"]
MOST_GROWN_PX = 1000
STRATEGIES: tuple[str, ...] = get_args(Strategy)


@dataclass(frozen=True)
class How:
    """The choices of one call.

    Args:
        strategy: `whole` shows the generator the photograph at its own size, `crop` each hole in a square around it,
            scaled down to the size of the training images; `auto` is `crop` for what is larger than those.
        detail: whether what is filled at a smaller scale is given the detail of what surrounds it.
        grow_mask_px: by how many pixels the hole is made larger all around, from 0 to 1,000.

    Raises:
        UsageError: a value that is not allowed.
    """

    strategy: Strategy = "auto"
    detail: bool = True
    grow_mask_px: int = 0

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise UsageError(f"strategy is {shorten(repr(self.strategy))}; use auto, crop or whole")
        if not isinstance(self.detail, bool):
            raise UsageError(f"detail is {shorten(repr(self.detail))}; use True or False")
        if type(self.grow_mask_px) is not int or not 0 <= self.grow_mask_px <= MOST_GROWN_PX:
            raise UsageError(
                f"grow_mask_px is {shorten(repr(self.grow_mask_px))}; give a whole number of pixels from 0 to "
                f"{MOST_GROWN_PX}"
            )

    def crops(self, shape: tuple[int, ...], size_px: int | None) -> bool:
        """Whether an image of this height and width is filled crop by crop.

        Args:
            size_px: side of the images that the generator was trained on; None: not recorded.

        Raises:
            InpaintError: that is wanted, and not recorded.
        """
        if self.strategy == "crop" and size_px is None:
            raise InpaintError(
                "the generator does not say how large its training images were, which strategy crop has to know; use "
                "whole, or set image_size in its config.json"
            )
        return self.strategy == "crop" or (self.strategy == "auto" and size_px is not None and max(shape) > size_px)
