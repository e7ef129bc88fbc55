"""The promises hold for all that the tables and settings combine: every pair in some small run; every three in a soak.

One process trains each run in float64, also from its own middle; two of them train it in float64 and in float32, and
go on with it under a stage of ZeRO, which is combined like a setting, and back. Two starts serve all runs and tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from covering import MORE_SETTINGS, Row, covering, factors, flags_of, is_allowed, meetings, terms_of
from recording import Recorded, divided_zero3, record
from running import CONFIGS, ENGINES, differences, tiny_config, weights

from inpaint.tables import ADVERSARIAL_LOSSES, DISCRIMINATORS, HOLES, LOSSES, PENALTIES

# Four steps: phases 1, 2, 3 and 1 where each epoch of three has its own, else 1, 1, 2 and 3. Both kinds have a penalty
# in a step of the discriminator's, and go on after the second: in mid-epoch, or where reconstruction ends.
LAST, MIDDLE = 4, 2
SECTIONS: dict[str, dict[str, Any]] = {
    "data": {"synthetic_train": 12, "synthetic_held_out": 4},
    "model": {"width": 2},
    "loss": {"penalty_every": 2, "adversarial_warmup_kimg": 0.02},
    "optimizer": {"schedule": "linear", "generator_learning_rate": 1e-3, "discriminator_learning_rate": 1e-3},
    "training": {"global_batch_size": 4, "phases": [0.34, 0.33, 0.33], "max_steps": LAST, "timeout_s": 600},
    "ema": {"ramp_up": 1.0},
    "checkpointing": {"every_steps": LAST, "every_minutes": None, "keep": 9},
}
FLOAT64 = {"training.precision": "float64"}
# Every micro batch one image, so that what is taken over a batch instead of each image is seen; what normalises over
# images cannot be cut and needs all of them.
CUT = {"training.micro_batch_size": 1}
IN_THE_MIDDLE, EACH_STEP = {"checkpointing.every_steps": MIDDLE}, {"checkpointing.every_steps": 1}
# What a row calls the stage of ZeRO; no setting of the run.
ENGINE = "engine"
# Engines take the sums of a penalty on other than spectrally normalised layers in another order: seen 4e-8 apart.
ROUNDING = 1e-6


class Grid(NamedTuple):
    folder: Path
    rows: list[Row]

    def runs(self, name: str) -> Iterator[tuple[Row, Recorded]]:
        """Those named so, with what they combine."""
        for number, row in enumerate(self.rows):
            yield row, Recorded(self.folder, f"{number}_{name}")

    def apart(self, one: str, other: str) -> dict[str, tuple[float, Row]]:
        """By run how far the two named so are apart, where they are, and what they combine."""
        found = {}
        for row, run in self.runs(other):
            before = self.folder / run.name.replace(other, one)
            if by := max(differences(weights(before, LAST), weights(self.folder / run.name, LAST)).values()):
                found[run.name] = (by, row)
        return found


def penalises(row: Row) -> bool:
    return not PENALTIES.keys().isdisjoint(terms_of(row))


def settings_of(row: Row) -> Row:
    return {name: level for name, level in row.items() if name != ENGINE}


def scenarios_of(row: Row, number: int, engines: dict[str, str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The runs of one process, and those of two."""
    flags = flags_of(settings_of(row))

    def run(name: str, after: str | None = None, at: int = MIDDLE, engine: str | None = None, **own: Any) -> Any:
        made = {"name": f"{number}_{name}", "flags": flags | own, "engine": engine, "unjudged": True}
        return made | ({"after": f"{number}_{after}", "at": at} if after else {})

    cut = FLOAT64 if row["model.norm"] == "batch" else FLOAT64 | CUT
    one = [run("one", **cut, **IN_THE_MIDDLE), run("one_resumed", "one", **cut)]
    zero = run("zero", "ddp", engine=engines[str(row[ENGINE])], **EACH_STEP)
    return one, [run("two", **FLOAT64), run("ddp", **IN_THE_MIDDLE), zero, run("back", "zero", MIDDLE + 1)]


@pytest.fixture(
    scope="module",
    params=[
        2,
        pytest.param(3, marks=[pytest.mark.soak, pytest.mark.timeout(7200)]),
    ],
)
def grid(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    folder = tmp_path_factory.mktemp("grid")
    base = str(tiny_config(folder, **SECTIONS))
    engines = {name: str(CONFIGS / f"deepspeed_{name}.json") for name in ENGINES} | {"zero3": divided_zero3(folder)}

    def is_taken(row: Row) -> bool:
        return not (row[ENGINE] == "zero3" and penalises(row)) and is_allowed(base, settings_of(row))

    rows, _ = covering(factors() | {ENGINE: [*engines]}, request.param, is_taken)
    both = [scenarios_of(row, number, engines) for number, row in enumerate(rows)]
    for processes in (1, 2):
        runs = [run for of_row in both for run in of_row[processes - 1]]
        record(folder, base, runs, processes, timeout_s=3500)
    return Grid(folder, rows)


def test_a_new_entry_meets_all_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for table, like in ((LOSSES, "hole_l1"), (ADVERSARIAL_LOSSES, "feature_matching"), (HOLES, "blobs")):
        monkeypatch.setitem(table, "mine", table[like])
    monkeypatch.setitem(DISCRIMINATORS, "mine", DISCRIMINATORS["patch"])
    base, levels = str(tiny_config(tmp_path)), factors()
    assert {*MORE_SETTINGS, "model.norm", "model.mask_channel", "loss.objective", "loss.judged_region"} <= levels.keys()
    assert "mine" in levels["model.discriminator"] and ("mine",) in levels["data.hole_kinds"]
    rows, refused = covering(levels, 2, lambda row: is_allowed(base, row))
    met = {meeting for row in rows for meeting in meetings(row, 2)}
    names = [(one, other) for one in levels for other in levels if one != other]
    assert met == {
        frozenset([(one, mine), (other, its)]) for one, other in names for mine in levels[one] for its in levels[other]
    }
    assert refused == [] and all(is_allowed(base, row) for row in rows)


def test_each_run_takes_all_phases_and_every_loss_it_weighs(grid: Grid) -> None:
    for row, run in grid.runs("two"):
        phases = {"epoch": [1, 2, 3, 1], "run": [1, 1, 2, 3]}[str(row["training.phases_per"])]
        assert [ranks[0]["phase"] for ranks in run.steps] == phases, run.name
        seen = {name.rpartition("/")[2] for terms in run.losses for name in terms if name.startswith("loss/")}
        assert {"reconstruction", "adversarial", "real", *terms_of(row)} <= seen, run.name


def test_one_process_and_two_agree(grid: Grid) -> None:
    """To a billionth; the one cuts its batch in single images where no image is normalised by another."""
    assert {name: found for name, found in grid.apart("one", "two").items() if not found[0] <= 1e-9} == {}


def test_a_run_goes_on_from_its_middle_in_the_same_bits(grid: Grid) -> None:
    assert grid.apart("one", "one_resumed") == {}


def test_checkpoints_go_from_engine_to_engine_and_back(grid: Grid) -> None:
    """The first step after the change is taken under the other engine, the last under each."""
    found = grid.apart("ddp", "zero") | grid.apart("ddp", "back")
    rounded = {
        name
        for name, (by, row) in found.items()
        if penalises(row) and row["model.discriminator"] == "fused" and by < ROUNDING
    }
    assert {name: apart for name, apart in found.items() if name not in rounded} == {}


def test_only_the_network_being_trained_pays(grid: Grid) -> None:
    for name in ("one", "two", "ddp", "zero"):
        assert {run.name: moved for _, run in grid.runs(name) if (moved := run.moved_another())} == {}
    for name in ("two", "ddp"):
        assert {run.name: steps for _, run in grid.runs(name) if (steps := run.reduced_otherwise())} == {}


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_largest_preset_is_alike_under_every_engine_and_goes_on_under_another(tmp_path: Path) -> None:
    """20 steps of it, narrow, and their second half from the checkpoint of the engine before."""
    engines = {"ddp": None, **{name: str(CONFIGS / f"deepspeed_{name}.json") for name in ENGINES}}
    engines["zero3"] = divided_zero3(tmp_path)
    flags = {
        "data.synthetic_train": 40,
        "data.synthetic_held_out": 4,
        "model.width": 2,
        "loss.adversarial_warmup_kimg": 0.02,
        "training.global_batch_size": 4,
        "training.epochs": 2,
        "training.timeout_s": 600,
        "checkpointing.every_steps": 10,
        "checkpointing.keep": 9,
    }
    runs = [{"name": name, "engine": file, "flags": flags, "unjudged": True} for name, file in engines.items()]
    before = [*engines][-1:] + [*engines][:-1]
    runs += [run | {"name": f"{run['name']}_on", "after": its, "at": 10} for run, its in zip(runs, before, strict=True)]
    record(tmp_path, "landscape-256", runs, processes=2, timeout_s=3500)
    straight = weights(tmp_path / "ddp", 20)
    assert "generator_reconstruction" in straight, "the run kept no end of phase 1"
    apart = {run["name"]: max(differences(straight, weights(tmp_path / run["name"], 20)).values()) for run in runs}
    assert set(apart.values()) == {0.0}, apart
