"""Webhooks for real: requests over HTTPS to the API, questions over HTTPS to a server of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.registry.base import Identity, RequestContext
from controlplane.server import Options
from wherry.api.context import Env
from wherry.cli.server import _own_address
from wherry.pb.core_v1_pb2 import PodStatus
from wherry.pb.pods_pb2 import BindRequest
from wherry.testing.eventually import eventually
from wherry.testing.https import Caller, Https, https
from wherry.testing.webhook import HookServer, hook_server, patch

HOOKS = "/apis/admissionregistration.k8s.io/v1"
PODS = "/api/v1/namespaces/default/pods"
CONFIGS = "/api/v1/namespaces/default/configmaps"
SERVICE_NAME = "hooks.default.svc"


@pytest.fixture
async def server(front: Https) -> AsyncIterator[HookServer]:
    async with hook_server(front.plane, front.env, (SERVICE_NAME,)) as found:
        yield found


def rule(resource: str = "configmaps", *operations: str, group: str = "", **more: Any) -> dict[str, Any]:
    return {
        "apiGroups": [group], "apiVersions": ["v1"], "resources": [resource], "operations": list(operations) or ["*"], **more,
    }  # fmt: skip


async def configure(admin: Caller, kind: str, name: str, *hooks: dict[str, Any], status: int = 201) -> dict[str, Any]:
    defaults = {"sideEffects": "None", "admissionReviewVersions": ["v1"], "rules": [rule()], "timeoutSeconds": 30}
    body = {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": f"{kind}WebhookConfiguration", "metadata": {"name": name},
        "webhooks": [{"name": f"{name}.hooks.example", **defaults, **hook} for hook in hooks],
    }  # fmt: skip
    answer = await admin.ask("POST", f"{HOOKS}/{kind.lower()}webhookconfigurations", body)
    assert answer.status == status, answer.text
    assert not answer.warnings
    found: dict[str, Any] = answer.json
    return found


def config_map(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"a": "b"}}


def add(path: str, value: Any) -> Any:
    return lambda asked: patch({"op": "add", "path": path, "value": value})


async def test_a_validating_hook_is_asked_and_obeyed(admin: Caller, server: HookServer) -> None:
    server.decide["/v"] = lambda asked: (
        {"allowed": True, "warnings": ["mind the gap"]}
        if asked["object"]["metadata"]["name"] != "bad"
        else {"allowed": False, "status": {"message": "no bad ones", "code": 403, "reason": "Forbidden"}}
    )
    await configure(
        admin, "Validating", "v", {"clientConfig": server.config("/v"), "rules": [rule("configmaps", "CREATE")]}
    )
    answer = await admin.ask("POST", CONFIGS, config_map("good"))
    assert answer.status == 201
    assert answer.warnings == ['299 - "mind the gap"']
    (asked,) = server.requests
    assert asked["operation"] == "CREATE"
    assert asked["userInfo"]["username"] == "admin"
    assert asked["resource"] == {"group": "", "version": "v1", "resource": "configmaps"}
    assert asked["kind"] == {"group": "", "version": "v1", "kind": "ConfigMap"}
    assert asked["object"]["data"] == {"a": "b"}
    assert asked["object"]["kind"] == "ConfigMap"
    assert (asked["oldObject"], asked["dryRun"], asked["namespace"]) == (None, False, "default")
    assert asked["options"]["kind"] == "CreateOptions"
    refused = await admin.ask("POST", CONFIGS, config_map("bad"))
    assert refused.status == 403
    assert refused.json["message"] == 'admission webhook "v.hooks.example" denied the request: no bad ones'
    assert refused.json["reason"] == "Forbidden"
    # Operations that no rule names are not put before it.
    assert (await admin.ask("DELETE", f"{CONFIGS}/good")).status == 200
    assert len(server.requests) == 2


async def test_mutating_hooks_see_each_others_work(admin: Caller, server: HookServer) -> None:
    server.decide["/one"] = add("/metadata/annotations", {"one": "1"})

    def two(asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["object"]["metadata"]["annotations"] == {"one": "1"}
        return patch({"op": "add", "path": "/metadata/annotations/two", "value": "2"})

    server.decide["/two"] = two
    await configure(admin, "Mutating", "b", {"clientConfig": server.config("/two")})
    await configure(
        admin, "Mutating", "a", {"clientConfig": server.config("/one"), "reinvocationPolicy": "IfNeeded",
                                 "rules": [rule("configmaps", "CREATE")]},
    )  # fmt: skip
    answer = await admin.ask("POST", CONFIGS, config_map("c"))
    assert answer.status == 201, answer.text
    # Asked again, since `b` changed the object after it; its patch then replaces what `b` has added, as it says.
    assert [asked["path"] for asked in server.requests] == ["/one", "/two", "/one"]
    assert answer.json["metadata"]["annotations"] == {"one": "1"}
    # The rest of the metadata is the server's, as without hooks.
    assert {"uid", "creationTimestamp"} < set(answer.json["metadata"])
    generated = config_map("")
    generated["metadata"]["generateName"] = "made-"
    answer = await admin.ask("POST", CONFIGS, generated)
    assert answer.status == 201, answer.text
    assert answer.json["metadata"]["name"].startswith("made-")
    assert {"uid", "creationTimestamp"} < set(answer.json["metadata"])


async def test_a_deletion_cannot_be_patched(admin: Caller, server: HookServer) -> None:
    server.decide["/m"] = add("/metadata/labels", {"a": "b"})
    await configure(
        admin, "Mutating", "m", {"clientConfig": server.config("/m"), "rules": [rule("configmaps", "DELETE")]}
    )
    assert (await admin.ask("POST", CONFIGS, config_map("a"))).status == 201
    answer = await admin.ask("DELETE", f"{CONFIGS}/a")
    assert (answer.status, answer.json["reason"]) == (500, "InternalError")
    assert answer.json["message"] == (
        'Internal error occurred: admission webhook "m.hooks.example" attempted to modify the object, '
        "which is not supported for this operation"
    )
    server.decide["/m"] = lambda asked: {"allowed": True}
    assert (await admin.ask("DELETE", f"{CONFIGS}/a")).status == 200


async def test_what_a_hook_adds_gets_defaults_and_is_validated(admin: Caller, server: HookServer) -> None:
    sidecar = {"name": "side", "image": "side:1"}
    server.decide["/m"] = lambda asked: patch({"op": "add", "path": "/spec/containers/-", "value": sidecar})
    await configure(admin, "Mutating", "m", {"clientConfig": server.config("/m"), "rules": [rule("pods", "CREATE")]})
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "a"}]}}
    answer = await admin.ask("POST", PODS, pod)
    assert answer.status == 201, answer.text
    made = answer.json["spec"]["containers"]
    assert [container["name"] for container in made] == ["c", "side"]
    assert made[1]["terminationMessagePath"] == "/dev/termination-log"
    # The account's token is mounted into it as well: the plugins ran again.
    assert [mount["mountPath"] for mount in made[1]["volumeMounts"]] == [
        "/var/run/secrets/kubernetes.io/serviceaccount"
    ]
    sidecar["image"] = ""
    wrong = await admin.ask("POST", PODS, {**pod, "metadata": {"name": "q"}})
    assert (wrong.status, wrong.json["reason"]) == (422, "Invalid")


async def test_update_delete_and_dry_run(admin: Caller, server: HookServer) -> None:
    server.decide["/v"] = lambda asked: {"allowed": asked["operation"] != "DELETE"}
    await admin.ask("POST", CONFIGS, config_map("c"))
    await configure(admin, "Validating", "v", {"clientConfig": server.config("/v"), "sideEffects": "NoneOnDryRun"})
    merge = "application/merge-patch+json"
    answer = await admin.ask("PATCH", f"{CONFIGS}/c?dryRun=All", {"data": {"a": "c"}}, content_type=merge)
    assert answer.status == 200
    refused = await admin.ask("DELETE", f"{CONFIGS}/c")
    assert refused.status == 400
    assert refused.json["message"] == 'admission webhook "v.hooks.example" denied the request without explanation'
    update, delete = server.requests
    assert (update["operation"], update["dryRun"]) == ("UPDATE", True)
    assert (update["oldObject"]["data"], update["object"]["data"]) == ({"a": "b"}, {"a": "c"})
    assert (delete["object"], delete["oldObject"]["data"]) == (None, {"a": "b"})


@pytest.mark.parametrize("policy", ["Fail", "Ignore"])
async def test_a_hook_that_fails(admin: Caller, server: HookServer, policy: str) -> None:
    server.silent.add("/silent")
    server.decide["/odd"] = lambda asked: {"uid": "another", "allowed": True}
    cases = {
        "silent": "context deadline exceeded",
        "absent": "the server could not find the requested resource",
        "odd": 'expected response.uid="',
    }
    for name, words in cases.items():
        hook = {"clientConfig": server.config(f"/{name}"), "failurePolicy": policy}
        if name == "silent":
            hook["timeoutSeconds"] = 1
        await configure(admin, "Validating", name, hook)
        answer = await admin.ask("POST", CONFIGS, config_map(f"c-{name}"))
        await admin.ask("DELETE", f"{HOOKS}/validatingwebhookconfigurations/{name}")
        if policy == "Ignore":
            assert answer.status == 201, answer.text
        else:
            assert answer.status == 500
            message = answer.json["message"]
            head = f'Internal error occurred: failed calling webhook "{name}.hooks.example": failed to call webhook: '
            assert message.startswith(head)
            assert words in message


async def test_nobody_there(admin: Caller) -> None:
    """In the words of the recorded server."""
    config = {"url": "https://127.0.0.1:9/h"}
    await configure(admin, "Validating", "h", {"clientConfig": config})
    answer = await admin.ask("POST", CONFIGS, config_map("c"))
    text = (
        'failed calling webhook "h.hooks.example": failed to call webhook: Post "https://127.0.0.1:9/h?timeout=30s": '
        "dial tcp 127.0.0.1:9: connect: connection refused"
    )
    assert answer.json["message"] == f"Internal error occurred: {text}"
    assert answer.json["details"] == {"causes": [{"message": text}]}


async def test_certificates_are_checked(admin: Caller, server: HookServer) -> None:
    config = {key: value for key, value in server.config("/v").items() if key == "url"}
    await configure(admin, "Validating", "v", {"clientConfig": config})
    answer = await admin.ask("POST", CONFIGS, config_map("c"))
    assert answer.status == 500
    assert "tls: failed to verify certificate: x509:" in answer.json["message"]
    assert not server.requests


async def test_selectors_and_conditions(admin: Caller, server: HookServer) -> None:
    server.decide["/v"] = lambda asked: {"allowed": False}
    hook = {
        "clientConfig": server.config("/v"),
        "objectSelector": {"matchLabels": {"hook": "y"}},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
        "matchConditions": [{"name": "not-root", "expression": "request.userInfo.username != 'root'"}],
    }
    await configure(admin, "Validating", "v", hook)
    assert (await admin.ask("POST", CONFIGS, config_map("a"))).status == 201
    elsewhere = CONFIGS.replace("default", "kube-system")
    assert (await admin.ask("POST", elsewhere, config_map("a", hook="y"))).status == 201
    assert (await admin.ask("POST", CONFIGS, config_map("b", hook="y"))).status == 400
    live = await admin.ask("PATCH", f"{CONFIGS}/a", {"metadata": {"labels": {"hook": "y"}}},
                           content_type="application/merge-patch+json")  # fmt: skip
    assert live.status == 400
    assert len(server.requests) == 2


async def test_a_condition_leaves_requests_out(admin: Caller, front: Https, server: HookServer) -> None:
    server.decide["/v"] = lambda asked: {"allowed": False}
    conditions = [{"name": "no-root", "expression": "request.userInfo.username != 'root'"}]
    await configure(admin, "Validating", "v", {"clientConfig": server.config("/v"), "matchConditions": conditions})
    async with front.caller("root") as root:
        assert (await root.ask("POST", CONFIGS, config_map("a"))).status == 201
    assert (await admin.ask("POST", CONFIGS, config_map("b"))).status == 400


async def test_subresources_and_scope(admin: Caller, server: HookServer) -> None:
    server.decide["/v"] = lambda asked: {"allowed": False}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    deployment = {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}
    path = "/apis/apps/v1/namespaces/default/deployments"
    await configure(
        admin,
        "Validating",
        "v",
        {"clientConfig": server.config("/v"), "rules": [rule("deployments/scale", group="apps")]},
    )
    await configure(
        admin, "Validating", "w", {"clientConfig": server.config("/v"), "rules": [rule("*", scope="Cluster")]}
    )
    assert (await admin.ask("POST", path, deployment)).status == 201
    scale = {"spec": {"replicas": 3}}
    refused = await admin.ask("PATCH", f"{path}/d/scale", scale, content_type="application/merge-patch+json")
    assert refused.status == 400
    (asked,) = server.requests
    assert (asked["subResource"], asked["object"]["kind"], asked["object"]["spec"]) == (
        "scale",
        "Scale",
        {"replicas": 3},
    )
    assert (await admin.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "n"}})).status == 400
    # What decides over requests is never put before itself.
    assert (await admin.ask("DELETE", f"{HOOKS}/validatingwebhookconfigurations/w")).status == 200


async def test_a_service_leads_to_its_endpoints(admin: Caller, server: HookServer) -> None:
    server.decide["/v"] = lambda asked: {"allowed": False, "status": {"message": "reached"}}
    config = {**server.config("/v"), "service": {"namespace": "default", "name": "hooks", "path": "/v"}}
    del config["url"]
    await configure(admin, "Validating", "v", {"clientConfig": config})
    absent = await admin.ask("POST", CONFIGS, config_map("a"))
    assert absent.json["message"].endswith(
        f'Post "https://{SERVICE_NAME}:443/v?timeout=30s": service "hooks" not found'
    )
    service = {"metadata": {"name": "hooks"}, "spec": {"ports": [{"port": 443, "targetPort": server.port}]}}
    assert (await admin.ask("POST", "/api/v1/namespaces/default/services", service)).status == 201
    empty = await admin.ask("POST", CONFIGS, config_map("a"))
    assert empty.json["message"].endswith('no endpoints available for service "hooks"')
    address = _own_address()
    if address.startswith("127."):
        pytest.skip("no address but loopback, which can't be an endpoint")
    endpoints = {
        "metadata": {"name": "hooks-1", "labels": {"kubernetes.io/service-name": "hooks"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": [address]}], "ports": [{"name": "", "port": server.port}],
    }  # fmt: skip
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    made = await admin.ask("POST", path, endpoints)
    assert made.status == 201, made.text
    refused = await admin.ask("POST", CONFIGS, config_map("a"))
    assert refused.json["message"] == 'admission webhook "v.hooks.example" denied the request: reached'


DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "boats.hooks.example"},
    "spec": {
        "group": "hooks.example", "scope": "Namespaced", "names": {"plural": "boats", "kind": "Boat"},
        "versions": [{"name": name, "served": True, "storage": name == "v1", "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"spec": {"type": "object", "properties": {
                "sail": {"type": "string"}, "oars": {"type": "integer", "default": 2, "maximum": 8}}}}}}}
                for name in ("v1", "v1beta1")],
    },
}  # fmt: skip


async def test_custom_resources(admin: Caller, server: HookServer) -> None:
    """A hook patches them, defaults and schema hold afterwards; quotas count them, and they are parameters of policies."""
    assert (
        await admin.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", DEFINITION)
    ).status == 201
    server.decide["/m"] = add("/spec/sail", "white")
    boats = "/apis/hooks.example/v1/namespaces/default/boats"
    await configure(
        admin,
        "Mutating",
        "m",
        {"clientConfig": server.config("/m"), "rules": [rule("boats", "CREATE", group="hooks.example")]},
    )
    quota = {"metadata": {"name": "q"}, "spec": {"hard": {"count/boats.hooks.example": "1"}}}
    assert (await admin.ask("POST", "/api/v1/namespaces/default/resourcequotas", quota)).status == 201
    boat = {"apiVersion": "hooks.example/v1", "kind": "Boat", "metadata": {"name": "b"}, "spec": {}}
    made = await admin.ask("POST", boats, boat)
    assert made.status == 201, made.text
    assert made.json["spec"] == {"sail": "white", "oars": 2}
    (asked,) = server.requests
    assert asked["kind"] == {"group": "hooks.example", "version": "v1", "kind": "Boat"}
    assert asked["object"]["spec"] == {"oars": 2}
    # Nobody gets round the rule by another version; a rule that is meant exactly says so.
    beta = {**boat, "apiVersion": "hooks.example/v1beta1", "spec": {}}
    other = await admin.ask(
        "POST", boats.replace("/v1/", "/v1beta1/") + "?dryRun=All", {**beta, "metadata": {"name": "x"}}
    )
    assert other.status == 403, other.text  # by the quota, after the hook
    asked = server.requests[-1]
    assert (asked["kind"]["version"], asked["requestKind"]["version"]) == ("v1", "v1beta1")
    assert asked["object"]["apiVersion"] == "hooks.example/v1"
    full = await admin.ask("POST", boats, {**boat, "metadata": {"name": "c"}})
    assert full.json["message"].endswith(
        "exceeded quota: q, requested: count/boats.hooks.example=1, used: count/boats.hooks.example=1, "
        "limited: count/boats.hooks.example=1"
    )
    server.decide["/m"] = add("/spec/oars", 9)
    wrong = await admin.ask("POST", boats, {**boat, "metadata": {"name": "d"}})
    assert (wrong.status, wrong.json["reason"]) == (422, "Invalid")
    policy = {
        "metadata": {"name": "p"},
        "spec": {
            "paramKind": {"apiVersion": "hooks.example/v1", "kind": "Boat"},
            "matchConstraints": {"resourceRules": [rule("configmaps", "CREATE")]},
            "validations": [{"expression": "object.data.a == params.spec.sail", "message": "wrong colour"}],
        },
    }
    binding = {
        "metadata": {"name": "b"},
        "spec": {
            "policyName": "p", "validationActions": ["Deny"], "paramRef": {"name": "b", "parameterNotFoundAction": "Deny"},
        },
    }  # fmt: skip
    assert (await admin.ask("POST", f"{HOOKS}/validatingadmissionpolicies", policy)).status == 201
    assert (await admin.ask("POST", f"{HOOKS}/validatingadmissionpolicybindings", binding)).status == 201
    assert (await admin.ask("POST", CONFIGS, {**config_map("white"), "data": {"a": "white"}})).status == 201
    refused = await admin.ask("POST", CONFIGS, config_map("blue"))
    assert refused.json["message"].endswith("with binding 'b' denied request: wrong colour")


async def test_sessions_are_put_before_hooks(admin: Caller, server: HookServer) -> None:
    server.decide["/v"] = lambda asked: {"allowed": False, "status": {"message": "no shells", "code": 403}}
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "a"}]}}
    assert (await admin.ask("POST", PODS, pod)).status == 201
    rules = [rule("pods/exec", "CONNECT")]
    await configure(admin, "Validating", "v", {"clientConfig": server.config("/v"), "rules": rules})
    url = f"{admin.base}{PODS}/p/exec?command=sh&command=-c&stdout=true"
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "eA==",
    }
    async with admin.session.get(url, headers={**headers, "Sec-WebSocket-Protocol": "v5.channel.k8s.io"}) as response:
        text = await response.text()
    assert "no shells" in text, text
    (asked,) = server.requests
    assert (asked["operation"], asked["subResource"], asked["name"]) == ("CONNECT", "exec", "p")
    assert asked["kind"] == {"group": "", "version": "v1", "kind": "PodExecOptions"}
    assert asked["object"]["command"] == ["sh", "-c"]


async def test_the_quota_controller_counts_custom_resources() -> None:
    options = Options(scheduler=False)
    async with https(Env(), options) as front, front.caller() as admin:
        definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        assert (await admin.ask("POST", definitions, DEFINITION)).status == 201
        boats = "/apis/hooks.example/v1/namespaces/default/boats"
        boat = {"apiVersion": "hooks.example/v1", "kind": "Boat", "metadata": {"name": "b"}}

        async def made() -> bool:
            return (await admin.ask("POST", boats, boat)).status == 201

        await eventually(made, 60.0)
        quota = {"metadata": {"name": "q"}, "spec": {"hard": {"count/boats.hooks.example": "1", "secrets": "5"}}}
        quotas = "/api/v1/namespaces/default/resourcequotas"
        assert (await admin.ask("POST", quotas, quota)).status == 201

        async def counted() -> bool:
            used = (await admin.ask("GET", f"{quotas}/q")).json["status"].get("used")
            return bool(used == {"count/boats.hooks.example": "1", "secrets": "0"})

        await eventually(counted, 60.0)
        refused = await admin.ask("POST", boats, {**boat, "metadata": {"name": "c"}})
        assert refused.status == 403


async def test_bindings_and_statuses_are_put_before_hooks_that_name_them(
    admin: Caller, front: Https, server: HookServer
) -> None:
    """Both come in batches, from the scheduler and from nodes. Nobody is asked who has not asked for them."""
    registry = front.plane.registry
    scheduler = RequestContext(Identity("system:kube-scheduler", ("system:authenticated",)))
    node = RequestContext(Identity("system:node:n2", ("system:nodes", "system:authenticated")))
    for name in ("a", "b", "c"):
        pod = {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
        assert (await admin.ask("POST", "/api/v1/namespaces/default/pods", pod)).status == 201
    server.decide["/moves"] = add("/target/name", "n2")
    server.decide["/refuses"] = lambda asked: {"allowed": asked["name"] != "b", "status": {"message": "not b"}}
    await configure(
        admin, "Validating", "other", {"clientConfig": server.config("/refuses"), "rules": [rule("configmaps")]}
    )
    (first,) = await registry.bind(scheduler, [BindRequest(namespace="default", name="c", node="n1")])
    assert (first.error, server.requests) == (None, [])
    hook = {"clientConfig": server.config("/moves"), "rules": [rule("pods/binding")]}
    await configure(admin, "Mutating", "moves", hook)
    hook = {"clientConfig": server.config("/refuses"), "rules": [rule("pods/binding"), rule("pods/status")]}
    await configure(admin, "Validating", "refuses", hook)
    bound = await registry.bind(
        scheduler, [BindRequest(namespace="default", name=name, node="n1") for name in ("a", "b")]
    )
    assert bound[0].error is None
    assert 'admission webhook "refuses.hooks.example" denied the request: not b' in str(bound[1].error)
    asked = [item for item in server.requests if item["subResource"] == "binding"]
    assert len(asked) == 4
    assert all(
        (item["operation"], item["object"]["kind"], item["kind"]["kind"]) == ("CREATE", "Binding", "Binding")
        for item in asked
    )
    pods = {
        item["metadata"]["name"]: item
        for item in (await admin.ask("GET", "/api/v1/namespaces/default/pods")).json["items"]
    }
    assert {name: pods[name]["spec"].get("nodeName") for name in "abc"} == {"a": "n2", "b": None, "c": "n1"}
    server.requests.clear()
    server.decide["/refuses"] = lambda asked: {
        "allowed": asked["object"]["status"]["phase"] != "Failed", "status": {"message": "never"},
    }  # fmt: skip
    for phase, refused in (("Running", False), ("Failed", True)):
        status = PodStatus(phase=phase)
        (error,) = await registry.update_pod_statuses(
            node, [("default", "a", pods["a"]["metadata"]["uid"], status, False)]
        )
        assert ("never" in str(error)) is refused
    assert [item["subResource"] for item in server.requests] == ["status", "status"]
    assert server.requests[0]["oldObject"]["status"]["phase"] == "Pending"
    answer = await admin.ask("GET", "/api/v1/namespaces/default/pods/a")
    assert answer.json["status"]["phase"] == "Running"
