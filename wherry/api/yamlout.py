"""Plain values to YAML text that reads back as itself, here and in kubectl. Called by the codec and the CLI (`-o yaml`).

Strings that YAML 1.1 would take for something else (yes, 017, 1e3, dates) are quoted.
"""

from __future__ import annotations

from typing import Any

import yaml

from wherry.api.yamltext import resolve

_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_DUMPER):  # type: ignore[misc]
    """No aliases for values that occur twice; text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: Any, value: str) -> Any:
    style = None
    if "\n" in value and not any(line.endswith((" ", "\t")) for line in value.split("\n")):
        style = "|"
    elif resolve(value) != value or value in ("=", "<<"):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def dump(value: Any) -> str:
    """Block style with sorted keys, as kubectl prints."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=True, allow_unicode=True, default_flow_style=False, width=10**6
    )
    return text
