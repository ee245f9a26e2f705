"""The further checks of level restricted: what a well-behaved pod gives up by itself. In the order and the words of Kubernetes.
Pure."""

from __future__ import annotations

from typing import Any

from controlplane.admission.podsecurity.base import (
    Check,
    Versioned,
    Violation,
    containers,
    in_user_namespace,
    is_windows,
    plural,
    quoted,
    setters,
    those,
)
from controlplane.admission.podsecurity.baseline import bad_seccomp

_VOLUMES = frozenset(
    (
        "config_map",
        "csi",
        "downward_api",
        "empty_dir",
        "ephemeral",
        "image",
        "persistent_volume_claim",
        "projected",
        "secret",
    )
)


def _not_windows(check: Check) -> Check:
    """Windows has no such thing, and pods say since 1.25 that they are for it."""
    return lambda meta, spec: None if is_windows(spec) else check(meta, spec)


def escalation(meta: Any, spec: Any) -> Violation | None:
    names = [
        container.name
        for container in containers(spec)
        if not container.security_context.HasField("allow_privilege_escalation")
        or container.security_context.allow_privilege_escalation
    ]
    if not names:
        return None
    detail = f"{those(names)} must set securityContext.allowPrivilegeEscalation=false"
    return Violation("allowPrivilegeEscalation != false", detail)


def capabilities(meta: Any, spec: Any) -> Violation | None:
    keeping, adding, added = [], [], set()
    for container in containers(spec):
        chosen = container.security_context.capabilities
        if "ALL" not in chosen.drop:
            keeping.append(container.name)
        mine = {name for name in chosen.add if name != "NET_BIND_SERVICE"}
        if mine:
            adding.append(container.name)
            added |= mine
    parts = [f'{those(keeping)} must set securityContext.capabilities.drop=["ALL"]'] if keeping else []
    if adding:
        parts.append(f"{those(adding)} must not include {quoted(sorted(added))} in securityContext.capabilities.add")
    return Violation("unrestricted capabilities", "; ".join(parts)) if parts else None


def volumes(meta: Any, spec: Any) -> Violation | None:
    names, types = [], set()
    for volume in spec.volumes:
        source = next(iter(volume.volume_source.ListFields()), None)
        if source is None or source[0].name not in _VOLUMES:
            names.append(volume.name)
            types.add("unknown" if source is None else source[0].json_name)
    if not names:
        return None
    noun, verb = plural("volume", "volumes", len(names)), plural("uses", "use", len(names))
    what = plural("restricted volume type", "restricted volume types", len(types))
    return Violation("restricted volume types", f"{noun} {quoted(names)} {verb} {what} {quoted(sorted(types))}")


def non_root(meta: Any, spec: Any) -> Violation | None:
    context = spec.security_context
    pod_refuses = context.HasField("run_as_non_root") and not context.run_as_non_root
    pod_demands = context.HasField("run_as_non_root") and context.run_as_non_root
    explicit, implicit = [], []
    for container in containers(spec):
        own = container.security_context
        if own.HasField("run_as_non_root"):
            if not own.run_as_non_root:
                explicit.append(container.name)
        elif not pod_demands:
            implicit.append(container.name)
    who = setters(pod_refuses, explicit)
    if who:
        return Violation("runAsNonRoot != true", f"{who} must not set securityContext.runAsNonRoot=false")
    if implicit:
        return Violation("runAsNonRoot != true", f"pod or {those(implicit)} must set securityContext.runAsNonRoot=true")
    return None


def root_user(meta: Any, spec: Any) -> Violation | None:
    def root(context: Any) -> bool:
        return bool(context.HasField("run_as_user")) and context.run_as_user == 0

    names = [container.name for container in containers(spec) if root(container.security_context)]
    who = setters(root(spec.security_context), names)
    return Violation("runAsUser=0", f"{who} must not set runAsUser=0") if who else None


def _relaxed(check: Check) -> Check:
    return lambda meta, spec: None if in_user_namespace(spec) else check(meta, spec)


def seccomp(meta: Any, spec: Any) -> Violation | None:
    found = bad_seccomp(spec)
    if found is not None or spec.security_context.HasField("seccomp_profile"):
        return found
    names = [c.name for c in containers(spec) if not c.security_context.HasField("seccomp_profile")]
    if not names:
        return None
    detail = f'pod or {those(names)} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
    return Violation("seccompProfile", detail)


CHECKS = (
    Versioned("allowPrivilegeEscalation", ((25, _not_windows(escalation)), (8, escalation))),
    Versioned("capabilities_restricted", ((25, _not_windows(capabilities)), (22, capabilities))),
    Versioned("restrictedVolumes", ((0, volumes),)),
    Versioned("runAsNonRoot", ((35, _relaxed(non_root)), (0, non_root))),
    Versioned("runAsUser", ((35, _relaxed(root_user)), (23, root_user))),
    Versioned("seccompProfile_restricted", ((25, _not_windows(seccomp)), (19, seccomp))),
)
