"""certificates.k8s.io/v1 beside CertificateSigningRequest: ClusterTrustBundle, PodCertificateRequest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from controlplane.registry import violations
from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry
from controlplane.registry.strategy import Column
from controlplane.registry.tables.common import age_column, name_column
from controlplane.registry.validation import common
from controlplane.registry.violations import Causes

_V1 = "certificates.k8s.io/v1"
_EXPIRATION_S = 86400
_MIN_EXPIRATION_S, _MAX_EXPIRATION_S = 3600, 91 * 86400


def _bundle_name(name: str, prefix: bool) -> list[str]:
    """Of a signer's bundle: the signer's name with ":" for "/", and a part of its own behind another ":"."""
    from wherry.api import names

    last = name.rpartition(":")[2]
    return names.dns1123_subdomain(last[:-1] + "a" if prefix and last.endswith("-") else last)


def _check_bundle(obj: Any) -> Causes:
    signer, name = obj.spec.signer_name, obj.metadata.name
    causes: Causes = []
    if signer:
        prefix = f"{signer.replace('/', ':')}:"
        if not name.startswith(prefix):
            detail = f"ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}"
            causes.append(violations.invalid("metadata.name", name, detail))
    elif ":" in name:
        detail = 'ClusterTrustBundle without signer name must not have ":" in its name'
        causes.append(violations.invalid("metadata.name", name, detail))
    if "-----BEGIN CERTIFICATE-----" not in obj.spec.trust_bundle:
        causes.append(
            violations.invalid("spec.trustBundle", "<value omitted>", "at least one trust anchor must be provided")
        )
    return causes


def _compare_bundle(obj: Any, old: Any) -> Causes:
    return common.immutable(obj.spec.signer_name, old.spec.signer_name, "spec.signerName")


def _fill_request(obj: Any) -> None:
    if not obj.spec.HasField("max_expiration_seconds"):
        obj.spec.max_expiration_seconds = _EXPIRATION_S


def _check_request(obj: Any) -> Causes:
    spec = obj.spec
    named = (
        (spec.signer_name, "signerName"), (spec.pod_name, "podName"), (spec.pod_uid, "podUID"),
        (spec.service_account_name, "serviceAccountName"), (spec.service_account_uid, "serviceAccountUID"),
        (spec.node_name, "nodeName"), (spec.node_uid, "nodeUID"), (spec.stub_pkcs10_request, "stubPKCS10Request"),
    )  # fmt: skip
    causes = [violations.required(f"spec.{name}") for value, name in named if not value]
    if not _MIN_EXPIRATION_S <= spec.max_expiration_seconds <= _MAX_EXPIRATION_S:
        detail = f"must be in the range [{_MIN_EXPIRATION_S}, {_MAX_EXPIRATION_S}]"
        causes.append(violations.invalid("spec.maxExpirationSeconds", spec.max_expiration_seconds, detail))
    return causes


def _compare_request(obj: Any, old: Any) -> Causes:
    return common.immutable(obj.spec, old.spec, "spec")


def _signer(obj: Any, now: float) -> str:
    return str(obj.spec.signer_name) or "<none>"


def _state(obj: Any, now: float) -> str:
    for condition in obj.status.conditions:
        if condition.type in ("Issued", "Denied", "Failed") and condition.status == "True":
            return str(condition.type)
    return "Pending"


_BUNDLES = (name_column(), Column("SignerName", _signer), age_column())
_REQUESTS = (
    name_column(),
    Column("PodName", lambda obj, now: str(obj.spec.pod_name)),
    Column("ServiceAccountName", lambda obj, now: str(obj.spec.service_account_name)),
    Column("NodeName", lambda obj, now: str(obj.spec.node_name)),
    Column("SignerName", _signer),
    Column("State", _state),
    age_column(),
)


def kinds() -> Iterator[Served]:
    yield entry(
        _V1, "ClusterTrustBundle", columns=_BUNDLES, check=_check_bundle, compare=_compare_bundle, name_rule=_bundle_name,
        fields={"spec.signerName": lambda obj: str(obj.spec.signer_name)}, stored_only="it is not projected into pods",
    )  # fmt: skip
    yield entry(
        _V1, "PodCertificateRequest", columns=_REQUESTS, fill=_fill_request, check=_check_request,
        compare=_compare_request,
        fields={
            "spec.signerName": lambda obj: str(obj.spec.signer_name),
            "spec.podName": lambda obj: str(obj.spec.pod_name),
            "spec.nodeName": lambda obj: str(obj.spec.node_name),
        },
        stored_only="no signer of this cluster acts on it",
    )  # fmt: skip
