"""What a run's logged figures say of its health, and `inpaint status` with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inpaint import cli
from inpaint.training.health import BLURRED, COLLAPSED, CONVERGING, DIVERGING, EARLY, SATURATED, judge

EPOCHS, PER_EPOCH = 6, 80

Rows = list[dict[str, Any]]


def rows(**changes: Any) -> Rows:
    """A sound run of six epochs with a line every ten steps; a change is a figure, or one for each epoch."""
    of_epoch = {
        "output/batch_std": 0.2,
        "loss/generator/reconstruction": 0.01,
        "loss/generator/adversarial": 0.7,
        "loss/discriminator/real": 0.6,
        "loss/discriminator/fake": 0.6,
        "score/real": 0.6,
        "score/fake": 0.4,
        "gradient_norm/generator": 2.0,
        "evaluation/hole_psnr": [18.0, 19.0, 20.0, 21.0, 22.0, 23.0],
        "evaluation/sharpness": [0.3, 0.4, 0.5, 0.5, 0.5, 0.5],
        "evaluation/variety": 1.0,
        "evaluation/mean_fill_hole_psnr": 16.0,
    } | {name.replace("__", "/"): value for name, value in changes.items()}
    lines: Rows = []
    for epoch in range(EPOCHS):
        now = {name: value[epoch] if isinstance(value, list) else value for name, value in of_epoch.items()}
        for place in range(10, PER_EPOCH + 1, 10):
            step, phase = epoch * PER_EPOCH + place, 1 if place <= PER_EPOCH // 2 else 3
            generators = {"output/batch_std", "loss/generator/reconstruction", "gradient_norm/generator"}
            names = [name for name in now if name in generators or (phase == 3 and "evaluation/" not in name)]
            figures = {name: now[name] for name in names if now[name] is not None}
            common = {"step": step, "epoch": epoch + 1, "phase": phase, "images_seen": 16 * step}
            lines.append({**common, "total_steps": EPOCHS * PER_EPOCH, **figures})
        judged = {name: value for name, value in now.items() if "evaluation/" in name and value is not None}
        lines.append({**common, **judged})
    return lines


def names(lines: Sequence[Any]) -> list[str]:
    return [verdict.name for verdict in judge(lines)]


SURE = {"score__real": 0.99, "score__fake": 0.01, "loss__discriminator__real": 0.02, "loss__discriminator__fake": 0.01}
GUESS = {"score__real": 0.501, "score__fake": 0.5, "loss__discriminator__real": 0.69, "loss__discriminator__fake": 0.7}
LOW = {"evaluation__sharpness": 0.1}


@pytest.mark.parametrize(
    ("changes", "verdict", "said"),
    [
        ({}, CONVERGING, "hole PSNR 23.0 dB, 7.0 above one plain colour's, sharpness 0.50"),
        # As runs of older versions logged them.
        ({"evaluation__mean_fill_hole_psnr": None, "evaluation__variety": None}, CONVERGING, "hole PSNR 23.0 dB"),
        (
            {"evaluation__hole_psnr": [9.0, 10.0, 11.0, 12.0, 13.0, 14.0]},
            EARLY,
            "14.0 dB, 2.0 below one plain colour's",
        ),
        (
            {"evaluation__hole_psnr": [18.0, 14.0, 12.0, 8.0, 9.0, 9.9]},
            DIVERGING,
            "9.9 dB and get no better; one plain colour has 16",
        ),
        ({"evaluation__hole_psnr": [18.0, 19.0, 24.0, 23.0, 19.5, 19.0]}, DIVERGING, "fell from 24.0 to 19.0 dB"),
        # Dark images, of which grey is farther.
        ({"evaluation__hole_psnr": [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]}, EARLY, "9.0 dB, 7.0 below one plain colour's"),
        # The adversarial loss makes it dip, once.
        ({"evaluation__hole_psnr": [20.0, 15.0, 17.0, 18.0, 18.0, 18.0]}, CONVERGING, "hole PSNR 18.0 dB"),
        ({"evaluation__hole_psnr": [20.0, 21.0, 22.0, 23.0, 24.0, 17.0]}, CONVERGING, "hole PSNR 17.0 dB"),
        ({"evaluation__hole_psnr": [20.0, 21.0, 24.0, 23.0, 21.5, 21.0]}, CONVERGING, "hole PSNR 21.0 dB"),
        (
            {"loss__generator__reconstruction": [0.02, 0.01, 0.01, 0.01, 0.05, 0.04]},
            DIVERGING,
            "loss reconstruction of phase 1 rose from 0.01 to at least 0.04 over the last",
        ),
        (
            {"loss__generator__hole_l1": [0.9, 0.1, 0.1, 0.1, 0.1, 0.1], "evaluation__hole_psnr": [20.0, 20.1] * 3},
            DIVERGING,
            "loss hole_l1 was 0.9 at step 50, worse than mid-grey, and hole PSNR has been no better than 20.1 dB since",
        ),
        ({"loss__generator__hole_l1": [0.9, 0.1, 0.1, 0.1, 0.1, 0.1]}, CONVERGING, ""),
        ({"loss__generator__hole_l1": 0.4, "evaluation__hole_psnr": [20.0, 20.1] * 3}, CONVERGING, ""),
        ({"rollbacks": [None, 1, 1, 1, 1, 4]}, DIVERGING, "3 batches made a loss that is not finite over the last"),
        ({"rollbacks": [None, 1, 4, 4, 4, 4]}, CONVERGING, ""),
        (
            {"output__batch_std": [0.2, 0.2, 0.1, 0.01, 0.001, 0.001]},
            COLLAPSED,
            "over the last 1,280 images (output/batch",
        ),
        ({"evaluation__variety": [1.0, 0.8, 0.5, 0.3, 0.2, 0.1]}, COLLAPSED, "vary 0.10 times as much from image to"),
        (SURE, SATURATED, "score/real 0.990, score/fake 0.010, its losses 0.03, the generator's gradient 2)"),
        (
            {**SURE, "loss__discriminator__real": None, "loss__discriminator__fake": None},
            SATURATED,
            "fake 0.010, the gen",
        ),
        # Of a relativistic loss only the difference means anything, and it has one term.
        (
            {
                "score__real": 0.99,
                "score__fake": 0.97,
                "loss__discriminator__real": 1e-3,
                "loss__discriminator__fake": None,
            },
            SATURATED,
            "score/real 0.990, score/fake 0.970, its losses 0.001",
        ),
        ({"score__real": 0.01, "score__fake": 0.01}, CONVERGING, ""),
        ({"score__real": 0.76, "score__fake": 0.25}, SATURATED, "easily tells fills from real images over the last"),
        ({"score__real": 0.74, "score__fake": 0.25}, CONVERGING, ""),
        # It may know all of fills that it has no part in.
        ({**SURE, "loss__generator__adversarial": None}, CONVERGING, ""),
        (
            LOW,
            BLURRED,
            "0.10 times the truth's gradient energy (sharpness; 1 is right); weigh reconstruction less",
        ),
        ({**LOW, "loss__generator__adversarial": None}, BLURRED, "no adversarial loss trains the generator; raise"),
        ({**LOW, **GUESS}, BLURRED, "the discriminator tells nothing apart (its losses are those of a guess); lower"),
        ({**LOW, **GUESS, "loss__discriminator__real": 0.8}, BLURRED, "(sharpness; 1 is right); weigh reconstruction"),
        ({"evaluation__sharpness": [0.3, 0.3, 0.5, 0.5, 0.5, 0.2]}, CONVERGING, "sharpness 0.20, still blurred"),
    ],
)
def test_each_verdict_with_its_evidence(changes: dict[str, Any], verdict: str, said: str) -> None:
    (found,) = judge(rows(**changes))
    assert found.name == verdict
    assert said in str(found)
    assert bool(found.remedy) == found.is_ill


def test_all_that_is_wrong_is_said_the_worst_first() -> None:
    dead = rows(**SURE, output__batch_std=0.0, evaluation__variety=0.0, evaluation__hole_psnr=5.0, **LOW)
    assert names(dead) == [DIVERGING, COLLAPSED, SATURATED]


@pytest.mark.parametrize("changes", [SURE, {"output__batch_std": 0.0}])
def test_before_the_first_evaluation_the_training_figures_tell(changes: dict[str, float]) -> None:
    begun = [line for line in rows(**changes) if "evaluation/hole_psnr" not in line]
    assert names(begun)[0] in (SATURATED, COLLAPSED)
    assert names(begun[:9]) == [EARLY]
    assert names(begun[:12]) == names(begun)


def test_two_evaluations_are_too_few() -> None:
    assert names(rows()[:18]) == [EARLY] and names(rows()[:27]) == [CONVERGING]


def test_a_long_run_is_judged_by_what_it_does_now() -> None:
    lines = [line | {"step": line["step"] + EPOCHS * PER_EPOCH * turn} for turn in range(12) for line in rows()]
    for line in lines[-40:]:
        line["output/batch_std"] = 0.0
    assert names(lines) == [COLLAPSED]


@pytest.mark.parametrize(("variety", "remedy"), [(0.1, "lower optimizer.generator"), (1.0, "look at data.path")])
def test_one_image_for_all_is_the_generators_fault_or_the_datas(variety: float, remedy: str) -> None:
    (found,) = judge(rows(output__batch_std=0.001, evaluation__variety=variety))
    assert remedy in found.remedy


@pytest.mark.parametrize("sharpness", [[0.1] * 6, [0.02, 0.04, 0.06, 0.1, 0.15, 0.2]])
def test_texture_comes_late_so_it_is_asked_for_late(sharpness: list[float]) -> None:
    """Not before half of the planned steps, nor while it gets better, but at the end."""
    for factor in (1, 1.5, 3):
        lines = [{**line, "total_steps": factor * EPOCHS * PER_EPOCH} for line in rows(evaluation__sharpness=sharpness)]
        assert names(lines) == [BLURRED if factor == 1 or (factor == 1.5 and sharpness[0] == 0.1) else CONVERGING]


def test_a_run_that_has_had_phase_1_alone_is_not_yet_blurred() -> None:
    alone = [line for line in rows(**LOW) if line["phase"] == 1 or "evaluation/sharpness" in line]
    for line in alone:
        line["total_steps"] = 2 * EPOCHS * PER_EPOCH
    assert names(alone) == [CONVERGING]
    alone[-2]["total_steps"] = alone[-1]["step"]  # and now it is over
    assert names(alone) == [BLURRED]


def test_of_steps_that_a_resumed_run_did_again_the_last_count() -> None:
    sound, ill = rows(), rows(**SURE)
    assert names(ill[-40:] + sound) == [CONVERGING] != names(sound + ill[-40:])


def test_a_nan_or_null_is_a_figure_that_was_not_logged() -> None:
    lines = rows(score__real=[0.6, 0.6, None, float("nan"), float("inf"), 10**400])
    assert names(lines) == [CONVERGING]


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.lists(st.integers(), max_size=2)
)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_it_never_raises_whatever_the_lines_hold(data: st.DataObject) -> None:
    lines: list[Any] = rows()
    figures = sorted({name for line in lines for name in line})
    for index in data.draw(st.lists(st.integers(0, len(lines) - 1), max_size=30)):
        change = data.draw(st.dictionaries(st.sampled_from([*figures, "rollbacks", "health"]), VALUES, max_size=4))
        lines[index] = data.draw(st.sampled_from([{**(lines[index] or {}), **change}, change, None]))
    kept = data.draw(st.integers(0, len(lines)))
    assert all(str(verdict) for verdict in judge(lines[:kept]))
    assert judge(lines[:kept])


LOGGED = [json.loads(line) for line in (Path(__file__).parent / "data" / "health.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("logged", LOGGED, ids=lambda logged: logged["run"])
def test_real_runs_are_called_what_they_were_made(logged: dict[str, Any]) -> None:
    """Every other line of runs of `benchmarks/health.py`, without the figures that nothing here reads."""
    lines = logged["lines"]
    assert names(lines) == logged["said"]
    if logged["said"] == [CONVERGING]:  # and at no line was there an alarm
        assert {name for num in range(len(lines)) for name in names(lines[:num])} <= {EARLY, CONVERGING}


# --- inpaint status


def status(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["status", str(run)]) == 0
    return capsys.readouterr().out


def test_status_tells_it_wherever_the_file_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("{}\n")
    lines = [json.dumps(line) + "\n" for line in rows(**SURE)]
    whole, path = "".join(lines).encode(), tmp_path / "metrics.jsonl"
    path.write_bytes(whole)
    assert "health: discriminator saturated: the discriminator easily tells fills" in status(tmp_path, capsys)
    last = len(whole) - len(lines[-1])
    for size in {*range(last, len(whole)), *range(0, last, last // 80)}:
        path.write_bytes(whole[:size])
        said = status(tmp_path, capsys)
        complete = whole[:size].count(b"\n")
        assert names([json.loads(line) for line in lines[:complete]])[0] in said
        is_cut = not whole[:size].endswith(b"\n") and size > 0
        assert ("metrics.jsonl ends within a line, which is left out" in said) == is_cut
    path.write_bytes(whole[:-1] + b"\n\x00\x00\xff\n[1]\n")
    assert "metrics.jsonl: 2 damaged line(s) are left out" in status(tmp_path, capsys)
    for name in ("time/total_s", "total_steps", "images_seen", "epoch", "step"):  # whatever they hold
        path.write_bytes(whole + json.dumps({**json.loads(lines[0]), "time/total_s": 1.0, name: None}).encode() + b"\n")
        assert "health: " in status(tmp_path, capsys)
