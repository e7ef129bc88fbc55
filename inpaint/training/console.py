"""Owns what a person sees while training: a bar with rate and time left, and lines above it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tqdm import tqdm

# What stands beside the bar, which shows images/s itself, of the figures that the last steps have.
SHOWN = {
    "loss/generator/reconstruction": "mse={:.4f}",
    "loss/generator/adversarial": "adv={:.4f}",
    "score/real": "D(real)={:.4f}",
    "score/fake": "D(fake)={:.4f}",
    "data/wait_s": "wait={:.3f}s",
    "memory/peak_gib": "peak={:.1f}GiB",
}


class Unfailing:
    """An output stream in front of another: what that cannot take, a log on a full disk, is lost and ends nothing."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Console:
    """The terminal of the main process; on the others nothing is shown."""

    def __init__(self, is_shown: bool) -> None:
        self.is_shown = is_shown
        self._bar: Any = None

    def say(self, text: str) -> None:
        """A line that stays, above the bar."""
        if self.is_shown:
            tqdm.write(text, file=sys.stderr)

    def begin(self, num_done: int, num_total: int) -> None:
        self._bar = tqdm(
            total=num_total,
            initial=num_done,
            unit="img",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10,
            disable=not self.is_shown,
        )

    def advance(self, num_images: int, where: str) -> None:
        self._bar.update(num_images)
        self._bar.set_description(where, refresh=False)

    def rewind(self, num_done: int) -> None:
        self._bar.reset(self._bar.total)
        self._bar.update(num_done)

    def show(self, figures: Mapping[str, float]) -> None:
        """The newest figures beside the bar."""
        shown = [form.format(figures[name]) for name, form in SHOWN.items() if name in figures]
        self._bar.set_postfix_str(", ".join(shown), refresh=False)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()
