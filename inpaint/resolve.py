"""Owns how `defaults < preset or file < flags` become one Config.

Everything is merged first and validated once, so that all faults of one try are named together.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from inpaint.config import Config, Section, Text
from inpaint.errors import UsageError

PRESETS = Path(__file__).parent / "presets"
DEFAULT_PRESET = "quickstart"


def preset_names() -> list[str]:
    return sorted(str(path.relative_to(PRESETS).with_suffix("")) for path in PRESETS.rglob("*.yaml"))


def load_config(base: str | Config | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """The config of a preset or a `.yaml` file with `flags` on top, validated once.

    Args:
        base: a preset's name, the path of a .yaml file, or a config; None is the preset `quickstart`.
        flags: dotted names such as `training.epochs` to values, text where the flag was text.

    Raises:
        UsageError: with all faults of this try, one a line.
    """
    values, origin = _values(DEFAULT_PRESET if base is None else base)
    known = [key for key, _ in settings()]
    faults = []
    for key, value in ((str(key), value) for key, value in (flags or {}).items()):
        if key not in known:
            faults.append(f"--{key}: no such setting{_nearest(key, known, '--help lists all')}")
            continue
        origin[key] = f"--{key}"
        _set(values, key, _typed(key, value))
    try:
        config = Config.model_validate_json(json.dumps(values, default=str, ensure_ascii=False).encode())
    except ValidationError as error:
        faults += [_describe(fault, origin) for fault in error.errors()]
    except ValueError as error:
        faults.append(f"a value can be no setting's ({error})")
    if faults:
        lines = "\n".join(f"  {fault}" for fault in faults)
        raise UsageError(f"the configuration has {len(faults)} fault(s):\n{lines}")
    return config


def _values(base: str | Config) -> tuple[dict[str, Any], dict[str, str]]:
    """What a preset, a file or a config sets, and in which file each of it stands."""
    if isinstance(base, Config):
        return base.model_dump(mode="json"), {}
    path = Path(base) if base.endswith((".yaml", ".yml")) else PRESETS / f"{base}.yaml"
    if path.parent.is_relative_to(PRESETS) and base not in preset_names():
        hint = _nearest(base, preset_names(), f"there are {', '.join(preset_names())}")
        raise UsageError(f"--config {base}: no such preset{hint}; a file must end in .yaml")
    values = _read_yaml(path)
    return values, {key: f"in {path.name}" for key, _ in _leaves(values)}


def settings() -> Iterator[tuple[str, FieldInfo]]:
    """Every setting's dotted name with its type, default and description."""
    for section, field in Config.model_fields.items():
        assert isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        for name, setting in field.annotation.model_fields.items():
            yield f"{section}.{name}", setting


class _Loader(yaml.SafeLoader):
    """YAML as it is meant: of two values for one key the reader would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag.endswith(":str")]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"{min(twice)} stands twice{node.start_mark}")
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        if not isinstance(values, dict | None):
            kind = type(values).__name__
            raise UsageError(f"--config {path}: holds a {kind}; sections such as `training:` are expected")
        return _plain(values or {})
    except OSError as error:
        raise UsageError(f"--config {path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"--config {path}: not valid YAML ({' '.join(str(error).split())})") from error


def _plain(value: Any, key: str = "") -> Any:
    """What YAML gave for `key`, as JSON means it: 1e-4 is a number (YAML 1.1 says text), an emptied section is one."""
    if isinstance(value, dict):
        return {str(name): _plain(inner, f"{key}.{name}" if key else str(name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, key) for inner in value]
    if value is None and key in Config.model_fields:
        return {}
    if isinstance(value, str) and any(char.isdigit() for char in value) and not _takes_text(key):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _typed(key: str, value: Any) -> Any:
    """A flag's text as YAML reads it, but left as text where the setting is text."""
    if isinstance(value, list):
        return [_typed(key, inner) for inner in value]
    if value == "null":
        return None
    if not isinstance(value, str) or not value.strip() or _takes_text(key):
        return value  # nothing is no value: an unset variable of the shell shall not pass for null
    try:
        return _plain(yaml.safe_load(value), key)
    except (yaml.YAMLError, ValueError, RecursionError):
        return value


def _takes_text(key: str) -> bool:
    setting = dict(settings()).get(key)
    return setting is not None and Text in get_args(setting.annotation)


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            return  # a section that is none, which is a fault of the file and will be named
        values = inner
    values[last] = value


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _describe(fault: Any, origin: dict[str, str]) -> str:
    parts = [str(part) for part in fault["loc"] if not isinstance(part, int)]
    key = ".".join(parts)
    where = f" ({origin[key]})" if key in origin else ""
    names = [name for name, _ in settings()] + list(Config.model_fields)
    if fault["type"] == "extra_forbidden":
        siblings = [name for name in names if name.rpartition(".")[0] == key.rpartition(".")[0]]
        nearest = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known here: {', '.join(sorted(siblings)) or names}"
        return f"{key} = {fault['input']!r}{where}: no such setting; {hint}"
    message = fault["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "must be")
    if fault["type"] == "value_error" and isinstance(fault["input"], dict):
        return f"{key}: {message}"
    return f"{key} = {fault['input']!r}{where}: {message}"


def _nearest(name: str, names: list[str], otherwise: str) -> str:
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else f"; {otherwise}"
