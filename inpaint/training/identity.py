"""Owns what makes a run another one: changed, it is refused; everything else may change on resume, and is said."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inpaint.config import Config
from inpaint.data.decoded import DecodedSplit
from inpaint.errors import UsageError
from inpaint.resolve import flat

# Data, networks, kinds of losses and holes, seed; `data.path` is judged apart, for the same data may lie elsewhere.
IDENTITY = (
    *("data.image_size", "data.holes", "data.hole_kinds", "data.local_real", "data.hole_min_px", "data.hole_max_px"),
    *("data.hole_area", "data.window_px", "data.synthetic_train", "data.synthetic_held_out", "data.synthetic_clutter"),
    *("model.", "loss.reconstruction_region", "loss.objective", "loss.judged_region", "training.seed"),
)


def differences(before: Mapping[str, Any], config: Config) -> tuple[list[str], list[str]]:
    """What of `config` differs from a run's: what makes it another run, and what may change, `key: before -> now` each.

    `before` are sections of settings, as config.yaml and checkpoints hold them; a key that is not there differs not.
    """
    if "data" in before:  # runs of before there was a choice had rectangles
        before = {**before, "data": {"hole_kinds": {"rectangle": 1.0}, **before["data"]}}
    old, new = flat(before), flat(config.model_dump(mode="json"))
    # A loss or a kind of hole is named by its weight: one that is not there weighs nothing.
    weighed = ("loss.terms.", "data.hole_kinds.")
    terms = {key: 0.0 for key in [*old, *new] if key.startswith(weighed) and key.partition(".")[0] in before}
    old, new = terms | old, new | {key: new.get(key, 0.0) for key in terms}
    another: list[str] = []
    allowed: list[str] = []
    for key, value in new.items():
        was = old.get(key, value)
        if was == value or (key == "data.path" and is_same_place(was, value)):
            continue
        if key.startswith("data.synthetic_") and None not in (old.get("data.path"), new["data.path"]):
            continue  # of no effect
        is_another = None in (was, value) if key == "data.path" else key.startswith(IDENTITY)
        if key.startswith(weighed[0]):
            is_another = not (was and value)
        (another if is_another else allowed).append(f"{key}: {was} -> {value}")
    return another, allowed


def is_same_place(one: str | None, other: str | None) -> bool:
    """Whether two values of `data.path` are the same folder or Hub id."""
    if one is None or other is None:
        return one is other
    return one == other or (Path(str(one)).exists() and Path(str(one)).resolve() == Path(other).resolve())


def digest_of(validation: DecodedSplit) -> str:
    """Tells data apart, wherever they lie: the holes of the validation split, functions of its images' names."""
    return hashlib.sha256(validation.holes.tobytes()).hexdigest()[:16]


def another_run(run_dir: Path, changes: Sequence[str]) -> UsageError:
    """The refusal, with what can be done."""
    return UsageError(
        f"--run-dir {run_dir} holds another run ({'; '.join(changes)}), which stays as it is; give a new --run-dir "
        f"(with --init-from {run_dir} it begins from this one's weights), the old values to go on with it, or "
        "--no-resume --overwrite to throw it away"
    )
