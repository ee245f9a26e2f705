"""What a new cluster has for authorisation and priorities: the roles and bindings of `default_roles.txt`, two PriorityClasses;
and with them what `controlplane.registry.shipped` lists.

Made once, in one batch after the control plane serves: `controlplane.server` runs `ensure`, and RBAC waits for it. A mark in
the store says which version is there, so that later starts cost one read. Lines of the file:

    ClusterRole NAME [to=VIEW ...] [from=VIEW ...]      `to`: is part of that aggregated role; `from`: is made of such parts
    Role NAMESPACE/NAME
      VERBS GROUPS RESOURCES [NAMES]                    a rule of the role above ('' is the core group)
      VERBS urls URLS
    ClusterRoleBinding NAME KIND=ROLE SUBJECT ...       a subject: User=NAME, Group=NAME, ServiceAccount=NAMESPACE/NAME
    RoleBinding NAMESPACE/NAME KIND=ROLE SUBJECT ...
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib import resources
from typing import Any

from google.protobuf.message import Message

from controlplane.registry import shipped
from controlplane.registry.registry import Registry
from controlplane.store.base import Compare, Put, Store
from wherry.api import kinds

MARK_KEY = "/wherry/defaults"
GROUP = "rbac.authorization.k8s.io"
_AGGREGATE = "rbac.authorization.k8s.io/aggregate-to-"
_PRIORITIES = (
    ("system-cluster-critical", 2000000000, "For pods that the cluster cannot do without, on whichever node."),
    ("system-node-critical", 2000001000, "For pods that a node cannot do without."),
)


async def ensure(registry: Registry, store: Store) -> None:
    """Raises APIError, StoreError. Safe to be cut off anywhere, and to run in several replicas at once."""
    text = (resources.files("controlplane.auth") / "default_roles.txt").read_text()
    mark = hashlib.sha256((text + shipped.version()).encode()).hexdigest().encode()
    kept = await store.get(MARK_KEY)
    if kept is not None and kept.value == mark:
        return
    await registry.seed([*roles(text), *priorities(), *registry.shipped()])
    await store.txn([Compare(MARK_KEY, kept.mod_revision if kept is not None else 0)], [Put(MARK_KEY, mark)])


def priorities() -> Iterator[Message]:
    for name, value, description in _PRIORITIES:
        found: Any = kinds.by_name("scheduling.k8s.io/v1", "PriorityClass").message()
        found.value, found.description = value, description
        found.metadata.name = name
        yield found


def roles(text: str) -> Iterator[Message]:
    current: Any = None
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        words = line.split()
        if line.startswith(" "):
            _rule(current.rules.add(), words)
            continue
        if current is not None:
            yield current
        current = _object(words)
    if current is not None:
        yield current


def _object(words: list[str]) -> Any:
    kind, name, *rest = words
    obj: Any = kinds.by_name(f"{GROUP}/v1", kind).message()
    if kind.startswith("Cluster"):
        obj.metadata.name = name
    else:
        obj.metadata.namespace, _, obj.metadata.name = name.partition("/")
    obj.metadata.labels["kubernetes.io/bootstrapping"] = "rbac-defaults"
    obj.metadata.annotations["rbac.authorization.kubernetes.io/autoupdate"] = "true"
    if kind.endswith("Binding"):
        role, *subjects = rest
        obj.role_ref.api_group = GROUP
        obj.role_ref.kind, _, obj.role_ref.name = role.partition("=")
        for subject in subjects:
            _subject(obj.subjects.add(), subject)
        return obj
    for word in rest:
        what, _, view = word.partition("=")
        if what == "to":
            obj.metadata.labels[_AGGREGATE + view] = "true"
        else:
            obj.aggregation_rule.cluster_role_selectors.add().match_labels[_AGGREGATE + view] = "true"
    return obj


def _subject(subject: Any, word: str) -> None:
    subject.kind, _, subject.name = word.partition("=")
    if subject.kind == "ServiceAccount":
        subject.namespace, _, subject.name = subject.name.partition("/")
    else:
        subject.api_group = GROUP


def _rule(rule: Any, words: list[str]) -> None:
    rule.verbs.extend(words[0].split(","))
    if words[1] == "urls":
        rule.non_resource_urls.extend(words[2].split(","))
        return
    rule.api_groups.extend("" if group == "''" else group for group in words[1].split(","))
    rule.resources.extend(words[2].split(","))
    if len(words) > 3:
        rule.resource_names.extend(words[3].split(","))
