"""Owns one image on its way through a pipeline: what the generator sees of it, and what it becomes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpaint.errors import InpaintError
from inpaint.images.about import About
from inpaint.images.given import ImageLike, Pixels, read_image, read_mask


class Filled(NamedTuple):
    """A filled image at its full bit depth."""

    pixels: Pixels
    """uint8 or uint16, [H, W] if grey, else [H, W, 2 (grey, alpha), 3 or 4]."""
    icc_profile: bytes | None
    num_filled: int
    """How many pixels were filled."""
    warning: str | None = None
    """Why it is likely not what was hoped for."""
    exif: bytes | None = None
    """The image's, as Pillow takes it, but upright and without a thumbnail, which would show what was filled."""
    dpi: tuple[float, float] | None = None
    """The image's dots per inch, across and down."""

    @property
    def told(self) -> str | None:
        """What a command says of it."""
        nothing = None if self.num_filled else "the mask is all black, or all white and inverted: nothing was filled"
        return "; ".join(text for text in (self.warning, nothing) if text) or None

    def to_image(self) -> Image.Image:
        """The same as a Pillow image.

        Raises:
            InpaintError: 16 bits a channel in colour, which Pillow cannot hold.
        """
        require_pillow(self.pixels)
        image = Image.fromarray(self.pixels)
        image.info = {} if self.icc_profile is None else {"icc_profile": self.icc_profile}
        return image


# A mask that covers more of an image is most often one of another convention: black where to fill.
_MOST_SHARE = 0.9


@dataclass(frozen=True)
class FillJob:
    """One image (see `Filled`) and where to fill it ([H, W], true = hole)."""

    pixels: Pixels
    about: About
    hole: NDArray[np.bool_]
    warning: str | None = None

    @classmethod
    def of(cls, image: ImageLike, mask_image: ImageLike, resize_mask: bool, invert_mask: bool = False) -> FillJob:
        """Read both; InpaintError if one cannot be read or they do not fit together."""
        pixels, about = read_image(image)
        hole = read_mask(mask_image, pixels.shape[:2], resize_mask) ^ invert_mask
        warnings = []
        if about.num_frames > 1:
            warnings.append(f"only the first of its {about.num_frames} frames or pages is filled")
        if (share := hole.mean()) > _MOST_SHARE:
            meant = (
                "white was to be filled, do not invert the mask (invert_mask, --invert-mask)"
                if invert_mask
                else "black was to be filled, invert it (invert_mask=True, --invert-mask)"
            )
            warnings.append(f"{share:.0%} of the image is filled, as the mask asks; if {meant}")
        return cls(pixels, about, hole, "; ".join(warnings) or None)

    def grown(self, px: int) -> FillJob:
        """The same with a hole larger by so many pixels in every direction."""
        if not px or not self.hole.any():
            return self
        import cv2

        far = cv2.distanceTransform((~self.hole).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return replace(self, hole=far <= px)

    def rgb(self) -> NDArray[np.uint8]:
        """The generator's input: [H, W, 3]."""
        pixels = self.pixels if self.pixels.ndim == 3 else self.pixels[:, :, None]
        colours = pixels[:, :, [0, 0, 0]] if pixels.shape[2] < 3 else pixels[:, :, :3]
        return np.rint(colours / 257).astype(np.uint8) if colours.dtype == np.uint16 else colours

    def composite(self, output: NDArray[np.uint8]) -> Pixels:
        """The image with the hole filled from `output` [H, W, 3]; of the image's kind, known pixels unchanged."""
        num_channels = self.pixels.shape[2] if self.pixels.ndim == 3 else 1
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[num_channels]
        fill = Image.fromarray(output)
        fills = np.asarray((fill.convert("L") if self._is_grey() else fill).convert(mode))
        filled = self.pixels.copy()
        filled[self.hole] = fills[self.hole] if filled.dtype == np.uint8 else fills[self.hole].astype(np.uint16) * 257
        return filled

    def _is_grey(self) -> bool:
        """Whether all that is known of the image has no colour, though there may be channels for it."""
        if self.pixels.ndim == 2 or self.pixels.shape[2] < 3:
            return True
        red, green, blue = (self.pixels[:, :, channel] for channel in range(3))
        return not ((((red != green) | (green != blue)) & ~self.hole).any() or self.hole.all())

    def largest_square_px(self) -> int:
        """Side of the largest square within the hole; a square of even side counts as one less."""
        if not self.hole.any():
            return 0
        import cv2

        # A scratch across the whole image is easy to fill: its middle is close to what is known.
        framed = np.pad(self.hole.astype(np.uint8), 1)
        return 2 * int(cv2.distanceTransform(framed, cv2.DIST_C, 3).max()) - 1


def require_pillow(pixels: Pixels) -> None:
    """InpaintError where Pillow has no such kind of image."""
    if pixels.dtype == np.uint16 and pixels.ndim == 3:
        raise InpaintError(
            "the image has 16 bits per colour channel, which Pillow cannot hold: use pipe.fill(...), which returns an "
            "array, or the command `inpaint fill`, or save it with 8 bits"
        )
