"""Pod Security: a namespace's labels say which pods it takes. Pods are refused at level `enforce`; they, and the templates of
workloads, are spoken of to the client at level `warn` and in the audit log at level `audit`.

The checks are in `podsecurity`, loaded when a namespace has a label of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from controlplane.admission.base import Lookup, Request

_PREFIX = "pod-security.kubernetes.io/"
_IGNORED = frozenset(("exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"))
_NAMESPACE_PODS = 3000  # looked at when a namespace gets a stricter level

# Where each kind has its pod template.
_TEMPLATES: Mapping[tuple[str, str], Callable[[Any], Any]] = {
    ("", "PodTemplate"): lambda obj: obj.template,
    ("", "ReplicationController"): lambda obj: obj.spec.template,
    ("apps", "DaemonSet"): lambda obj: obj.spec.template,
    ("apps", "Deployment"): lambda obj: obj.spec.template,
    ("apps", "ReplicaSet"): lambda obj: obj.spec.template,
    ("apps", "StatefulSet"): lambda obj: obj.spec.template,
    ("batch", "CronJob"): lambda obj: obj.spec.job_template.spec.template,
    ("batch", "Job"): lambda obj: obj.spec.template,
}


class PodSecurity:
    async def mutate(self, request: Request, lookup: Lookup) -> None:
        return

    async def validate(self, request: Request, lookup: Lookup) -> None:
        if request.operation == "DELETE":
            return
        kind = request.kind
        if kind.kind == "Namespace" and not kind.group:
            await self._namespace(request, lookup)
        elif kind.kind == "Pod" and not kind.group:
            if request.subresource not in _IGNORED:
                await self._pod(request, lookup)
        elif (kind.group, kind.kind) in _TEMPLATES and not request.subresource:
            template = _TEMPLATES[kind.group, kind.kind](request.obj)
            await self._evaluate(request, lookup, template.metadata, template.spec, enforce=False)

    async def _namespace(self, request: Request, lookup: Lookup) -> None:
        new = dict(request.obj.metadata.labels)
        if request.subresource or not any(name.startswith(_PREFIX) for name in new):
            return
        from controlplane.admission.podsecurity import levels
        from controlplane.registry import violations

        policy, causes = levels.parse(new)
        if request.old is None:
            violations.raise_if(request.kind, request.name, causes)
            return
        old, old_causes = levels.parse(dict(request.old.metadata.labels))
        if causes != old_causes:
            violations.raise_if(request.kind, request.name, causes)
        wanted = policy.enforce
        relaxed = wanted.minor == old.enforce.minor and not levels.stricter(wanted, old.enforce)
        if wanted == old.enforce or wanted.level == "privileged" or relaxed:
            return
        pods = [found.message for found in await lookup.within("v1", "Pod", request.name, keep=False)]
        request.warnings.extend(_existing(request.name, wanted, pods))

    async def _pod(self, request: Request, lookup: Lookup) -> None:
        if request.operation == "UPDATE" and not _matters(request.obj, request.old):
            return
        await self._evaluate(request, lookup, request.obj.metadata, request.obj.spec, enforce=True)

    async def _evaluate(self, request: Request, lookup: Lookup, meta: Any, spec: Any, *, enforce: bool) -> None:
        namespace = await lookup.find("v1", "Namespace", "", request.namespace)
        labels = dict(namespace.metadata.labels) if namespace is not None else {}
        if not any(name.startswith(_PREFIX) for name in labels):
            return
        from controlplane.admission.podsecurity import evaluate, levels

        policy, causes = levels.parse(labels)
        if causes:
            text = ", ".join(f"{cause.field}: {cause.message}" for cause in causes)
            request.annotations["pod-security.kubernetes.io/error"] = f"Failed to parse policy: {text}"
        found = evaluate.violations_of(policy.audit, meta, spec)
        if found:
            text = f'would violate PodSecurity "{policy.audit}": {evaluate.details(found)}'
            request.annotations["pod-security.kubernetes.io/audit-violations"] = text
        if enforce:
            request.annotations["pod-security.kubernetes.io/enforce-policy"] = str(policy.enforce)
            found = evaluate.violations_of(policy.enforce, meta, spec)
            if found:
                raise request.forbid(f'violates PodSecurity "{policy.enforce}": {evaluate.details(found)}')
        found = evaluate.violations_of(policy.warn, meta, spec)
        if found:
            request.warnings.append(f'would violate PodSecurity "{policy.warn}": {evaluate.details(found)}')


def _existing(namespace: str, wanted: Any, pods: list[Any]) -> list[str]:
    """What is said of the pods that are there already: they stay."""
    from controlplane.admission.podsecurity import evaluate

    names: dict[str, list[str]] = {}
    for pod in pods[:_NAMESPACE_PODS]:
        found = evaluate.violations_of(wanted, pod.metadata, pod.spec)
        if found:
            names.setdefault(evaluate.reasons(found), []).append(pod.metadata.name)
    said = []
    if len(pods) > _NAMESPACE_PODS:
        said.append(
            f"new PodSecurity enforce level only checked against the first {_NAMESPACE_PODS} of {len(pods)} existing pods"
        )
    if names:
        said.append(f'existing pods in namespace "{namespace}" violate the new PodSecurity enforce level "{wanted}"')
    lines = []
    for reason, those in names.items():
        others = len(those) - 1
        more = f" (and {others} other pod{'s' if others > 1 else ''})" if others else ""
        lines.append(f"{min(those)}{more}: {reason}")
    return [*said, *sorted(lines)]


def _matters(new: Any, old: Any) -> bool:
    """Whether an update changes what the checks look at: containers that come, images and their annotations."""
    for name in ("containers", "init_containers"):
        mine, before = getattr(new.spec, name), getattr(old.spec, name)
        if len(mine) != len(before):
            return True
        if any(one.image != other.image for one, other in zip(mine, before, strict=True)):
            return True
    if _annotations(new) != _annotations(old):
        return True
    images = {
        c.ephemeral_container_common.name: c.ephemeral_container_common.image for c in old.spec.ephemeral_containers
    }
    return any(
        images.get(c.ephemeral_container_common.name) != c.ephemeral_container_common.image
        for c in new.spec.ephemeral_containers
    )


def _annotations(pod: Any) -> dict[str, str]:
    return {key: value for key, value in pod.metadata.annotations.items() if "seccomp" in key or "apparmor" in key}
