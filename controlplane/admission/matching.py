"""Which requests a webhook or a policy asks for: rules and selectors. Pure; called by `webhooks` and `policies`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from controlplane.admission.base import Request
from wherry.api import labels
from wherry.api.kinds import Kind

GROUP = "admissionregistration.k8s.io"


def exempt(request: Request) -> bool:
    """What decides over requests is not put before itself: a mistake in it could not be undone."""
    return request.kind.group == GROUP


def operation(request: Request) -> str:
    """An eviction is the creation of one."""
    return "CREATE" if request.subresource == "eviction" else request.operation


def versions(match_policy: str, request: Request, served: Iterable[str]) -> list[str]:
    """In which a rule may name the request's kind: its own, and (Equivalent) the others in which it is served. Whoever uses
    another version must not get round a rule by it."""
    own = request.kind.version
    return [own] if match_policy == "Exact" else [own, *(version for version in served if version != own)]


def matched(rules: Iterable[Any], request: Request, among: Iterable[str]) -> str | None:
    """The version in which one of the rules (RuleWithOperations) asks for the request."""
    rules = list(rules)
    return next((version for version in among if any(_matches(rule, request, version) for rule in rules)), None)


def matched_named(rules: Iterable[Any], request: Request, among: Iterable[str]) -> str | None:
    """The same for NamedRuleWithOperations."""
    mine = [rule for rule in rules if not rule.resource_names or request.name in rule.resource_names]
    return matched([rule.rule_with_operations for rule in mine], request, among)


def names(registration: Any, kind: Kind, subresource: str, asked: str) -> bool:
    """Whether a rule of a webhook configuration or a policy names such requests, whatever its selectors say."""
    if registration.DESCRIPTOR.name.endswith("WebhookConfiguration"):
        rules = [rule for hook in registration.webhooks for rule in hook.rules]
    else:
        rules = [item.rule_with_operations for item in registration.spec.match_constraints.resource_rules]
    return any(
        _has(rule.operations, asked)
        and _has(rule.rule.api_groups, kind.group)
        and any(_resource(pattern, kind.plural, subresource) for pattern in rule.rule.resources)
        for rule in rules
    )


def _matches(rule: Any, request: Request, version: str) -> bool:
    kind, what = request.kind, rule.rule
    return (
        _has(rule.operations, operation(request))
        and _has(what.api_groups, kind.group)
        and _has(what.api_versions, version)
        and _scope(what.scope, request)
        and any(_resource(pattern, kind.plural, request.subresource) for pattern in what.resources)
    )


def _has(allowed: Any, value: str) -> bool:
    return "*" in allowed or value in allowed


def _scope(scope: str, request: Request) -> bool:
    """A namespace itself is of the cluster."""
    if scope in ("", "*"):
        return True
    return (scope == "Namespaced") == request.kind.namespaced


def _resource(pattern: str, plural: str, subresource: str) -> bool:
    resource, _, below = pattern.partition("/")
    if resource not in ("*", plural):
        return False
    if pattern == "*/*":
        return True
    return below in ("*", subresource) if "/" in pattern else not subresource


def namespace_matches(selector: Any, request: Request, namespace: Any | None) -> bool:
    """What lies in no namespace is never left out by one; a namespace is matched by its own labels."""
    if not selector.match_labels and not selector.match_expressions:
        return True
    if not request.kind.namespaced:
        if request.kind.kind != "Namespace" or request.kind.group:
            return True
        namespace = request.obj if request.obj is not None else request.old
    return labels.from_message(selector).matches(namespace.metadata.labels if namespace is not None else {})


def object_matches(selector: Any, request: Request) -> bool:
    """Before or after the change: nobody slips out by taking a label off."""
    if not selector.match_labels and not selector.match_expressions:
        return True
    found = labels.from_message(selector)
    return any(found.matches(obj.metadata.labels) for obj in (request.obj, request.old) if obj is not None)


def body_type(request: Request) -> tuple[str, str]:
    """apiVersion and kind of the object: that of a subresource may be of another kind than what it belongs to."""
    from wherry.api import schema

    obj = request.obj if request.obj is not None else request.old
    own = None if obj is None else schema.type_meta(type(obj))
    return own or (request.kind.api_version, request.kind.kind)


def plain(obj: Any | None) -> dict[str, Any] | None:
    """An object as its JSON."""
    if obj is None:
        return None
    from wherry.api import codec

    return codec.to_dict(obj)


def from_plain(value: Mapping[str, Any], like: Any) -> Any:
    from wherry.api import codec

    return codec.from_dict(dict(value), type(like), strict=False)


def accept(request: Request, result: Mapping[str, Any]) -> bool:
    """Makes the request's object what somebody outside has made of its JSON; whether that is something else. Raises ValueError,
    APIError and the like for what does not fit."""
    if request.subresource == "scale":
        made = type(request.obj)()
        made.CopyFrom(request.obj)
        made.spec.replicas = int((result.get("spec") or {}).get("replicas") or 0)
    else:
        version, kind = body_type(request)
        if result.get("kind", kind) != kind:
            raise ValueError(f'kind: "{result["kind"]}"; wanted "{kind}", as it was')
        made = from_plain({**result, **({"apiVersion": version} if "apiVersion" in result else {})}, request.obj)
    request.defaults(made)
    if made == request.obj:
        return False
    request.obj.CopyFrom(made)
    return True
