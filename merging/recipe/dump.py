"""Plain data written as the YAML of recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


def dump(value: Any) -> str:
    """A recipe, or a part of one: keys in the given order, gradients and short filters on one line."""
    value = dict(value) if isinstance(value, Mapping) else value
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def on_one_line(value: Any) -> str:
    """A value in flow style, quoted as inside brackets: `0.5`, `[0, 0.5, 1]`, `{filter: mlp, value: 1}`."""
    written = yaml.dump(
        [value],
        Dumper=_Dumper,
        default_flow_style=True,
        sort_keys=False,
        allow_unicode=True,
        width=1_000_000,
    )
    return written.strip()[1:-1]


class _Dumper(yaml.SafeDumper):
    """Indents lists under their key, and writes lists of plain values on one line."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    plain = not any(isinstance(value, dict | list) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=plain or None)


_Dumper.add_representer(list, _represent_list)
