"""admissionregistration.k8s.io/v1: webhooks and policies."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.registry.defaults import admissionregistration as defaults
from controlplane.registry.state import Served
from controlplane.registry.strategies.declared import entry
from controlplane.registry.strategies.policies import Policies, ValidatingPolicies
from controlplane.registry.tables import admissionregistration as tables
from controlplane.registry.validation import admissionregistration as validation

_V1 = "admissionregistration.k8s.io/v1"


def kinds() -> Iterator[Served]:
    yield entry(
        _V1, "MutatingAdmissionPolicy", Policies, columns=tables.MUTATING_POLICIES, fill=defaults.policy,
        check=validation.policy, counted=("spec",),
    )  # fmt: skip
    yield entry(
        _V1, "MutatingAdmissionPolicyBinding", columns=tables.POLICY_BINDINGS, fill=defaults.policy_binding,
        check=validation.policy_binding, counted=("spec",),
    )  # fmt: skip
    yield entry(
        _V1, "MutatingWebhookConfiguration", columns=tables.WEBHOOKS, fill=defaults.webhooks,
        check=validation.webhooks, counted=("webhooks",),
    )  # fmt: skip
    yield entry(
        _V1, "ValidatingAdmissionPolicy", ValidatingPolicies, columns=tables.VALIDATING_POLICIES, fill=defaults.policy,
        check=validation.policy, counted=("spec",),
    )  # fmt: skip
    yield entry(
        _V1, "ValidatingAdmissionPolicyBinding", columns=tables.POLICY_BINDINGS, fill=defaults.policy_binding,
        check=validation.validating_binding, counted=("spec",),
    )  # fmt: skip
    yield entry(
        _V1, "ValidatingWebhookConfiguration", columns=tables.WEBHOOKS, fill=defaults.webhooks,
        check=validation.webhooks, counted=("webhooks",),
    )  # fmt: skip
