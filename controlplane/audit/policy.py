"""The audit policy: the first rule that matches a request says how much of it is written down. Pure.

The file is Kubernetes' own: `apiVersion: audit.k8s.io/v1`, `kind: Policy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.registry.base import Identity
from wherry.api import yamltext
from wherry.api.errors import APIError

LEVELS = ("None", "Metadata", "Request", "RequestResponse")
STAGES = ("RequestReceived", "ResponseStarted", "ResponseComplete", "Panic")
_VERSIONS = ("audit.k8s.io/v1",)
_FIELDS = frozenset(
    (
        "level",
        "users",
        "userGroups",
        "verbs",
        "resources",
        "namespaces",
        "nonResourceURLs",
        "omitStages",
        "omitManagedFields",
    )
)


class BadPolicy(ValueError):
    """Says which field of the file is wrong."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a rule looks at. `path` is set, and the rest empty, for what is no resource."""

    identity: Identity
    verb: str
    path: str = ""
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Resources:
    group: str = ""
    resources: Sequence[str] = ()
    names: Sequence[str] = ()

    def matches(self, subject: Subject) -> bool:
        if self.group not in ("*", subject.group):
            return False
        if self.names and subject.name not in self.names:
            return False
        return not self.resources or any(_resource(pattern, subject) for pattern in self.resources)


@dataclass(frozen=True, slots=True)
class Rule:
    level: str
    users: Sequence[str] = ()
    groups: Sequence[str] = ()
    verbs: Sequence[str] = ()
    resources: Sequence[Resources] = ()
    namespaces: Sequence[str] = ()
    paths: Sequence[str] = ()
    omit_stages: frozenset[str] = frozenset()
    omit_managed_fields: bool | None = None

    def matches(self, subject: Subject) -> bool:
        if self.users and subject.identity.user not in self.users:
            return False
        if self.groups and not any(group in self.groups for group in subject.identity.groups):
            return False
        if self.verbs and subject.verb not in self.verbs:
            return False
        if subject.path:
            if self.resources or self.namespaces:
                return False
            return not self.paths or any(_path(pattern, subject.path) for pattern in self.paths)
        if self.paths:
            return False
        if self.namespaces and subject.namespace not in self.namespaces:
            return False
        return not self.resources or any(found.matches(subject) for found in self.resources)


@dataclass(frozen=True, slots=True)
class Decision:
    level: str
    omit_stages: frozenset[str] = frozenset()
    omit_managed_fields: bool = False


NOTHING = Decision("None")


@dataclass(frozen=True, slots=True)
class Policy:
    rules: Sequence[Rule]
    omit_stages: frozenset[str] = frozenset()
    omit_managed_fields: bool = False

    def decide(self, subject: Subject) -> Decision:
        for rule in self.rules:
            if rule.matches(subject):
                omit = self.omit_managed_fields if rule.omit_managed_fields is None else rule.omit_managed_fields
                return Decision(rule.level, self.omit_stages | rule.omit_stages, omit)
        return NOTHING


def _resource(pattern: str, subject: Subject) -> bool:
    resource, _, below = pattern.partition("/")
    if resource not in ("*", subject.resource):
        return False
    if pattern == "*":
        return True  # all of the group, subresources too
    return below in ("*", subject.subresource) if "/" in pattern else not subject.subresource


def _path(pattern: str, path: str) -> bool:
    if pattern == "*":
        return True
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


# reading


def parse(text: str) -> Policy:
    """Raises BadPolicy."""
    try:
        value = yamltext.parse(text).value
    except APIError as error:
        raise BadPolicy(f"the audit policy does not parse: {error}") from error
    except ValueError as error:
        raise BadPolicy(f"the audit policy does not parse: {error}") from error
    if not isinstance(value, dict) or value.get("kind") != "Policy" or value.get("apiVersion") not in _VERSIONS:
        raise BadPolicy(f"the audit policy is no Policy of {_VERSIONS[0]}")
    rules = value.get("rules")
    if not isinstance(rules, list) or not rules:
        raise BadPolicy("loaded illegal policy with 0 rules")
    return Policy(
        [_rule(rule, f"rules[{index}]") for index, rule in enumerate(rules)],
        _stages(value.get("omitStages"), "omitStages"),
        value.get("omitManagedFields") is True,
    )


def _rule(value: Any, path: str) -> Rule:
    if not isinstance(value, Mapping):
        raise BadPolicy(f"{path}: a rule is an object")
    unknown = sorted(set(value) - _FIELDS)
    if unknown:
        raise BadPolicy(f'{path}: unknown field "{unknown[0]}"')
    level = value.get("level")
    if level not in LEVELS:
        raise BadPolicy(f'{path}.level: Unsupported value: "{level}": supported values: {", ".join(LEVELS)}')
    paths = _texts(value.get("nonResourceURLs"), f"{path}.nonResourceURLs")
    for found in paths:
        if found != "*" and (not found.startswith("/") or "*" in found[:-1]):
            raise BadPolicy(
                f'{path}.nonResourceURLs: Invalid value: "{found}": a path begins with / and has * at its end only'
            )
    resources = _list(value.get("resources"), f"{path}.resources")
    namespaces = _texts(value.get("namespaces"), f"{path}.namespaces")
    if paths and (resources or namespaces):
        raise BadPolicy(
            f"{path}.nonResourceURLs: Invalid value: rules cannot apply to both regular resources and non-resource URLs"
        )
    omit = value.get("omitManagedFields")
    return Rule(
        str(level),
        _texts(value.get("users"), f"{path}.users"),
        _texts(value.get("userGroups"), f"{path}.userGroups"),
        _texts(value.get("verbs"), f"{path}.verbs"),
        [_resources(item, f"{path}.resources[{index}]") for index, item in enumerate(resources)],
        namespaces,
        paths,
        _stages(value.get("omitStages"), f"{path}.omitStages"),
        omit if isinstance(omit, bool) else None,
    )


def _resources(value: Any, path: str) -> Resources:
    if not isinstance(value, Mapping):
        raise BadPolicy(f"{path}: want group, resources and resourceNames")
    resources = _texts(value.get("resources"), f"{path}.resources")
    names = _texts(value.get("resourceNames"), f"{path}.resourceNames")
    if names and not resources:
        raise BadPolicy(f"{path}.resourceNames: Invalid value: using resourceNames requires at least one resource")
    return Resources(str(value.get("group") or ""), resources, names)


def _list(value: Any, path: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadPolicy(f"{path}: want a list")
    return value


def _texts(value: Any, path: str) -> list[str]:
    found = _list(value, path)
    if not all(isinstance(item, str) for item in found):
        raise BadPolicy(f"{path}: want a list of texts")
    return found


def _stages(value: Any, path: str) -> frozenset[str]:
    found = _texts(value, path)
    for stage in found:
        if stage not in STAGES:
            raise BadPolicy(f'{path}: Unsupported value: "{stage}": supported values: {", ".join(STAGES)}')
    return frozenset(found)
