"""Owns how the YAML of a config is read: numbers and booleans as YAML 1.2 has them, and never for long."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from inpaint.config import Config, is_text
from inpaint.errors import UsageError

_LARGEST_BYTES, _MOST_VALUES, _DEEPEST = 1 << 18, 1000, 20


class _Loader(yaml.SafeLoader):
    """`on` and 2020-05-01 are text, 1e-4 is a number; in YAML 1.1, which the parent reads, it is the other way.

    Aliases are written out and counted: nine of them, one in another, can stand for a billion values.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - so it is declared there
    num_values = 0

    def value_of(self, node: yaml.Node, key: str, depth: int = 0) -> Any:
        self.num_values += 1
        if self.num_values > _MOST_VALUES or depth > _DEEPEST:
            raise yaml.YAMLError(f"more than {_MOST_VALUES} values or {_DEEPEST} levels are no config's")
        if isinstance(node, yaml.MappingNode):
            return self._mapping_of(node, key, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.value_of(inner, key, depth + 1) for inner in node.value]
        is_null = node.tag == "tag:yaml.org,2002:null"
        if is_null and key in Config.model_fields:
            return {}  # an emptied section is one
        if is_text(key) and isinstance(node, yaml.ScalarNode) and node.style is None and not is_null:
            return node.value  # a folder called 2020 needs no quotes
        return self.construct_object(node)

    def _mapping_of(self, node: yaml.MappingNode, key: str, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, inner in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise yaml.YAMLError(f"a list or mapping cannot be a name{name.start_mark}")
            if name.value in values:  # the reader would silently take the last
                raise yaml.YAMLError(f"{name.value[:80]} stands twice{node.start_mark}")
            values[name.value] = self.value_of(inner, f"{key}.{name.value}" if key else name.value, depth + 1)
        return values


for _tag, _pattern, _first in (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", "[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def read_config_file(path: Path) -> dict[str, Any]:
    """What a file sets, by section; UsageError if it cannot be read, is no YAML, or larger than any config."""
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"--config {path}: is not a regular file")
        with path.open(encoding="utf-8") as file:
            text = file.read(_LARGEST_BYTES + 1)
        if len(text) > _LARGEST_BYTES:
            raise UsageError(f"--config {path}: is larger than a config can be (256 KiB)")
        values = read_yaml(text)
    except OSError as error:
        raise UsageError(f"--config {path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"--config {path}: not valid YAML ({' '.join(str(error).split())[:300]})") from error
    if not isinstance(values, dict | None):
        kind = type(values).__name__
        raise UsageError(f"--config {path}: holds a {kind}; sections such as `training:` are expected")
    return values or {}


def read_yaml(text: str, key: str = "") -> Any:
    """What YAML says for `key`, a dotted name, in the types of JSON; the whole config for "".

    It raises yaml.YAMLError, ValueError or RecursionError where that is nothing, or too much.
    """
    loader = _Loader(text)
    node = loader.get_single_node()
    return None if node is None else loader.value_of(node, key)
