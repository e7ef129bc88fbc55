"""Owns where the metrics go besides metrics.jsonl: to one of Accelerate's trackers, if asked for."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from inpaint.errors import UsageError
from inpaint.files import read_object, write_atomically
from inpaint.training.metrics_file import is_evaluation

STATE = "tracker.json"


def require_tracker(kind: str) -> None:
    """Raise UsageError if the package that `training.tracker` names is not installed."""
    if kind != "none" and find_spec(kind) is None:
        raise UsageError(
            f"training.tracker = {kind}, but it is not installed; pip install 'inpaint[{kind}]', or set "
            "training.tracker to none"
        )


class Tracker:
    """Sends the numbers of each log line, and images with them; what fails costs a warning and the rest of it.

    A run that was resumed goes on in the tracker's own run and has each point once. TensorBoard hides the points after
    `resumed_at`; where none can be taken back, those that a life of the run, lost since, had sent are not sent again.
    TensorBoard's and W&B's files lie in `run_dir`, trackio's where it keeps all. `sent` has the last step of a line
    with an evaluation (True) and of one without (False) before it was resumed.
    """

    def __init__(
        self, kind: str, run_dir: Path, resumed_at: int, sent: Mapping[bool, int], config: Mapping[str, Any]
    ) -> None:
        self.kind, self._sent = kind, {True: 0, False: 0}
        self._tracker: Any = None
        if kind == "none":
            return
        from inpaint.distributed.runtime import start_tracker  # `inpaint status` needs none, and no Accelerate

        project, settings = kind, dict[str, Any]()
        if kind == "tensorboard":
            settings = {"logging_dir": str(run_dir), "purge_step": resumed_at + 1 if resumed_at else None}
        else:
            before = read_object(run_dir / STATE)
            run_id = str(before.get("id") or secrets.token_hex(6))
            for which, key in ((True, "evaluation"), (False, "training")):
                told = before.get(key)
                self._sent[which] = max(sent.get(which, 0), told if type(told) is int else 0)
            state = {"id": run_id, "evaluation": self._sent[True], "training": self._sent[False]}
            write_atomically(run_dir / STATE, json.dumps(state).encode())
            project = os.environ.get(f"{kind.upper()}_PROJECT", "inpaint")
            settings = {"resume": "allow", "config": dict(config)}
            if kind == "wandb":
                quiet = {"console": "off", "silent": True}
                settings |= {"id": run_id, "name": run_dir.name, "dir": str(run_dir), "settings": quiet}
            else:
                settings |= {"name": f"{run_dir.name}-{run_id}", "embed": False}
        self._tracker = True
        self._guard(lambda: setattr(self, "_tracker", start_tracker(kind, project, **settings)))

    def log(self, line: Mapping[str, Any], image: Image.Image | None = None) -> None:
        """Every number whose name is a path, such as `loss/generator/adversarial`, at the line's step."""
        if self._tracker is None or line["step"] <= self._sent[is_evaluation(line)]:
            return
        self._guard(lambda: self._tracker.log({k: v for k, v in line.items() if "/" in k}, step=line["step"]))
        if image is not None:
            self._guard(lambda: self._show(np.asarray(image), line["step"]))

    def alert(self, title: str, text: str, step: int) -> None:
        """Say at `step` of an evaluation that something is wrong: TensorBoard shows it as text, the others alert."""
        if self._tracker is None or step <= self._sent[True]:
            return
        if self.kind == "tensorboard":
            self._guard(lambda: self._tracker.tracker.add_text("health", text, step))
        else:
            level = import_module(self.kind).AlertLevel.WARN
            self._guard(lambda: self._tracker.tracker.alert(title=title, text=text, level=level))

    def close(self) -> None:
        self._guard(lambda: self._tracker.finish())
        self._tracker = None

    def _show(self, image: np.ndarray, step: int) -> None:
        if self.kind == "trackio":  # Accelerate's does not know images
            import trackio

            self._tracker.log({"samples": trackio.Image(image)}, step=step)
        else:
            layout = {"dataformats": "NHWC"} if self.kind == "tensorboard" else {}
            self._tracker.log_images({"samples": image[None]}, step=step, **layout)

    def _guard(self, act: Callable[[], Any]) -> None:
        """Act, if nothing has failed before."""
        if self._tracker is None:
            return
        try:
            with redirect_stdout(sys.stderr):  # where the report goes, nothing else should
                act()
        except Exception as error:  # noqa: BLE001 - a service, a network, a disk, and each library's names for it
            self._tracker = None
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            tqdm.write(
                f"{self.kind} takes no more figures ({reason}); training goes on, and metrics.jsonl has them all",
                file=sys.stderr,
            )
