"""What a person reads when admission has something to say."""

from __future__ import annotations

import json

import pytest

from wherry.testing.kubectl import NEWEST, Kubectl, versions

pytestmark = pytest.mark.timeout(180)

LIMITS = """
apiVersion: v1
kind: LimitRange
metadata: {name: limits}
spec: {limits: [{type: Container, default: {cpu: 200m}, max: {cpu: "1"}}]}
"""
POLICY = """
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: NAME}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}]
  variables: [{name: most, expression: "3"}]
  validations:
  - expression: object.spec.replicas <= variables.most
    messageExpression: "'at most ' + string(variables.most) + ' replicas, not ' + string(object.spec.replicas)"
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: NAME}
spec:
  policyName: NAME
  validationActions: [Deny]
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAME}}}
"""


@versions(NEWEST)
def test_quota_and_limits(kubectl: Kubectl) -> None:
    kubectl("create", "quota", "q", "--hard=pods=1,configmaps=2,requests.cpu=1")
    kubectl("apply", "-f", "-", stdin=LIMITS)
    assert "pod/a created" in kubectl("run", "a", "--image=app:1")
    refused = kubectl.fails("run", "b", "--image=app:1")
    assert refused == (
        'Error from server (Forbidden): pods "b" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, '
        "limited: pods=1\n"
    )
    too_much = json.dumps(
        {"spec": {"containers": [{"name": "c", "image": "app:1", "resources": {"limits": {"cpu": "2"}}}]}}
    )
    refused = kubectl.fails("run", "c", "--image=app:1", "--overrides", too_much)
    assert 'pods "c" is forbidden: maximum cpu usage per Container is 1, but limit is 2' in refused
    described = [" ".join(line.split()) for line in kubectl("describe", "quota", "q").splitlines()]
    assert "pods 1 1" in described
    assert "requests.cpu 200m 1" in described
    kubectl("delete", "pod", "a", "--wait", "--timeout=60s")
    kubectl("wait", "--for=jsonpath={.status.used.pods}=0", "quota/q", "--timeout=60s")
    assert "pod/b created" in kubectl("run", "b", "--image=app:1")


@versions(NEWEST)
def test_pod_security(kubectl: Kubectl) -> None:
    root = json.dumps({"spec": {"hostPID": True}})
    kubectl("run", "a", "--image=app:1", "--overrides", root)
    labelled = kubectl.run("label", "namespace", kubectl.namespace, "pod-security.kubernetes.io/enforce=baseline")
    assert labelled.returncode == 0
    assert labelled.stderr == (
        f'Warning: existing pods in namespace "{kubectl.namespace}" violate the new PodSecurity enforce level '
        '"baseline:latest"\nWarning: a: host namespaces\n'
    )
    refused = kubectl.fails("run", "b", "--image=app:1", "--overrides", root)
    assert refused == (
        'Error from server (Forbidden): pods "b" is forbidden: violates PodSecurity "baseline:latest": '
        "host namespaces (hostPID=true)\n"
    )
    kubectl("label", "namespace", kubectl.namespace, "pod-security.kubernetes.io/warn=restricted")
    made = kubectl.run("create", "deployment", "d", "--image=app:1", "--replicas=0")
    assert made.stderr.startswith(
        'Warning: would violate PodSecurity "restricted:latest": allowPrivilegeEscalation != false'
    )
    wrong = kubectl.fails("label", "namespace", kubectl.namespace, "pod-security.kubernetes.io/audit=high")
    assert 'Invalid value: "high": must be one of privileged, baseline, restricted' in wrong


@versions(NEWEST)
def test_policies(kubectl: Kubectl) -> None:
    made = POLICY.replace("NAME", kubectl.namespace)
    kubectl("apply", "-f", "-", stdin=made)
    try:
        refused = kubectl.fails("create", "deployment", "e", "--image=app:1", "--replicas=5")
        name = kubectl.namespace
        assert refused.strip().endswith(
            f"ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: at most 3 replicas, not 5"
        )
        kubectl("create", "deployment", "d", "--image=app:1", "--replicas=0")
        kubectl("scale", "deployment", "d", "--replicas=4")  # deployments/scale is another resource
        wrong = kubectl.fails("apply", "-f", "-", stdin=made.replace("variables.most\n", "variables.least\n"))
        assert "spec.validations[0].expression" in wrong
        assert "undefined field 'least'" in wrong
        listed = kubectl("get", "validatingadmissionpolicy", name).splitlines()[1].split()
        assert listed[:3] == [name, "1", "<unset>"]
    finally:
        kubectl("delete", "-f", "-", stdin=made)
