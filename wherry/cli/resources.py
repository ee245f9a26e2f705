"""Names as people write them: `po`, `pods`, `Pod`, `deployments.apps`, `deploy/web`, `pods,svc`, `all`.

Pure: from what discovery says and the words of the command line to (resource, name) pairs. Errors are `UsageError`, in
kubectl's words.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from wherry.api import kinds
from wherry.pb import resources_pb2


class UsageError(Exception):
    """What the person typed makes no sense; printed as `error: ...`, exit code 1."""


@dataclass(frozen=True, slots=True)
class Target:
    """One resource, and one name of it or all (`name` is empty)."""

    resource: resources_pb2.APIResource
    name: str = ""


def message_class(resource: resources_pb2.APIResource) -> type[Message]:
    """The class of the kind; for a custom resource, what stands for one (see `kinds.DynamicClass`)."""
    return kinds.of_resource(resource).message


def full_name(resource: resources_pb2.APIResource) -> str:
    """As printed by kubectl: `pod`, `deployment.apps`."""
    return f"{resource.singular}.{resource.group}" if resource.group else resource.singular


class Catalogue:
    """The served resources, found by any of their names (case does not matter)."""

    def __init__(self, resources: Sequence[resources_pb2.APIResource]) -> None:
        self.resources = list(resources)
        self._by_name: dict[str, resources_pb2.APIResource] = {}
        for resource in self.resources:
            names = (resource.plural, resource.singular, resource.kind.lower(), *resource.short_names)
            for name in filter(None, names):
                # The first wins, as in discovery order: "events" is core/v1 before events.k8s.io.
                self._by_name.setdefault(name.lower(), resource)
                if resource.group:
                    self._by_name.setdefault(f"{name}.{resource.group}".lower(), resource)
                self._by_name.setdefault(f"{name}.{resource.version}.{resource.group}".lower().rstrip("."), resource)

    def find(self, name: str) -> resources_pb2.APIResource:
        found = self._by_name.get(name.lower())
        if found is None:
            near = difflib.get_close_matches(name.lower(), self._by_name, n=1)
            hint = f' (did you mean "{near[0]}"?)' if near else ""
            raise UsageError(f'the server doesn\'t have a resource type "{name}"{hint}')
        return found

    def find_kind(self, api_version: str, kind: str) -> resources_pb2.APIResource:
        for resource in self.resources:
            version = f"{resource.group}/{resource.version}" if resource.group else resource.version
            if version == api_version and resource.kind == kind:
                return resource
        raise UsageError(f'no matches for kind "{kind}" in version "{api_version}"')

    def find_many(self, names: str) -> list[resources_pb2.APIResource]:
        """`pods,svc`, or a category such as `all`."""
        found: list[resources_pb2.APIResource] = []
        for name in names.split(","):
            in_category = [resource for resource in self.resources if name.lower() in resource.categories]
            for resource in in_category or [self.find(name)]:
                if resource not in found:
                    found.append(resource)
        return found

    def targets(self, words: Sequence[str]) -> list[Target]:
        """`pods`, `pods a b`, `pods,svc`, `pods,svc a`, `pod/a svc/b`."""
        if not words:
            raise UsageError("you must specify the type of resource, for example: pods, deployment/web")
        slashed = [word for word in words if "/" in word]
        if slashed and len(slashed) != len(words):
            raise UsageError(
                "there is no need to specify a resource type as a separate argument when passing arguments in "
                f'resource/name form (e.g. "{slashed[0]}" instead of "{" ".join(words)}")'
            )
        if slashed:
            targets: list[Target] = []
            for word in slashed:
                kind, _, name = word.partition("/")
                if not kind or not name or "/" in name:
                    raise UsageError(
                        f'arguments in resource/name form must have a single resource and name, not "{word}"'
                    )
                targets.extend(Target(resource, name) for resource in self.find_many(kind))
            return targets
        resources = self.find_many(words[0])
        if len(words) == 1:
            return [Target(resource) for resource in resources]
        return [Target(resource, name) for resource in resources for name in words[1:]]

    def one(self, words: Sequence[str], *, default: str = "") -> Target:
        """Exactly one named object; `default` is the resource of a bare name (`logs web` means the pod web)."""
        if default and len(words) == 1 and "/" not in words[0]:
            return Target(self.find(default), words[0])
        targets = self.targets(words)
        if len(targets) != 1 or not targets[0].name:
            raise UsageError(
                f'exactly one NAME is required, for example {words[0].partition("/")[0]}/web; got "{" ".join(words)}"'
            )
        return targets[0]
