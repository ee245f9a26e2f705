"""Rules of RBAC as values: what one covers, whether some of them cover another, and how they are written in a refusal. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from controlplane.auth.authorizer import Attributes


@dataclass(frozen=True, slots=True)
class Rule:
    """A PolicyRule. `*` stands for all; `*/scale` for that subresource of all resources."""

    verbs: tuple[str, ...]
    groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()

    def allows(self, asked: Attributes) -> bool:
        if not _in(asked.verb, self.verbs):
            return False
        if asked.path:
            return any(_url_covers(url, asked.path) for url in self.urls)
        resource = f"{asked.resource}/{asked.subresource}" if asked.subresource else asked.resource
        return (
            _in(asked.group, self.groups)
            and any(_resource_covers(found, resource) for found in self.resources)
            and (not self.names or asked.name in self.names)
        )

    def parts(self) -> Iterator[Rule]:
        """The same, one of each a rule."""
        for verb in self.verbs:
            for url in self.urls:
                yield Rule((verb,), urls=(url,))
            for group, resource, name in product(self.groups, self.resources, self.names or (None,)):
                yield Rule((verb,), (group,), (resource,), (name,) if name is not None else ())

    def covers(self, part: Rule) -> bool:
        """`part` is one of `parts`."""
        if not _in(part.verbs[0], self.verbs):
            return False
        if part.urls:
            return any(_url_covers(url, part.urls[0]) for url in self.urls)
        return (
            _in(part.groups[0], self.groups)
            and any(_resource_covers(found, part.resources[0]) for found in self.resources)
            and (not self.names or (bool(part.names) and part.names[0] in self.names))
        )

    def __str__(self) -> str:
        fields = (
            ("APIGroups", self.groups), ("Resources", self.resources), ("NonResourceURLs", self.urls),
            ("ResourceNames", self.names), ("Verbs", self.verbs),
        )  # fmt: skip
        shown = (f"{name}:{json.dumps(list(values), separators=(',', ':'))}" for name, values in fields if values)
        return "{" + ", ".join(shown) + "}"


def of(rules: Any) -> tuple[Rule, ...]:
    """From PolicyRule messages."""
    return tuple(
        Rule(
            tuple(rule.verbs), tuple(rule.api_groups), tuple(rule.resources), tuple(rule.resource_names),
            tuple(rule.non_resource_urls),
        )
        for rule in rules
    )  # fmt: skip


def uncovered(held: Sequence[Rule], wanted: Sequence[Rule]) -> list[Rule]:
    """What of `wanted` nothing in `held` covers; verbs for the same thing are put together again."""
    missing: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for rule in wanted:
        for part in rule.parts():
            if not any(own.covers(part) for own in held):
                verbs = missing.setdefault((part.groups, part.resources, part.names, part.urls), [])
                if part.verbs[0] not in verbs:
                    verbs.append(part.verbs[0])
    return [Rule(tuple(verbs), *place) for place, verbs in missing.items()]


def _in(value: str, values: Sequence[str]) -> bool:
    return "*" in values or value in values


def _resource_covers(found: str, resource: str) -> bool:
    if found in ("*", resource):
        return True
    return found.startswith("*/") and "/" in resource and resource.rpartition("/")[2] == found[2:]


def _url_covers(found: str, url: str) -> bool:
    return found in ("*", url) or (found.endswith("*") and url.startswith(found[:-1]))
