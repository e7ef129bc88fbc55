"""Owns the geometry of holes: how large they and the local window around them are, at a size of the image."""

from __future__ import annotations

from dataclasses import dataclass

# What people paint over: half of the masks in published demos cover less than an eighth of the image, one in ten more
# than a quarter. The paper's rectangles cover a tenth to a seventh.
AREA = (0.05, 0.25)
MAX_AREA = 0.9


@dataclass(frozen=True)
class HoleSpec:
    """The geometry of holes at one image size; all in pixels.

    Args:
        image_size: side of the square image.
        min_px, max_px: smallest and largest side of a hole, both included (paper: 20 and 25 at 64).
        window_px: side of the local window, which contains the hole (paper: 28 at 64).
        area: smallest and largest area of a hole that is no rectangle, as shares of the image.
    """

    image_size: int
    min_px: int
    max_px: int
    window_px: int
    area: tuple[float, float] = AREA

    @classmethod
    def scaled(
        cls,
        image_size: int,
        min_px: int | None = None,
        max_px: int | None = None,
        window_px: int | None = None,
        area: tuple[float, float] = AREA,
    ) -> HoleSpec:
        """The paper's sizes (20 to 25 in a window of 28, at 64) scaled to `image_size`, each unless given."""

        def scale(at_64: int) -> int:
            return max(1, round(at_64 * image_size / 64))

        return cls(
            image_size=image_size,
            min_px=scale(20) if min_px is None else min_px,
            max_px=scale(25) if max_px is None else max_px,
            window_px=scale(28) if window_px is None else window_px,
            area=area,
        )

    def faults(self) -> list[str]:
        """What is wrong with this geometry, one sentence each; empty if nothing is."""
        found = []
        if self.min_px < 1:
            found.append(f"the smallest hole is {self.min_px} px; it must be at least 1")
        if self.min_px > self.max_px:
            found.append(f"the smallest hole ({self.min_px} px) is larger than the largest ({self.max_px} px)")
        if self.max_px > self.window_px:
            found.append(f"the hole (up to {self.max_px} px) is larger than its local window ({self.window_px} px)")
        if self.window_px > self.image_size:
            found.append(f"the local window ({self.window_px} px) is larger than the image ({self.image_size} px)")
        low, high = self.area
        if not 0 < low <= high <= MAX_AREA:
            found.append(f"the area of holes is [{low:g}, {high:g}]; it must be 0 < smallest <= largest <= {MAX_AREA}")
        return found
