"""Flags as people write them for kubectl: `--watch=false`, a bare `--dry-run`, `get pods --context x`, `-n web get pods`.

`Command` is the class of every command of `wherry.cli.app`; before the line is parsed, `respelled` (pure) rewrites what the
option parser would refuse. What stands after `--` is never touched.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from typer.core import TyperCommand, TyperOption

from wherry.cli.resources import UsageError
from wherry.cli.session import GLOBALS

# They stand before the command's name in the help, and are understood behind it too.
GLOBAL_FLAGS = {
    "--config": "config",
    "--kubeconfig": "config",
    "--context": "context",
    "--server": "server",
    "-s": "server",
}
TRUE, FALSE = ("true", "t", "1"), ("false", "f", "0")
# Flags whose value may be left out: (the value that is then meant, the values that may follow as a word of their own).
OPTIONAL_VALUES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "--dry-run": ("client", ("none", "client", "server")),
    "--cascade": ("background", ("background", "foreground", "orphan")),
    "--validate": ("strict", ("strict", "warn", "ignore", "true", "false")),
}


def respelled(words: Sequence[str], switches: Mapping[str, str], valued: Sequence[str]) -> list[str]:
    """The words as the option parser takes them.

    `switches` has each flag that takes no value and its opposite ("" when leaving it out is the opposite); `valued` are the
    flags that take one.
    """
    result: list[str] = []
    for index, word in enumerate(words):
        if word == "--":
            return [*result, *words[index:]]
        name, equals, value = word.partition("=")
        if equals and name in switches and value.lower() in (*TRUE, *FALSE):
            if value.lower() in TRUE:
                result.append(name)
            elif switches[name]:
                result.append(switches[name])
        elif equals and len(name) == 2 and name in valued:
            result.extend((name, value))  # -o=yaml: the parser would take the equals sign for a part of the value
        elif word in OPTIONAL_VALUES and word in valued:
            meant, allowed = OPTIONAL_VALUES[word]
            follows = words[index + 1] if index + 1 < len(words) else ""
            result.append(word if follows in allowed else f"{word}={meant}")
        else:
            result.append(word)
    return result


def take_globals(words: Sequence[str], own: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """(the other words, value of each global flag among them). `own` are the command's flags, which come first. Raises
    UsageError for a flag without its value."""
    result: list[str] = []
    found: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if word == "--":
            return [*result, word, *rest], found
        name, equals, value = word.partition("=")
        field = None if name in own else GLOBAL_FLAGS.get(name)
        if field is None:
            result.append(word)
        elif equals:
            found[field] = value
        else:
            following = next(rest, None)
            if following is None:
                raise UsageError(f"flag needs an argument: {name}")
            found[field] = following
    return result, found


class Command(TyperCommand):
    """A command that also understands the global flags, and the spellings above."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        switches: dict[str, str] = {}
        valued: list[str] = []
        takes_namespace = False
        for parameter in self.params:
            if not isinstance(parameter, TyperOption):
                continue
            takes_namespace = takes_namespace or "--namespace" in parameter.opts
            if not parameter.is_flag:
                valued.extend(parameter.opts)
                continue
            opposite = parameter.secondary_opts[0] if parameter.secondary_opts else ""
            switches.update(dict.fromkeys(parameter.opts, opposite))
        try:
            words, found = take_globals(args, {*switches, *valued})
        except UsageError as error:
            ctx.fail(str(error))
        for field, value in found.items():
            setattr(GLOBALS, field, value)
        words = respelled(words, switches, valued)
        if GLOBALS.namespace and takes_namespace:
            words = ["--namespace", GLOBALS.namespace, *words]  # one given behind the command wins
        return super().parse_args(ctx, words)
