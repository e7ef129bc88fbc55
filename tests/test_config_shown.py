"""What the command line tells of the settings: help, printed configs, the list of presets, hints at other names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from configuring import config

from inpaint import hints
from inpaint.arguments import SWITCHES, VALUES, information, usage
from inpaint.config import Config, settings
from inpaint.errors import UsageError
from inpaint.hints import hint
from inpaint.resolve import preset_names
from inpaint.training.launch import main


def test_help_names_every_preset_and_setting() -> None:
    text = usage()
    assert all(name in text for name in [*preset_names(), *(f"--{name} (" for name, _ in settings())])
    assert "--model.norm (batch) batch|group|none  Norm" in text and "--data.flip (false) true|false  Mir" in text
    assert "--training.phases (0.33, 0.33, 0.34)  Shares" in text


def test_the_printed_defaults_are_a_config_file_of_the_defaults_each_explained(
    config_file: Callable[[str], str],
) -> None:
    text = information(["--print-defaults"])
    assert text is not None
    path = config_file(text)
    assert config("--config", path) == Config()
    lines = text.splitlines()
    for name, setting in settings():
        section, _, key = name.partition(".")
        assert setting.description, f"{name} has no docstring"
        (at,) = [at for at, line in enumerate(lines) if line.startswith(f"  {key}: ")]
        assert lines[at - 1].startswith(f"  # {setting.description}")
        assert section == next(line for line in reversed(lines[:at]) if not line.startswith(" "))[:-1]
    assert (
        "  # Normalisation after each convolution; `group` treats each image separately. (batch | group | none)"
        in lines
    )


@pytest.mark.parametrize("name", preset_names())
def test_a_presets_values_are_printed_and_read_again(name: str, config_file: Callable[[str], str]) -> None:
    argv = ["--config", name, "--data.path", "{a}: #1", "--data.cache-dir", "true", "--optimizer.beta1", "1e-5"]
    assert config("--config", config_file(information([*argv, "--print-defaults"]))) == config(*argv)


def test_what_cannot_be_set_is_not_printed() -> None:
    with pytest.raises(UsageError, match=r"did you mean training\.epochs"):
        information(["--print-defaults", "--training.epoch", "3"])


def test_presets_are_listed_with_what_they_are() -> None:
    assert (text := information(["--list-presets", "--config", "paper/final"])) is not None
    assert [line.split()[0] for line in text.splitlines()] == preset_names()
    assert "paper/original                The base network of Table 1 (the defaults)." in text
    assert all(len(line) > 50 and "#" not in line for line in text.splitlines())


def test_every_other_name_points_to_one_that_there_is() -> None:
    names = [*SWITCHES, *VALUES, *(name for name, _ in settings())]
    for elsewhere, meant in hints._MEANT.items():
        assert {*meant.split()} <= {*names}, elsewhere
        assert elsewhere.replace("_", "-") not in names and elsewhere not in hints._NOTES
        assert hint(f"{elsewhere.replace('_', '-')}", names) in (
            f"did you mean {' and '.join(meant.split())}?",
            *(f"did you mean {name}?" for name in names),
        )


@pytest.mark.parametrize(
    ("flags", "is_shown"), [([], False), (["--debug"], True), (["--debug=true"], True), (["--debug", "false"], False)]
)
def test_a_traceback_is_shown_where_it_is_asked_for(
    flags: list[str], is_shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", "nowhere", *flags]) == 2
    assert ("Traceback" in capsys.readouterr().err) == is_shown
