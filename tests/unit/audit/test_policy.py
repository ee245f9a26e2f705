"""The audit policy as tables: which rule takes a request, and what a wrong file is told."""

from __future__ import annotations

import pytest

from controlplane.audit.policy import BadPolicy, Subject, parse
from controlplane.registry.base import Identity

ADMIN = Identity("admin", ("system:masters",))
NODE = Identity("system:node:n", ("system:nodes",))

POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, userGroups: [system:nodes], verbs: [get], resources: [{group: "", resources: [nodes, nodes/status]}]}
- {level: Metadata, resources: [{group: "", resources: [secrets, configmaps]}]}
- {level: Request, resources: [{group: "", resources: [pods/exec]}], omitStages: [ResponseStarted]}
- {level: RequestResponse, namespaces: [prod], resources: [{group: apps}], omitManagedFields: true}
- {level: Metadata, resources: [{group: "", resources: [pods], resourceNames: [special]}]}
- {level: None, nonResourceURLs: ["/healthz*", /version]}
- {level: Metadata, nonResourceURLs: ["*"]}
- {level: Metadata, users: [admin], verbs: [delete]}
"""


def of(resource: str, verb: str = "get", who: Identity = ADMIN, **more: str) -> Subject:
    group, _, plural = resource.rpartition("/")
    return Subject(who, verb, group=group, resource=plural, version="v1", **more)


CASES = {
    "a node reads itself": (of("nodes", who=NODE), "None"),
    "a node's status": (of("nodes", who=NODE, subresource="status"), "None"),
    "an administrator reads a node": (of("nodes"), "None"),
    "secrets": (of("secrets", "create"), "Metadata"),
    "a subresource of secrets is none of them": (of("secrets", "create", subresource="x"), "None"),
    "exec": (of("pods", "create", subresource="exec"), "Request"),
    "in a namespace": (of("apps/deployments", namespace="prod"), "RequestResponse"),
    "a whole group, subresources too": (
        of("apps/deployments", namespace="prod", subresource="scale"),
        "RequestResponse",
    ),
    "in another namespace": (of("apps/deployments", namespace="test"), "None"),
    "by name": (of("pods", name="special"), "Metadata"),
    "by another name": (of("pods", name="plain"), "None"),
    "health": (Subject(ADMIN, "get", path="/healthz/ping"), "None"),
    "version": (Subject(ADMIN, "get", path="/version"), "None"),
    "another path": (Subject(ADMIN, "get", path="/metrics"), "Metadata"),
    "user and verb": (of("pods", "delete", name="x"), "Metadata"),
}


@pytest.mark.parametrize("name", CASES)
def test_levels(name: str) -> None:
    subject, wanted = CASES[name]
    assert parse(POLICY).decide(subject).level == wanted


def test_stages_add_up() -> None:
    policy = parse(POLICY)
    assert policy.decide(of("pods", subresource="exec")).omit_stages == {"RequestReceived", "ResponseStarted"}
    assert policy.decide(of("apps/x", namespace="prod")).omit_managed_fields
    assert not policy.decide(of("secrets")).omit_managed_fields


HEAD = "apiVersion: audit.k8s.io/v1\nkind: Policy\n"
WRONG = {
    "kind": ("kind: Pod\n", "is no Policy of audit.k8s.io/v1"),
    "no rules": (HEAD, "loaded illegal policy with 0 rules"),
    "level": (HEAD + "rules: [{level: Some}]", 'rules[0].level: Unsupported value: "Some"'),
    "field": (HEAD + "rules: [{level: None, user: [a]}]", 'rules[0]: unknown field "user"'),
    "stage": (HEAD + "rules: [{level: None, omitStages: [End]}]", 'rules[0].omitStages: Unsupported value: "End"'),
    "both": (
        HEAD + "rules: [{level: None, nonResourceURLs: [/x], namespaces: [prod]}]",
        "rules cannot apply to both regular resources and non-resource URLs",
    ),
    "star": (HEAD + "rules: [{level: None, nonResourceURLs: ['/*/x']}]", "rules[0].nonResourceURLs"),
    "names": (HEAD + "rules: [{level: None, resources: [{group: '', resourceNames: [a]}]}]", "requires at least one resource"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_policy_is_told_where(name: str) -> None:
    text, words = WRONG[name]
    with pytest.raises(BadPolicy) as caught:
        parse(text)
    assert words in str(caught.value)
