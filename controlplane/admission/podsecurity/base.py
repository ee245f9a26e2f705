"""What the checks share: the form of a check, walking over containers, and words. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple


class Violation(NamedTuple):
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


# Gets metadata and spec of a pod, gives what is wrong with it.
Check = Callable[[Any, Any], Violation | None]


class Versioned(NamedTuple):
    """Versions of a check by the minor version of Kubernetes since which they hold, newest first."""

    id: str
    versions: Sequence[tuple[int, Check]]

    def at(self, minor: int) -> Check | None:
        return next((check for since, check in self.versions if since <= minor), None)


def containers(spec: Any) -> Iterator[Any]:
    yield from spec.init_containers
    yield from spec.containers
    for container in spec.ephemeral_containers:
        yield container.ephemeral_container_common


def quoted(words: Iterable[str]) -> str:
    return ", ".join(json.dumps(word, ensure_ascii=False) for word in words)


def plural(one: str, many: str, number: int) -> str:
    return one if number == 1 else many


def those(names: Sequence[str]) -> str:
    """`container "a"`, `containers "a", "b"`."""
    return f"{plural('container', 'containers', len(names))} {quoted(names)}"


def setters(pod: bool, names: Sequence[str]) -> str:
    """Who sets what must not be set: the pod, containers, both; nobody: empty."""
    return " and ".join((["pod"] if pod else []) + ([those(names)] if names else []))


def in_user_namespace(spec: Any) -> bool:
    """Root in such a pod is nobody on the node."""
    return bool(spec.HasField("host_users")) and not spec.host_users


def is_windows(spec: Any) -> bool:
    return bool(spec.os.name == "windows")
