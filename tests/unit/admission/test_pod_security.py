"""The Pod Security Standards as tables: one pod, one level, the words that a person reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.admission.podsecurity import evaluate, levels
from controlplane.admission.podsecurity.levels import LevelVersion
from controlplane.registry.registry import Registry
from wherry.api import kinds
from wherry.api.context import Env
from wherry.api.errors import Forbidden, Invalid
from wherry.testing.registries import admin, obj, open_registry, pod

SAFE: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def one(**context: Any) -> Any:
    return pod("p", containers=[{"name": "c", "image": "x", "securityContext": context}])


def safe(**spec: Any) -> Any:
    context = spec.pop("context", {})
    container = {"name": "c", "image": "x", "securityContext": {**SAFE, **context}, **spec.pop("container", {})}
    return pod("p", containers=[container], **spec)


BASELINE = {
    "plain": (one(), ""),
    "privileged": (
        one(privileged=True), 'privileged (container "c" must not set securityContext.privileged=true)',
    ),
    "two containers": (
        pod("p", containers=[{"name": n, "image": "x", "securityContext": {"privileged": True}} for n in "ab"]),
        'privileged (containers "a", "b" must not set securityContext.privileged=true)',
    ),
    "init container": (
        pod("p", initContainers=[{"name": "i", "image": "x", "securityContext": {"privileged": True}}]),
        'privileged (container "i" must not set securityContext.privileged=true)',
    ),
    "host namespaces": (
        pod("p", hostNetwork=True, hostIPC=True), "host namespaces (hostNetwork=true, hostIPC=true)",
    ),
    "host ports": (
        pod("p", containers=[{"name": "c", "image": "x", "ports": [
            {"containerPort": 1, "hostPort": 80}, {"containerPort": 2, "hostPort": 81}]}]),
        'hostPort (container "c" uses hostPorts 80, 81)',
    ),
    "host path": (
        pod("p", volumes=[{"name": "h", "hostPath": {"path": "/"}}]), 'hostPath volumes (volume "h")',
    ),
    "capabilities": (
        one(capabilities={"add": ["SYS_ADMIN", "CHOWN", "NET_RAW"]}),
        'non-default capabilities (container "c" must not include "NET_RAW", "SYS_ADMIN" in '
        "securityContext.capabilities.add)",
    ),
    "proc mount": (
        one(procMount="Unmasked"), 'procMount (container "c" must not set securityContext.procMount to "Unmasked")',
    ),
    "selinux": (
        one(seLinuxOptions={"type": "spc_t", "user": "u"}),
        'seLinuxOptions (container "c" set forbidden securityContext.seLinuxOptions: type "spc_t"; user may not be set)',
    ),
    "seccomp": (
        pod("p", securityContext={"seccompProfile": {"type": "Unconfined"}}),
        'seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")',
    ),
    "sysctls": (
        pod("p", securityContext={"sysctls": [
            {"name": "kernel.msgmax", "value": "1"}, {"name": "net.ipv4.tcp_rmem", "value": "1"}]}),
        "forbidden sysctls (kernel.msgmax)",
    ),
    "probe host": (
        pod("p", containers=[{"name": "c", "image": "x", "livenessProbe": {
            "httpGet": {"host": "10.0.0.1", "port": 80}}}]),
        'probe or lifecycle host (container "c" uses probe or lifecycle host "10.0.0.1")',
    ),
    "windows": (
        pod("p", securityContext={"windowsOptions": {"hostProcess": True}}),
        "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
    ),
    "apparmor": (
        one(appArmorProfile={"type": "Unconfined"}),
        'forbidden AppArmor profile (container "c" must not set AppArmor profile type to "Unconfined")',
    ),
}  # fmt: skip

RESTRICTED = {
    "safe": (safe(), ""),
    "escalation": (
        safe(context={"allowPrivilegeEscalation": True}),
        'allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false)',
    ),
    "capabilities": (
        safe(context={"capabilities": {"add": ["NET_BIND_SERVICE", "CHOWN"]}}),
        'unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]; container "c" must '
        'not include "CHOWN" in securityContext.capabilities.add)',
    ),
    "volumes": (
        safe(volumes=[{"name": "n", "nfs": {"server": "s", "path": "/"}}, {"name": "e", "emptyDir": {}}]),
        'restricted volume types (volume "n" uses restricted volume type "nfs")',
    ),
    "root": (
        safe(context={"runAsUser": 0}), 'runAsUser=0 (container "c" must not set runAsUser=0)',
    ),
    "root in a user namespace": (safe(hostUsers=False, context={"runAsUser": 0, "runAsNonRoot": None}), ""),
    "non-root refused": (
        safe(context={"runAsNonRoot": False}),
        'runAsNonRoot != true (container "c" must not set securityContext.runAsNonRoot=false)',
    ),
    "seccomp absent": (
        safe(context={"seccompProfile": None}),
        'seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or '
        '"Localhost")',
    ),
    "seccomp of the pod": (
        safe(context={"seccompProfile": None}, securityContext={"seccompProfile": {"type": "Localhost"}}), "",
    ),
    "windows": (
        pod("p", os={"name": "windows"}, securityContext={"runAsNonRoot": True}), "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BASELINE)
def test_baseline(name: str) -> None:
    found, wanted = BASELINE[name]
    assert evaluate.details(evaluate.violations_of(LevelVersion("baseline"), found.metadata, found.spec)) == wanted


@pytest.mark.parametrize("name", RESTRICTED)
def test_restricted(name: str) -> None:
    found, wanted = RESTRICTED[name]
    assert evaluate.details(evaluate.violations_of(LevelVersion("restricted"), found.metadata, found.spec)) == wanted


def test_an_older_version_of_the_standards() -> None:
    found, _ = BASELINE["sysctls"]
    old = evaluate.violations_of(LevelVersion("baseline", 28), found.metadata, found.spec)
    assert evaluate.details(old) == "forbidden sysctls (kernel.msgmax, net.ipv4.tcp_rmem)"
    probe, _ = BASELINE["probe host"]
    assert not evaluate.violations_of(LevelVersion("baseline", 33), probe.metadata, probe.spec)


LABELS: dict[str, tuple[dict[str, str], str]] = {
    "nothing": ({}, "privileged:latest privileged:latest privileged:latest"),
    "enforce alone": ({"enforce": "baseline"}, "baseline:latest baseline:latest baseline:latest"),
    "a milder warning": ({"enforce": "baseline", "warn": "privileged"}, "baseline:latest baseline:latest privileged:latest"),
    "version": ({"enforce": "restricted", "enforce-version": "v1.28"}, "restricted:v1.28 restricted:v1.28 restricted:v1.28"),
    "wrong": ({"enforce": "strict", "warn": "loud"}, "restricted:latest restricted:latest privileged:latest"),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
def test_labels(name: str) -> None:
    given, wanted = LABELS[name]
    policy, causes = levels.parse({levels.PREFIX + key: value for key, value in given.items()})
    assert f"{policy.enforce} {policy.audit} {policy.warn}" == wanted
    assert bool(causes) == (name == "wrong")


# in the registry

NAMESPACE = kinds.by_name("v1", "Namespace")
POD = kinds.by_name("v1", "Pod")


@pytest.fixture
async def registry(env: Env) -> AsyncIterator[Registry]:
    async with open_registry(env) as found:
        yield found


async def label(registry: Registry, name: str, **labels_: str) -> list[str]:
    ctx = admin()
    live = (await registry.get(ctx, NAMESPACE, "", name)).message()
    for key, value in labels_.items():
        live.metadata.labels[levels.PREFIX + key.replace("_", "-")] = value
    await registry.update(ctx, NAMESPACE, "", name, live)
    return ctx.warnings


async def test_a_stricter_level_names_the_pods_that_are_there(registry: Registry) -> None:
    for name in ("b", "a", "c"):
        made = pod(name, hostNetwork=True)
        await registry.create(admin(), POD, "default", made)
    assert await label(registry, "default", enforce="baseline") == [
        'existing pods in namespace "default" violate the new PodSecurity enforce level "baseline:latest"',
        "a (and 2 other pods): host namespaces",
    ]
    with pytest.raises(Forbidden, match='violates PodSecurity "baseline:latest": host namespaces'):
        await registry.create(admin(), POD, "default", pod("d", hostNetwork=True))
    live = (await registry.get(admin(), POD, "default", "a")).message()
    live.metadata.labels["x"] = "y"
    await registry.update(admin(), POD, "default", "a", live)  # what is there may still be labelled
    live = (await registry.get(admin(), POD, "default", "a")).message()
    live.spec.containers[0].image = "other:1"
    with pytest.raises(Forbidden):
        await registry.update(admin(), POD, "default", "a", live)


async def test_an_ephemeral_container_is_held_to_it_too(registry: Registry) -> None:
    await registry.create(admin(), POD, "default", pod("a"))
    await label(registry, "default", enforce="baseline")
    live = (await registry.get(admin(), POD, "default", "a")).message()
    added = live.spec.ephemeral_containers.add().ephemeral_container_common
    added.name, added.image, added.termination_message_policy = "debug", "x", "File"
    added.image_pull_policy = "Always"
    added.security_context.privileged = True
    with pytest.raises(Forbidden, match=r'container "debug" must not set securityContext\.privileged=true'):
        await registry.update(admin(), POD, "default", "a", live, subresource="ephemeralcontainers")


async def test_wrong_labels_are_refused(registry: Registry) -> None:
    with pytest.raises(Invalid) as caught:
        await label(registry, "default", enforce="strict")
    assert caught.value.message == (
        'Namespace "default" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": '
        "must be one of privileged, baseline, restricted"
    )
    with pytest.raises(Invalid, match=r'must be "latest" or "v1\.x"'):
        await label(registry, "default", warn_version="1.2")


async def test_audit_and_warnings(registry: Registry) -> None:
    await label(registry, "default", warn="baseline", audit="baseline")
    ctx = admin()
    await registry.create(ctx, POD, "default", pod("p", hostPID=True))
    assert ctx.warnings == ['would violate PodSecurity "baseline:latest": host namespaces (hostPID=true)']
    assert ctx.annotations["pod-security.kubernetes.io/audit-violations"].startswith("would violate PodSecurity")
    template = {
        "metadata": {"labels": {"a": "b"}},
        "spec": {"hostPID": True, "containers": [{"name": "c", "image": "x"}]},
    }
    again = admin()
    job = obj("batch/v1", "CronJob", "j", spec={
        "schedule": "* * * * *", "jobTemplate": {"spec": {"template": {**template, "spec": {
            **template["spec"], "restartPolicy": "Never"}}}}})  # fmt: skip
    await registry.create(again, kinds.by_name("batch/v1", "CronJob"), "default", job)
    assert any("would violate PodSecurity" in text for text in again.warnings)
