"""Strategies of the small kinds: Namespace, Node, ConfigMap, Secret, ServiceAccount, Event, Lease, certificate requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from controlplane.registry import deletion
from controlplane.registry.defaults import core as defaults
from controlplane.registry.strategy import Strategy
from controlplane.registry.validation import core as validation
from controlplane.registry.validation import nodes as node_validation
from wherry.api.errors import Cause
from wherry.pb import meta_v1_pb2


@dataclass(slots=True)
class Namespaces(Strategy):
    has_status: bool = True

    def defaults_of_new(self, obj: Any) -> None:
        defaults.namespace(obj)

    def defaults_of_name(self, obj: Any) -> None:
        defaults.namespace(obj)

    def prepare_create(self, obj: Any) -> None:
        Strategy.prepare_create(self, obj)
        obj.status.phase = "Active"
        # Held by the namespace controller until everything in it is gone.
        if "kubernetes" not in obj.spec.finalizers:
            obj.spec.finalizers.append("kubernetes")

    def prepare_update(self, obj: Any, old: Any) -> None:
        Strategy.prepare_update(self, obj, old)
        obj.spec.CopyFrom(old.spec)

    def prepare_status(self, obj: Any, old: Any) -> None:
        Strategy.prepare_status(self, obj, old)
        if old.metadata.HasField("deletion_timestamp"):
            obj.status.phase = "Terminating"

    def prepare_subresource(self, obj: Any, old: Any, subresource: str) -> None:
        obj.status.CopyFrom(old.status)

    def validate_subresource(self, obj: Any, old: Any, subresource: str) -> list[Cause]:
        return validation.namespace_finalizers(obj)

    def validate_status(self, obj: Any, old: Any) -> list[Cause]:
        return validation.namespace_status(obj)

    def plan_deletion(self, obj: Any, options: meta_v1_pb2.DeleteOptions, now: float) -> deletion.Deletion:
        return deletion.plan_namespace(obj, options, now)

    def may_vanish(self, obj: Any) -> bool:
        return Strategy.may_vanish(self, obj) and not obj.spec.finalizers


@dataclass(slots=True)
class Nodes(Strategy):
    has_status: bool = True

    def defaults(self, obj: Any) -> None:
        defaults.node(obj)

    def prepare_create(self, obj: Any) -> None:
        """A node reports what it has when it registers: unlike others it comes with its status."""

    def prepare_status(self, obj: Any, old: Any) -> None:
        Strategy.prepare_status(self, obj, old)

    def validate(self, obj: Any) -> list[Cause]:
        return node_validation.node(obj)

    def validate_update(self, obj: Any, old: Any) -> list[Cause]:
        return node_validation.node_update(obj, old)

    def validate_status(self, obj: Any, old: Any) -> list[Cause]:
        return node_validation.node(obj)


@dataclass(slots=True)
class ConfigMaps(Strategy):
    def validate(self, obj: Any) -> list[Cause]:
        return validation.config_map(obj)

    def validate_update(self, obj: Any, old: Any) -> list[Cause]:
        return validation.config_map_update(obj, old)


@dataclass(slots=True)
class Secrets(Strategy):
    def defaults(self, obj: Any) -> None:
        defaults.secret(obj)

    def prepare_update(self, obj: Any, old: Any) -> None:
        """Kubernetes lets a client leave the type out of an update; the default would turn it into another type."""
        if obj.type == "Opaque" and old.type != "Opaque":
            obj.type = old.type

    def validate(self, obj: Any) -> list[Cause]:
        return validation.secret(obj)

    def validate_update(self, obj: Any, old: Any) -> list[Cause]:
        return validation.secret_update(obj, old)

    def warnings(self, obj: Any, old: Any | None) -> list[str]:
        return validation.secret_warnings(obj)


@dataclass(slots=True)
class ServiceAccounts(Strategy):
    """Nothing to default or to validate besides metadata."""


@dataclass(slots=True)
class Events(Strategy):
    create_on_update: bool = True

    def validate(self, obj: Any) -> list[Cause]:
        return validation.event(obj)


@dataclass(slots=True)
class Leases(Strategy):
    create_on_update: bool = True
    unconditional_update: bool = False  # leader election stands on it

    def validate(self, obj: Any) -> list[Cause]:
        return validation.lease(obj)


@dataclass(slots=True)
class CertificateRequests(Strategy):
    """Only `approval` sets Approved and Denied; only `status` sets the certificate. Who asks is written down by the
    server (`requester` is set by the registry from the identity of the request)."""

    has_status: bool = True

    def defaults(self, obj: Any) -> None:
        if not obj.spec.usages:
            obj.spec.usages.extend(("digital signature", "key encipherment"))

    def prepare_update(self, obj: Any, old: Any) -> None:
        Strategy.prepare_update(self, obj, old)
        obj.spec.CopyFrom(old.spec)

    def prepare_status(self, obj: Any, old: Any) -> None:
        Strategy.prepare_status(self, obj, old)
        _keep_conditions(obj, old, ("Approved", "Denied"), keep=True)
        _fill_transitions(obj, old)

    def prepare_subresource(self, obj: Any, old: Any, subresource: str) -> None:
        obj.spec.CopyFrom(old.spec)
        obj.status.certificate = old.status.certificate
        _keep_conditions(obj, old, ("Approved", "Denied"), keep=False)
        _fill_transitions(obj, old)

    def validate(self, obj: Any) -> list[Cause]:
        return validation.certificate_request(obj)

    def validate_status(self, obj: Any, old: Any) -> list[Cause]:
        return validation.certificate_status(obj, old)

    def validate_subresource(self, obj: Any, old: Any, subresource: str) -> list[Cause]:
        return validation.certificate_status(obj, old)


def _keep_conditions(obj: Any, old: Any, types: tuple[str, ...], *, keep: bool) -> None:
    """Of the conditions, those of `types` are the old ones (keep) or all but those are (not keep). The old ones come first."""
    wanted = [condition for condition in old.status.conditions if (condition.type in types) == keep]
    wanted += [condition for condition in obj.status.conditions if (condition.type in types) != keep]
    copies = []
    for condition in wanted:
        copy = type(condition)()
        copy.CopyFrom(condition)
        copies.append(copy)
    del obj.status.conditions[:]
    obj.status.conditions.extend(copies)


def _fill_transitions(obj: Any, old: Any) -> None:
    """`kubectl certificate approve` says when a condition was updated, and leaves it to the server when it became so."""
    before = {(condition.type, condition.status): condition for condition in old.status.conditions}
    for condition in obj.status.conditions:
        if not condition.HasField("last_transition_time"):
            known = before.get((condition.type, condition.status), condition)
            field = "last_transition_time" if known.HasField("last_transition_time") else "last_update_time"
            if known.HasField(field):
                condition.last_transition_time.CopyFrom(getattr(known, field))
