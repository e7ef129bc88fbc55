"""`--profile`: traces that Perfetto opens, of the steps asked for, and a summary that adds up."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
from running import tiny_config, train

from inpaint.arguments import parse_arguments
from inpaint.errors import UsageError

SPANS = {"data wait", "forward", "backward", "optimizer"}


@pytest.mark.parametrize("processes", [1, 2])
def test_each_phase_is_traced_and_its_time_told(tmp_path: Path, processes: int) -> None:
    """20 steps of phases 0.4, 0.3, 0.3 in an epoch; 3 of each warm up."""
    config = tiny_config(tmp_path, data={"synthetic_train": 320}, training={"epochs": 1})
    run = tmp_path / "run"
    train("--config", config, "--run-dir", run, "--profile", "2", processes=processes).ok()
    summary = (run / "profile" / "summary.txt").read_text()
    for phase in (1, 2, 3):
        with gzip.open(run / "profile" / f"phase_{phase}.json.gz", "rt") as file:
            events = [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]
        named = [event["name"] for event in events if event.get("cat") == "user_annotation"]
        assert named.count("step") == named.count("data wait") == 2
        assert set(named) >= SPANS
        assert named.count("optimizer") == (4 if phase == 3 else 2)
        block = summary.split(f"phase {phase}, 2 step(s)")[1].split("phase")[0]
        found = {name.strip(): float(ms) for name, ms in re.findall(r"^  ([a-z ]+?) +(-?[\d.]+) ", block, re.MULTILINE)}
        assert found["the rest"] >= 0
        parts = sum(value for name, value in found.items() if name not in ("step", "reduce"))
        assert parts == pytest.approx(found["step"], abs=0.01)
        assert (found["reduce"] > 0) == (processes > 1)


@pytest.mark.parametrize("value", ["-1", "two", "1.5"])
def test_a_number_of_steps_is_asked_for(value: str) -> None:
    with pytest.raises(UsageError, match=f"--profile is a number of steps, 1 or more; got '{value}'"):
        parse_arguments(["--profile", value])


def test_by_default_nothing_is_traced() -> None:
    assert parse_arguments([])[1].profile == 0
    assert parse_arguments(["--profile", "3"])[1].profile == 3
