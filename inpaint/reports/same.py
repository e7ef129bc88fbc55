"""Owns which runs belong together: those of the same data, of the same settings, and the same run found twice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inpaint.errors import InpaintError
from inpaint.reports.runs import Run
from inpaint.resolve import flat
from inpaint.training.identity import is_same_place

# What makes the held-out images and their holes; with synthetic landscapes also how many there are.
_DATA = ("image_size", "hole_min_px", "hole_max_px")
_SYNTHETIC = ("synthetic_train", "synthetic_held_out")
# What does not make another setting.
_NO_MATTER = (
    *("hub.", "checkpointing.", "training.seed", "training.num_threads", "training.log_every", "training.tracker"),
    *("training.timeout_s", "training.max_rollbacks", "data.path", "data.cache_dir", "data.device_cache"),
)
# So closely do two runs measure one plain colour on the same images, on whatever machine.
_TOLERANCE_DB = 1e-3


@dataclass(frozen=True)
class Compared:
    """The data of two runs: how they differ, or why it is not known that they are the same; both "" if they are."""

    differ: str = ""
    unknown: str = ""


@dataclass(frozen=True)
class Group:
    """Runs of one setting on the same data; `apart` says why it is not one with another group of its setting."""

    runs: tuple[Run, ...]
    apart: str


def require_same_data(runs: Sequence[Run]) -> None:
    """Raise InpaintError with what differs, if figures of these runs cannot stand beside one another.

    A run without a single step has none.
    """
    begun = [run for run in runs if run.training or run.final]
    for number, first in enumerate(begun):
        for other in begun[number + 1 :]:
            if told := compare_data(first, other).differ:
                raise InpaintError(
                    f"{first.path} and {other.path} are of different data, which cannot stand in one table: {told}; "
                    "give runs of the same data together"
                )


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """Which runs are of one setting, but for their seeds, and of the same data; in the order that they were given in.

    Runs whose data may be others are kept apart. To what a finished run measured the others are held.
    """
    groups: list[list[Run]] = []
    apart: dict[int, str] = {}
    for run in sorted(runs, key=lambda run: not run.final):
        told = _told_by(run)
        reasons = {number: _apart(run, its) for number, its in enumerate(groups) if _told_by(its[0]) == told}
        if (joined := next((number for number, reason in reasons.items() if not reason), None)) is not None:
            groups[joined].append(run)
            continue
        apart[len(groups)] = next(iter(reasons.values()), "")
        groups.append([run])
    found = [Group(tuple(sorted(its, key=runs.index)), apart[number]) for number, its in enumerate(groups)]
    return sorted(found, key=lambda group: runs.index(group.runs[0]))


def without_copies(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs, of those with the same settings, data and seed only the furthest; and which were left out, and why."""
    kept: list[Run] = []
    told: list[str] = []
    for group in groups_of(runs):
        by_seed: dict[object, list[Run]] = {}
        for run in group.runs:
            by_seed.setdefault(run.settings["training"].get("seed", run.path), []).append(run)
        for seed, its in by_seed.items():
            best = max(its, key=lambda run: (bool(run.final), run.last_step, bool(run.measured)))
            kept.append(best)
            told += [
                f"{run.name}: left out, for its settings, data and seed ({seed}) are those of {best.name}: one run "
                "counts once"
                for run in its
                if run is not best
            ]
    return sorted(kept, key=runs.index), told


def compare_data(one: Run, other: Run) -> Compared:
    """What the run directories of both, finished or not, say of the images that they were trained and judged on."""
    ours, theirs = one.settings["data"], other.settings["data"]
    keys = _DATA + (_SYNTHETIC if ours.get("path") is None else ())
    told = [f"data.{key} is {ours.get(key)} and {theirs.get(key)}" for key in keys if ours.get(key) != theirs.get(key)]
    paths, digests = (ours.get("path"), theirs.get("path")), (one.data_digest, other.data_digest)
    if None in paths and paths[0] != paths[1]:
        told.insert(0, f"data.path is {paths[0]} and {paths[1]}")
    if not told and None not in digests and digests[0] != digests[1]:
        told.append(f"the validation images of {paths[0]} and {paths[1]} differ")
    plain = [_plain(run) for run in (one, other)]
    both = [(name, plain[0][name], plain[1][name]) for name in plain[0] if name in plain[1]]
    if not told:
        told += [
            f"one plain colour has a hole PSNR of {a:.3f} and {b:.3f} dB on the {name} images of {paths[0]} and "
            f"{paths[1]}, which have the same names"
            for name, a, b in both
            if not math.isclose(a, b, rel_tol=0, abs_tol=_TOLERANCE_DB)
        ][:1]
    measured = [run.measured.get("facts", {}) for run in (one, other)]
    if all(measured) and not told:
        for part in ("data", "holes"):
            if measured[0][part].get("sha256") != measured[1][part].get("sha256"):
                words = [", ".join(f"{k} {v}" for k, v in facts[part].items() if k != "sha256") for facts in measured]
                told.append(f"they were evaluated on different {part} ({words[0]}; {words[1]}): inpaint evaluate anew")
    if told:
        return Compared(differ="; ".join(told))
    if both or is_same_place(*paths):
        return Compared()
    what = "no checkpoint says" if None in digests else "no evaluation shows, for their names alone agree,"
    return Compared(unknown=f"data.path is {paths[0]} and {paths[1]}, and {what} that the images are the same")


def _apart(run: Run, group: Sequence[Run]) -> str:
    """Why `run` is not of the data of a group, in words; "" if it is."""
    compared = [(other, compare_data(run, other)) for other in group]
    found = [(other, its.differ) for other, its in compared if its.differ]
    if not found and all(its.unknown for _, its in compared):  # what is the same as one of them is as all of them
        found = [(other, its.unknown) for other, its in compared]
    return f"not with {found[0][0].name}: {found[0][1]}" if found else ""


def _plain(run: Run) -> Mapping[str, float]:
    """The hole PSNR, in dB, of filling with one plain colour: by the images that it was measured on.

    It is a matter of the images and their holes alone, so it tells those apart whose names are the same.
    """
    num = run.settings.get("evaluation", {}).get("num_pictures")
    found = {"test": run.final.get("rows", {}).get("mean fill", {}).get("hole_psnr")}
    found[f"{num} validation"] = next(
        (value for line in run.evaluations if (value := line.get("evaluation/mean_fill_hole_psnr")) is not None), None
    )
    return {name: value for name, value in found.items() if isinstance(value, float) and math.isfinite(value)}


def _told_by(run: Run) -> str:
    values = {key: value for key, value in flat(run.settings).items() if not key.startswith(_NO_MATTER)}
    return repr(sorted(values.items()))
