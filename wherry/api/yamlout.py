"""Plain values to YAML text that reads back as itself, here and in kubectl. Called by the codec and the CLI (`-o yaml`).

Strings that YAML 1.1 would take for something else (yes, 017, 1e3, dates) are quoted.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from wherry.api.yamltext import resolve

_TEXT = "tag:yaml.org,2002:str"


@cache
def _scalar() -> Any:
    import yaml

    return yaml.ScalarNode


@cache
def _dumper() -> Any:
    """Made at first use, since PyYAML is imported only then. No aliases for values that occur twice."""
    import yaml

    base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    dumper: Any = type("Dumper", (base,), {"ignore_aliases": lambda self, data: True})
    dumper.add_representer(str, _text)
    return dumper


def _text(dumper: Any, value: str) -> Any:
    """Text of several lines as a block; quotes where the plain form would be read as something else."""
    style = None
    if "\n" in value and not any(line.endswith((" ", "\t")) for line in value.split("\n")):
        style = "|"
    elif dumper.resolve(_scalar(), value, (True, False)) != _TEXT or resolve(value) != value:
        style = '"'
    return dumper.represent_scalar(_TEXT, value, style=style)


def dump(value: Any) -> str:
    """Block style with sorted keys, as kubectl prints."""
    import yaml

    text: str = yaml.dump(
        value, Dumper=_dumper(), sort_keys=True, allow_unicode=True, default_flow_style=False, width=10**6
    )
    return text
