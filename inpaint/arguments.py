"""Owns `train.py`'s command line: `--config`, `--run-dir` and the like, and a dotted flag for every setting."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inpaint.config import Config, choices_of, settings
from inpaint.errors import MOST_FAULTS, UsageError, first_few, shorten
from inpaint.hints import hint
from inpaint.resolve import DEFAULT_PRESET, load_config, preset_descriptions


@dataclass(frozen=True)
class Options:
    """The command line's options besides the config."""

    run_dir: Path
    resume: bool = True
    overwrite: bool = False
    dry_run: bool = False
    init_from: str | None = None
    profile: int = 0


SWITCHES = {
    "no-resume": "refuse to touch an existing run",
    "overwrite": "with --no-resume: delete the existing run",
    "dry-run": "print the resolved config, parameter counts and number of steps, and exit",
    "debug": "show tracebacks",
    "print-defaults": "print a config file of all settings, explained: the defaults, or what --config sets; and exit",
    "list-presets": "print the presets with their descriptions, and exit",
    "help": "show this and exit",
}
VALUES = {
    "config": f"a preset, or a .yaml file, which may build on one with `preset: NAME` (default: {DEFAULT_PRESET})",
    "run-dir": "the run's folder (default: runs/<preset>, or runs/<preset>-<last part of data.path>)",
    "init-from": "start a new run from a generator's weights: a folder or a Hub id",
    "profile": "trace this many steps of each phase into <run-dir>/profile; open the files in ui.perfetto.dev",
}


def information(argv: list[str]) -> str | None:
    """The answer to --help, --list-presets or --print-defaults; None where none of them is asked for."""
    given = _read(argv)[0]
    if "--help" in argv or "-h" in argv:
        return usage()
    if given.get("list-presets"):
        return "\n".join(f"{name:<29} {description}" for name, description in preset_descriptions().items())
    return parse_arguments(argv)[0].explained() if given.get("print-defaults") else None


def is_debug(argv: list[str]) -> bool:
    """Whether tracebacks are to be shown, whatever is wrong with the rest of the command line."""
    return bool(_read(argv)[0].get("debug"))


def parse_arguments(argv: list[str]) -> tuple[Config, Options]:
    """The config and options of a command line; UsageError with all faults together, and the nearest valid names."""
    given, flags, faults = _read(argv)
    name = given.get("config")
    faults = first_few(faults)
    try:
        config = load_config(Config() if name is None and given.get("print-defaults") else name, flags)
    except UsageError as error:
        faults.append(str(error))
    if given.get("overwrite") and not given.get("no-resume"):
        faults.append("--overwrite needs --no-resume; the same command without either resumes the run")
    profile = given.get("profile", "0")
    if not profile.isdecimal():
        faults.append(f"--profile is a number of steps, 1 or more; got {profile!r}")
    if faults:
        raise UsageError("\n".join(faults))
    return config, Options(
        run_dir=Path(given.get("run-dir", default_run_dir(name, config.data.path))),
        resume=not given.get("no-resume", False),
        overwrite=bool(given.get("overwrite")),
        dry_run=bool(given.get("dry-run")),
        init_from=given.get("init-from"),
        profile=int(profile),
    )


def read_settings(argv: Sequence[str]) -> dict[str, Any]:
    """The settings of a command line that holds nothing else, by their dotted names; UsageError if it does."""
    given, flags, faults = _read([*argv])
    faults += [f"--{name} cannot be given here; only settings can, such as --training.epochs 20" for name in given]
    if faults:
        raise UsageError("\n".join(first_few(faults)))
    return flags


def default_run_dir(config: str | Config | None, data_path: str | None) -> Path:
    """The default run directory: runs/<preset or file name>, followed by -<last part of data.path> if there is one."""
    name = Path(config if isinstance(config, str) else DEFAULT_PRESET)
    run_dir = Path("runs") / (name.stem if name.suffix in (".yaml", ".yml") else name)
    # Resolved, since `.` and `..` have no name of their own.
    data = Path(data_path).resolve().name if data_path is not None else ""
    return run_dir.with_name(f"{run_dir.name}-{data}") if data else run_dir


def usage() -> str:
    """The text of --help."""
    lines = [
        "usage: accelerate launch [--config_file accelerate_configs/X.yaml] train.py [--config NAME|FILE.yaml]",
        "                         [--run-dir DIR] [--section.field VALUE ...]",
        "",
        "Train an inpainting GAN. Without arguments: on synthetic landscapes, about 2.5 minutes on two CPU cores. The",
        "same command again resumes. Example: accelerate launch train.py --data.path photos/ --training.epochs 20",
        "",
    ]
    lines += [f"  --{name:<14} {text}" for name, text in {**VALUES, **SWITCHES}.items()]
    lines += ["", f"presets: {', '.join(preset_descriptions())}", "", "settings, with the defaults under every preset:"]
    for name, setting in settings():
        default = setting.default if isinstance(setting.default, str) else json.dumps(setting.default)
        choices = f" {allowed}" if (allowed := "|".join(choices_of(name, setting))) else ""
        lines.append(f"  --{name} ({default.strip('[]')}){choices}  {setting.description}")
    return "\n".join(lines)


def _read(argv: list[str]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Options, the flags that are settings, and what is wrong with the rest."""
    known = [*SWITCHES, *VALUES, *(name for name, _ in settings())]
    given: dict[str, Any] = {}
    flags: dict[str, Any] = {}
    faults: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            word = shorten(repr(word))
            faults.append(f"{word} stands alone; every value follows its flag, as in --training.epochs 20")
            continue
        name, equals, inline = word[2:].partition("=")
        values = [inline] if equals else []
        while not equals and rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        dotted = "." in name
        name = name.replace("-", "_") if dotted else name.replace("_", "-")
        if dotted:
            flags[name] = values if len(values) > 1 else values[0] if values else True
        elif name in SWITCHES and len(values) <= 1:
            text = values[0].lower() if values else "true"
            if text not in ("true", "false"):
                faults.append(f"--{name} is on or off; got {shorten(repr(values[0]))}, allowed: true, false or nothing")
            given[name] = text == "true"
        elif name in VALUES and len(values) == 1 and values[0]:
            given[name] = values[0]
        elif name in VALUES:
            faults.append(f"--{name} takes one value; got {shorten(str(values or 'none'))}: {VALUES[name]}")
        else:
            meant = hint(name, known, mark="--") if len(faults) < MOST_FAULTS else None
            faults.append(f"--{shorten(name)}: no such flag; {meant or '--help lists all'}")
    return given, flags, faults
