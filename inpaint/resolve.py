"""Owns how `defaults < preset < file < flags` become one Config.

Everything is merged first and validated once, so that all faults of one try are named together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import ValidationError

from inpaint.config import Config, is_text, settings
from inpaint.config_file import read_config_file, read_yaml
from inpaint.errors import MOST_FAULTS, UsageError, first_few, shorten
from inpaint.hints import hint
from inpaint.tables import ADVERSARIAL_LOSSES, DISCRIMINATOR_LOSSES, LOSSES

PRESETS = Path(__file__).parent / "presets"
DEFAULT_PRESET = "quickstart"
# In a file: the preset that the rest of it changes.
BASE = "preset"
# What pydantic finds in the place of a tuple of numbers.
_SHAPELESS = ("tuple_type", "too_long", "missing", "float_type", "float_parsing")


def preset_names() -> list[str]:
    return sorted(str(path.relative_to(PRESETS).with_suffix("")) for path in PRESETS.rglob("*.yaml"))


def preset_descriptions() -> dict[str, str]:
    """Every preset's name and the first line of its comment."""
    texts = {name: (PRESETS / f"{name}.yaml").read_text(encoding="utf-8") for name in preset_names()}
    return {name: text.partition("\n")[0].removeprefix("# ") for name, text in texts.items()}


def load_config(base: str | Config | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """The config of a preset or a `.yaml` file with `flags` on top, validated once; UsageError with all its faults.

    Args:
        base: a preset's name, the path of a .yaml file, or a config; None is the preset `quickstart`.
        flags: dotted names such as `training.epochs` to values, text where the flag was text.
    """
    values, origin = _values(DEFAULT_PRESET if base is None else base)
    known = [key for key, _ in settings()]
    faults: list[str] = []
    for key, value in ((str(key), value) for key, value in (flags or {}).items()):
        if key in known:
            origin[key] = f"--{key}"
            _set(values, key, _typed(key, value))
        else:
            meant = _as_weight(key, value) or (hint(key, known) if len(faults) < MOST_FAULTS else None)
            faults.append(f"--{shorten(key)}: no such setting; {meant or '--help lists all'}")
    try:
        config = Config.model_validate_json(json.dumps(values, default=str, ensure_ascii=False).encode())
    except ValidationError as error:
        faults += [_describe(fault, origin) for fault in error.errors()]
    except ValueError as error:
        faults.append(f"a value can be no setting's ({error})")
    if faults := [*dict.fromkeys(faults)]:
        lines = [f"  {fault}" for fault in first_few(faults)]
        raise UsageError("\n".join([f"the configuration has {len(faults)} fault(s):", *lines]))
    return config


def _values(base: str | Config) -> tuple[dict[str, Any], dict[str, str]]:
    """What a preset, a file or a config sets, and in which file each of it stands."""
    if isinstance(base, Config):
        return base.model_dump(mode="json"), {}
    if not isinstance(base, str):
        raise UsageError(f"a config is a preset's name, a .yaml file or a Config; got {_short(base)}")
    if base.endswith((".yaml", ".yml")):
        path = Path(base)
    else:
        path = PRESETS / f"{_preset(base, f'--config {shorten(base)}')}.yaml"
    values = read_config_file(path)
    origin = dict.fromkeys(flat(values), f"in {path.name}")
    if (preset := values.pop(BASE, None)) is None:
        return values, origin
    under, origin_under = _values(_preset(preset, f"{path}: {BASE} = {_short(preset)}"))
    for section, inner in values.items():
        is_section = isinstance(inner, dict) and isinstance(under.get(section, {}), dict)
        under[section] = {**under.get(section, {}), **inner} if is_section else inner
    return under, origin_under | origin


def _preset(name: Any, where: str) -> str:
    names = preset_names()
    if name not in names:
        nearest = hint(str(name), names) or f"there are {', '.join(names)}"
        raise UsageError(f"{where}: no such preset (a file must end in .yaml); {nearest}")
    return name


def _typed(key: str, value: Any) -> Any:
    """A flag's text as YAML reads it, but left as text where the setting is text."""
    if isinstance(value, list):
        return [_typed(key, inner) for inner in value]
    if value == "null":
        return None
    if not isinstance(value, str) or not value.strip() or is_text(key):
        return value  # nothing is no value: an unset variable of the shell shall not pass for null
    try:
        return read_yaml(value, key)
    except (yaml.YAMLError, ValueError, RecursionError):
        return value


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            return  # a section that is none, which is a fault of the file and will be named
        values = inner
    values[last] = value


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _as_weight(key: str, value: Any) -> str | None:
    """How a flag that gives a loss or a kind of hole its weight is written, if `key` is meant as one."""
    parent, _, name = key.rpartition(".")
    if parent == "loss" and name.removesuffix("_weight") in LOSSES | ADVERSARIAL_LOSSES | DISCRIMINATOR_LOSSES:
        parent, name = "loss.terms", name.removesuffix("_weight")
    return f"write --{parent} '{{{name}: {value}}}'" if parent in ("loss.terms", "data.hole_kinds") else None


def _describe(fault: Any, origin: Mapping[str, str]) -> str:
    """One fault in a line: the setting, its value, where it stands, what is allowed."""
    key = ".".join(str(part) for part in fault["loc"] if not isinstance(part, int) and part != "[key]")
    known = dict(settings())
    where = f" ({origin[key]})" if key in origin else ""
    told = f"{shorten(key)} = {_short(fault['input'])}{where}"
    if fault["type"] == "extra_forbidden":
        return f"{told}: no such setting; {_in_its_place(key, [*known, *Config.model_fields])}"
    if key in known and get_origin(known[key].annotation) is tuple and fault["type"] in _SHAPELESS:
        return f"{told}: must be three numbers, separated by spaces (in YAML: [0.2, 0.5, 0.3])"
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    message = message.replace("a valid boolean", "true or false").replace(
        "String should have at least 1 character", "must not be empty"
    )
    if key in known and fault["type"] == "dict_type":
        message = "must be {name: weight}"
    if fault["type"] == "value_error" and (isinstance(fault["input"], dict) or fault["loc"][-1] == "[key]"):
        key = key.removesuffix(f".{fault['input']}")
        return f"{key}: {message}"
    if isinstance(fault["input"], str) and fault["type"] in ("int_type", "float_type", "bool_type"):
        message += ", and this is text"
    return f"{told}: {message}"


def _in_its_place(key: str, names: list[str]) -> str:
    """What to write for a file's `key` that there is not."""
    if key in names:  # one key with a dot in it
        section, _, name = key.partition(".")
        return f"in a file sections are nested: {section}: {{{name}: ...}}"
    siblings = sorted(name for name in names if name.rpartition(".")[0] == key.rpartition(".")[0])
    return hint(key, names) or f"known here: {', '.join(siblings or Config.model_fields)}"


def _short(value: Any) -> str:
    return shorten(repr(value))
