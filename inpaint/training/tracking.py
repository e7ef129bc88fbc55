"""Owns where the metrics go besides metrics.jsonl: TensorBoard, if asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from inpaint.errors import UsageError


class Tracker:
    """Writes the numbers of each log line to `folder`, which `tensorboard --logdir` shows.

    Args:
        kind: `training.tracker`: `none` or `tensorboard`.
        folder: made when the first line comes.
        resumed_at: lines after this step, from a life of the run that was lost, are hidden.

    Raises:
        UsageError: the package is not installed.
    """

    def __init__(self, kind: str, folder: Path, resumed_at: int) -> None:
        self._writer: Any = None
        if kind == "none":
            return
        if find_spec("tensorboard") is None:
            raise UsageError(
                "training.tracker = tensorboard, but it is not installed; pip install 'inpaint[tensorboard]', or set "
                "training.tracker to none"
            )
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=resumed_at + 1 if resumed_at else None)

    def log(self, line: Mapping[str, Any]) -> None:
        """Every number whose name is a path, such as `loss/generator/adversarial`, at the line's step."""
        if self._writer is not None:
            for name, value in line.items():
                if "/" in name:
                    self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
