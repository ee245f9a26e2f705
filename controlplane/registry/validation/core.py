"""Namespace, ConfigMap, Secret, Event, Lease and CertificateSigningRequest."""

from __future__ import annotations

import base64
import json
from typing import Any

from controlplane.registry import violations
from controlplane.registry.violations import Causes
from wherry.api import jsontext, names

MAX_DATA_BYTES = 1024 * 1024
_IMMUTABLE = "field is immutable when `immutable` is set"
_STANDARD_FINALIZERS = ("kubernetes", "orphan", "foregroundDeletion")
_KEY_USAGES = (
    "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment",
    "decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel",
    "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime",
    "server auth", "signing", "timestamping",
)  # fmt: skip
MIN_EXPIRATION_S = 600


# namespaces


def namespace_finalizers(obj: Any) -> Causes:
    causes: Causes = []
    for index, name in enumerate(obj.spec.finalizers):
        path = f"spec.finalizers[{index}]"
        causes += (violations.invalid(path, name, message) for message in names.qualified_name(name))
        if "/" not in name and name not in _STANDARD_FINALIZERS:
            detail = "name is neither a standard finalizer name nor is it fully qualified"
            causes.append(violations.invalid(path, name, detail))
    return causes


def namespace_status(obj: Any) -> Causes:
    deleting = obj.metadata.HasField("deletion_timestamp")
    phase = obj.status.phase
    if deleting and phase != "Terminating":
        return [
            violations.invalid("status.phase", phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")
        ]
    if not deleting and phase != "Active":
        return [violations.invalid("status.phase", phase, "may only be 'Active' if `deletionTimestamp` is empty")]
    return []


# configuration


def config_map(obj: Any) -> Causes:
    causes: Causes = []
    total = 0
    for key in sorted(obj.data):
        causes += _config_key("data", key)
        if key in obj.binary_data:
            causes.append(violations.invalid(f"data[{key}]", key, "duplicate of key present in binaryData"))
        total += len(obj.data[key].encode())
    for key in sorted(obj.binary_data):
        causes += _config_key("binaryData", key)
        total += len(obj.binary_data[key])
    if total > MAX_DATA_BYTES:
        causes.append(violations.too_long("[]", MAX_DATA_BYTES))
    return causes


def _config_key(field: str, key: str) -> Causes:
    return [violations.invalid(f"{field}[{key}]", key, message) for message in names.config_map_key(key)]


def config_map_update(obj: Any, old: Any) -> Causes:
    if not old.immutable:
        return []
    causes: Causes = []
    if not obj.immutable:
        causes.append(violations.forbidden("immutable", _IMMUTABLE))
    if dict(obj.data) != dict(old.data):
        causes.append(violations.forbidden("data", _IMMUTABLE))
    if dict(obj.binary_data) != dict(old.binary_data):
        causes.append(violations.forbidden("binaryData", _IMMUTABLE))
    return causes


def secret(obj: Any) -> Causes:
    causes: Causes = []
    total = 0
    for key in sorted(obj.data):
        causes += _config_key("data", key)
        total += len(obj.data[key])
    if total > MAX_DATA_BYTES:
        causes.append(violations.too_long("data", MAX_DATA_BYTES))
    match obj.type:
        case "kubernetes.io/service-account-token":
            if not obj.metadata.annotations.get("kubernetes.io/service-account.name"):
                causes.append(violations.required("metadata.annotations[kubernetes.io/service-account.name]"))
        case "kubernetes.io/dockercfg":
            causes += _json_key(obj, ".dockercfg")
        case "kubernetes.io/dockerconfigjson":
            causes += _json_key(obj, ".dockerconfigjson")
        case "kubernetes.io/basic-auth":
            if "username" not in obj.data and "password" not in obj.data:
                causes += [violations.required("data[username]"), violations.required("data[password]")]
        case "kubernetes.io/ssh-auth":
            if not obj.data.get("ssh-privatekey"):
                causes.append(violations.required("data[ssh-privatekey]"))
        case "kubernetes.io/tls":
            causes += [violations.required(f"data[{key}]") for key in ("tls.crt", "tls.key") if key not in obj.data]
    return causes


def secret_warnings(obj: Any) -> list[str]:
    if obj.type == "kubernetes.io/tls" and b"-----BEGIN " not in obj.data.get("tls.crt", b""):
        return ["tls: failed to find any PEM data in certificate input"]
    return []


def _json_key(obj: Any, key: str) -> Causes:
    path = f"data[{key}]"
    if key not in obj.data:
        return [violations.required(path)]
    body = obj.data[key]
    try:
        value = jsontext.read(body)
    except ValueError as error:
        return [violations.invalid(path, "<secret contents redacted>", _go_json_error(body, error))]
    if not isinstance(value, dict):
        return [violations.invalid(path, "<secret contents redacted>", "want a JSON object")]
    return []


def _go_json_error(body: bytes, error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError) and error.pos < len(error.doc):
        return f"invalid character '{error.doc[error.pos]}' looking for beginning of value"
    return "unexpected end of JSON input"


def secret_update(obj: Any, old: Any) -> Causes:
    causes: Causes = []
    if obj.type != old.type:
        causes.append(violations.invalid("type", obj.type, "field is immutable"))
    if old.immutable:
        if not obj.immutable:
            causes.append(violations.forbidden("immutable", _IMMUTABLE))
        if dict(obj.data) != dict(old.data):
            causes.append(violations.forbidden("data", _IMMUTABLE))
    return causes


# events and leases


def event(obj: Any) -> Causes:
    """Events about an object without a namespace lie in `default` (or kube-system)."""
    namespace = obj.involved_object.namespace
    allowed = (namespace,) if namespace else ("default", "kube-system")
    if obj.metadata.namespace in allowed:
        return []
    return [violations.invalid("involvedObject.namespace", namespace, "does not match event.namespace")]


def lease(obj: Any) -> Causes:
    causes: Causes = []
    spec = obj.spec
    if spec.HasField("lease_duration_seconds") and spec.lease_duration_seconds <= 0:
        causes.append(
            violations.invalid("spec.leaseDurationSeconds", spec.lease_duration_seconds, "must be greater than 0")
        )
    if spec.HasField("lease_transitions") and spec.lease_transitions < 0:
        detail = "must be greater than or equal to 0"
        causes.append(violations.invalid("spec.leaseTransitions", spec.lease_transitions, detail))
    return causes


# certificates


def certificate_request(obj: Any) -> Causes:
    spec = obj.spec
    causes: Causes = []
    if not spec.request:
        causes.append(violations.required("spec.request"))
    elif not _is_certificate_request(spec.request):
        text = base64.b64encode(spec.request).decode()
        causes.append(violations.invalid("spec.request", text, "PEM block type must be CERTIFICATE REQUEST"))
    if not spec.usages:
        causes.append(violations.required("spec.usages"))
    seen = set()
    for index, usage in enumerate(spec.usages):
        if usage not in _KEY_USAGES:
            causes.append(violations.unsupported(f"spec.usages[{index}]", usage, _KEY_USAGES))
        elif usage in seen:
            causes.append(violations.duplicate(f"spec.usages[{index}]", usage))
        seen.add(usage)
    causes += _signer(spec.signer_name)
    if spec.HasField("expiration_seconds") and spec.expiration_seconds < MIN_EXPIRATION_S:
        detail = "may not specify a duration less than 600 seconds (10 minutes)"
        causes.append(violations.invalid("spec.expirationSeconds", spec.expiration_seconds, detail))
    return causes


def _is_certificate_request(body: bytes) -> bool:
    # The signer checks what is in it; loading a parser of certificates here would cost every control plane memory.
    text = body.strip()
    head, tail = b"-----BEGIN CERTIFICATE REQUEST-----", b"-----END CERTIFICATE REQUEST-----"
    return text.startswith(head) and text.endswith(tail)


def _signer(name: str) -> Causes:
    path = "spec.signerName"
    if not name:
        return [violations.required(path)]
    domain, slash, rest = name.partition("/")
    if not slash or not rest or "." not in domain:
        return [
            violations.invalid(
                path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'"
            )
        ]
    return [violations.invalid(path, name, message) for message in names.dns1123_subdomain(domain)]


def certificate_status(obj: Any, old: Any) -> Causes:
    causes: Causes = []
    types = [condition.type for condition in obj.status.conditions]
    for index, condition in enumerate(obj.status.conditions):
        path = f"status.conditions[{index}]"
        if not condition.type:
            causes.append(violations.required(f"{path}.type"))
        elif types.index(condition.type) != index:
            causes.append(violations.duplicate(f"{path}.type", condition.type))
        if condition.type in ("Approved", "Denied", "Failed") and condition.status != "True":
            causes.append(violations.unsupported(f"{path}.status", condition.status, ("True",)))
    if "Approved" in types and "Denied" in types:
        path = f"status.conditions[{max(types.index('Approved'), types.index('Denied'))}].type"
        causes.append(violations.invalid(path, "Denied", "Approved and Denied conditions are mutually exclusive"))
    for kept in ("Approved", "Denied", "Failed"):
        if any(condition.type == kept for condition in old.status.conditions) and kept not in types:
            causes.append(
                violations.forbidden("status.conditions", f"updates may not remove a condition of type {kept!r}")
            )
    if old.status.certificate and obj.status.certificate != old.status.certificate:
        causes.append(
            violations.forbidden("status.certificate", "updates may not change or remove an existing certificate")
        )
    return causes
