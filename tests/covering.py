"""What there is to combine, read from the settings and the tables, and few runs in which all of it meets."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from importlib.util import find_spec
from itertools import combinations, product
from random import Random
from typing import Any

from inpaint.config import Config, choices_of, settings
from inpaint.errors import UsageError
from inpaint.models import feature_network
from inpaint.resolve import load_config
from inpaint.tables import ADVERSARIAL_LOSSES, DISCRIMINATOR_LOSSES, HOLES, LOSSES
from inpaint.training.opening import load_entries

Row = dict[str, Hashable]
# Levels of some factors that have met, or shall.
Meeting = frozenset[tuple[str, Hashable]]

TERM = "loss.terms."
TERM_WEIGHT = 0.5
# Besides those of all networks and losses, the settings of one choice among a few which change what a step does.
MORE_SETTINGS = ("data.local_real", "data.flip", "training.phases_per")

# Losses that need a package which is not everywhere.
NEEDED = {"frozen_features": feature_network.PACKAGE}


def factors() -> dict[str, list[Hashable]]:
    """Every setting to combine, each with all its levels: choices as `--help` lists them, losses on and off, holes.

    The level of `data.hole_kinds` is the names in a mixture, none for stored rectangles.
    """
    chosen = {
        name: choices
        for name, setting in settings()
        if (name.startswith(("model.", "loss.")) or name in MORE_SETTINGS) and (choices := choices_of(name, setting))
    }
    found: dict[str, list[Hashable]] = {name: [*choices] for name, choices in chosen.items() if name != "loss.terms"}
    found["data.hole_kinds"] = [(), *((kind,) for kind in HOLES), tuple(HOLES)]
    found["ema.half_life_kimg"] = ["null", "1.0"]
    usual = Config().loss.weights
    for term in LOSSES | ADVERSARIAL_LOSSES | DISCRIMINATOR_LOSSES:
        if term not in usual and (term not in NEEDED or find_spec(NEEDED[term])):
            found[TERM + term] = [False, True]
    return found


def terms_of(row: Row) -> list[str]:
    """The losses that a run of `row` weighs besides the usual ones."""
    return [name.removeprefix(TERM) for name, is_on in row.items() if name.startswith(TERM) and is_on]


def flags_of(row: Row) -> dict[str, Any]:
    """What `load_config` is given for it."""
    flags: dict[str, Any] = {name: level for name, level in row.items() if not name.startswith(TERM)}
    kinds = flags.pop("data.hole_kinds")
    flags["data.holes"] = "resampled" if kinds else "stored"
    if kinds:
        flags["data.hole_kinds"] = dict.fromkeys(kinds, 1.0)
    return flags | {"loss.terms": dict.fromkeys(terms_of(row), TERM_WEIGHT)}


def is_allowed(base: str, row: Row) -> bool:
    """Whether a run on top of the config file `base` would begin."""
    try:
        load_entries(load_config(base, flags_of(row)))
    except UsageError:
        return False
    return True


def meetings(row: Row, strength: int) -> list[Meeting]:
    """Every `strength` levels that meet in `row`."""
    return [frozenset(chosen) for chosen in combinations(row.items(), strength)]


def covering(
    levels: Mapping[str, Sequence[Hashable]], strength: int, is_allowed: Callable[[Row], bool]
) -> tuple[list[Row], list[Meeting]]:
    """Rows in which every `strength` levels of different factors meet at least once; and those found in no allowed row.

    Greedy, one row at a time (Cohen et al. 1997, AETG): the first meeting still to come, and for each other factor, in
    some order, the level that brings most of the others about; the best of a few such rows is taken.
    """
    random = Random(0)
    left = {
        frozenset(zip(names, chosen, strict=True)): None
        for names in combinations(levels, strength)
        for chosen in product(*(levels[name] for name in names))
    }
    rows, refused = [], []
    while left:
        wanted = next(iter(left))
        tries = [_filled(wanted, levels, strength, left, random) for _ in range(8)]
        tries.sort(key=lambda row: -sum(meeting in left for meeting in meetings(row, strength)))
        # Where the best meet what is refused, others may not.
        tries += [{name: random.choice(levels[name]) for name in levels} | dict(wanted) for _ in range(40)]
        row = next(filter(is_allowed, tries), None)
        if row is None:
            refused.append(wanted)
            del left[wanted]
            continue
        rows.append({name: row[name] for name in levels})
        for meeting in meetings(row, strength):
            left.pop(meeting, None)
    return rows, refused


def _filled(
    wanted: Meeting,
    levels: Mapping[str, Sequence[Hashable]],
    strength: int,
    left: Mapping[Meeting, None],
    random: Random,
) -> Row:
    row = dict(wanted)
    for name in random.sample(others := [name for name in levels if name not in row], len(others)):
        among = [*combinations(row.items(), strength - 1)]
        gains = {
            level: sum(frozenset([*met, (name, level)]) in left for met in among) + random.random()
            for level in levels[name]
        }
        row[name] = max(gains, key=gains.__getitem__)
    return row
