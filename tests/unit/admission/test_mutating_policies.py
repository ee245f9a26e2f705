"""MutatingAdmissionPolicy through the registry: what it makes of objects, and what it refuses in which words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.admission import attributes, matching
from controlplane.admission.base import Request
from controlplane.admission.chain import Outside
from controlplane.admission.policies.authorizer import Decision, Question
from controlplane.registry.base import Identity, RequestContext
from controlplane.registry.registry import Registry
from wherry.api import codec, kinds
from wherry.api.context import Env
from wherry.api.errors import APIError, Invalid
from wherry.pb import authentication_v1_pb2, pods_pb2
from wherry.testing.registries import admin, obj, open_registry, pod

V1 = "admissionregistration.k8s.io/v1"
POLICY = kinds.by_name(V1, "MutatingAdmissionPolicy")
BINDING = kinds.by_name(V1, "MutatingAdmissionPolicyBinding")
CONFIG = kinds.by_name("v1", "ConfigMap")
POD = kinds.by_name("v1", "Pod")


async def decide(question: Question) -> Decision:
    return Decision(question.identity.user == "root")


def no_transport() -> Any:
    raise AssertionError("no webhook here")


@pytest.fixture
async def registry(env: Env) -> AsyncIterator[Registry]:
    async with open_registry(env) as found:
        found.reach(Outside(env, no_transport, decide))
        yield found


def apply(expression: str) -> dict[str, Any]:
    return {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}


def patch(expression: str) -> dict[str, Any]:
    return {"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}


async def policy(
    registry: Registry, *mutations: dict[str, Any], name: str = "p", resource: str = "configmaps", **spec: Any
) -> None:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": [resource], "operations": ["CREATE", "UPDATE"]}
    body = {
        "matchConstraints": {"resourceRules": [rule]},
        "mutations": list(mutations),
        "reinvocationPolicy": "Never",
        **spec,
    }
    await registry.create(admin(), POLICY, "", obj(V1, "MutatingAdmissionPolicy", name, spec=body))
    binding = obj(V1, "MutatingAdmissionPolicyBinding", name, spec={"policyName": name})
    await registry.create(admin(), BINDING, "", binding)


async def make(registry: Registry, made: Any, ctx: RequestContext | None = None) -> dict[str, Any]:
    kind = kinds.of(type(made))
    stored = await registry.create(ctx or admin(), kind, "default", made)
    return codec.to_dict(stored.message())


def config(name: str = "c", **data: str) -> Any:
    return obj("v1", "ConfigMap", name, meta={"labels": {"a": "b"}}, data=data)


async def test_an_apply_configuration_is_merged(registry: Registry) -> None:
    await policy(registry, apply("Object{metadata: Object.metadata{labels: {'team': object.metadata.name + '-x'}}}"))
    made = await make(registry, config(k="v"))
    assert (made["metadata"]["labels"], made["data"]) == ({"a": "b", "team": "c-x"}, {"k": "v"})


async def test_lists_are_merged_by_their_keys_and_defaults_are_filled_in(registry: Registry) -> None:
    expression = (
        "Object{spec: Object.spec{containers: object.spec.containers.map(c, Object.spec.containers{name: c.name, "
        "env: [Object.spec.containers.env{name: 'A', value: '1'}]}) + [Object.spec.containers{name: 'side', image: 'side:1'}]}}"
    )
    await policy(registry, apply(expression), resource="pods")
    spec = (await make(registry, pod("p")))["spec"]
    assert [(c["name"], c["image"], c.get("env")) for c in spec["containers"]] == [
        ("c", "app:1", [{"name": "A", "value": "1"}]), ("side", "side:1", None)
    ]  # fmt: skip
    assert spec["containers"][1]["terminationMessagePath"] == "/dev/termination-log"


async def test_json_patches_see_what_was_before_them(registry: Registry) -> None:
    await policy(
        registry,
        patch("[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('x.io/y'), value: 'z'}]"),
        patch("[JSONPatch{op: 'test', path: '/metadata/labels/a', value: variables.before}, "
              "JSONPatch{op: 'replace', path: '/metadata/labels/a', value: object.metadata.labels['x.io/y']}]"),
        variables=[{"name": "before", "expression": "object.metadata.labels.a"}],
    )  # fmt: skip
    assert (await make(registry, config()))["metadata"]["labels"] == {"a": "z", "x.io/y": "z"}


async def test_policies_go_by_name_and_see_each_other(registry: Registry) -> None:
    last = "object.metadata.labels.?n.orValue('') + '2'"
    await policy(registry, apply("Object{metadata: Object.metadata{labels: {'n': " + last + "}}}"), name="second")
    first = "object.metadata.labels.?n.orValue('') + '1'"
    await policy(
        registry, apply("Object{metadata: Object.metadata{labels: {'n': " + first + "}}}"), name="first",
        reinvocationPolicy="IfNeeded",
    )  # fmt: skip
    assert (await make(registry, config()))["metadata"]["labels"]["n"] == "121"


async def test_a_policy_runs_once_where_nobody_changes_anything_after_it(registry: Registry) -> None:
    once = "object.metadata.labels.?n.orValue('') + '1'"
    await policy(
        registry, apply("Object{metadata: Object.metadata{labels: {'n': " + once + "}}}"), reinvocationPolicy="IfNeeded"
    )
    assert (await make(registry, config()))["metadata"]["labels"]["n"] == "1"


async def test_conditions_and_the_authorizer(registry: Registry) -> None:
    asks = "authorizer.group('').resource('secrets').check('get').allowed()"
    await policy(
        registry, apply(f"Object{{metadata: Object.metadata{{labels: {{'may': string({asks})}}}}}}"),
        matchConditions=[{"name": "only", "expression": "object.metadata.name.startsWith('m')"}],
    )  # fmt: skip
    assert "may" not in (await make(registry, config("other")))["metadata"]["labels"]
    assert (await make(registry, config("m1")))["metadata"]["labels"]["may"] == "false"
    root = RequestContext(Identity("root", ("system:masters",)))
    assert (await make(registry, config("m2"), root))["metadata"]["labels"]["may"] == "true"


FAILURES = {
    "an error": (apply("Object{metadata: Object.metadata{labels: {'x': object.nope}}}"), "no such key: nope"),
    "a name that does not fit": (
        apply("Object{metadata: Object.spec{}}"),
        'type mismatch: unexpected type name "Object.spec", expected "Object.metadata"',
    ),
    "an atomic list": (
        apply("Object{spec: Object.spec{tolerations: [Object.spec.tolerations{key: 'x'}]}}"),
        "may not mutate atomic arrays, maps or structs: .spec.tolerations",
    ),
    "a patch that does not fit": (patch("[JSONPatch{op: 'remove', path: '/nope'}]"), "JSON Patch: "),
    "an object that does not fit": (apply("Object{spec: Object.spec{nodeName: 7}}"), "does not fit its kind"),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("failure_policy", ["Fail", "Ignore"])
async def test_failures(registry: Registry, name: str, failure_policy: str) -> None:
    mutation, words = FAILURES[name]
    await policy(registry, mutation, resource="pods", failurePolicy=failure_policy)
    if failure_policy == "Ignore":
        await make(registry, pod("p"))
        return
    with pytest.raises(APIError) as refused:
        await make(registry, pod("p"))
    assert refused.value.message.startswith("pods \"p\" is forbidden: policy 'p' with binding 'p' denied request: ")
    assert words in refused.value.message


INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "no mutations": ({"mutations": []}, "spec.mutations"),
    "no reinvocation policy": ({"reinvocationPolicy": ""}, "spec.reinvocationPolicy"),
    "not an object": ({"mutations": [apply("{'a': 1}")]}, "spec.mutations[0].applyConfiguration.expression"),
    "not operations": ({"mutations": [patch("['a']")]}, "spec.mutations[0].jsonPatch.expression"),
    "unknown field": ({"mutations": [patch("[JSONPatch{opp: 'x'}]")]}, "spec.mutations[0].jsonPatch.expression"),
    "unknown type": ({"mutations": [apply("Objekt{}")]}, "spec.mutations[0].applyConfiguration.expression"),
    "a field of another type": ({"mutations": [patch("[JSONPatch{op: 1}]")]}, "spec.mutations[0].jsonPatch.expression"),
    "the other one": ({"mutations": [{**apply("Object{}"), "patchType": "JSONPatch"}]}, "spec.mutations[0].jsonPatch"),
    "unknown patch type": ({"mutations": [{"patchType": "Merge"}]}, "spec.mutations[0].patchType"),
}


@pytest.mark.parametrize("name", INVALID)
async def test_what_is_refused_when_it_is_stored(registry: Registry, name: str) -> None:
    spec, path = INVALID[name]
    with pytest.raises(Invalid) as refused:
        await policy(registry, apply("Object{}"), **spec)
    assert path in [cause.field for cause in refused.value.causes]


# what is no object of the kind that the rule names


ANNOTATE = "Object{metadata: Object.metadata{annotations: {'seen': object.kind}}}"
PATCH = "[JSONPatch{op: 'add', path: '/metadata/annotations', value: {'seen': object.kind}}]"


async def ask_for_token(registry: Registry) -> Any:
    """What reaches the issuer."""
    asked: list[Any] = []

    async def issue(ctx: RequestContext, namespace: str, name: str, request: Any) -> Any:
        asked.append(request)
        return request

    registry.issue_with(issue)
    account = kinds.by_name("v1", "ServiceAccount")
    await registry.create(admin(), account, "default", obj("v1", "ServiceAccount", "a"))
    request = authentication_v1_pb2.TokenRequest()
    request.spec.audiences.append("x")
    await registry.create(admin(), account, "default", request, name="a", subresource="token")
    return asked[0]


@pytest.mark.parametrize("mutation", [apply(ANNOTATE), patch(PATCH)], ids=["apply", "patch"])
@pytest.mark.parametrize("resource", ["*/*", "serviceaccounts/token"])
async def test_a_request_for_a_token(registry: Registry, mutation: dict[str, Any], resource: str) -> None:
    await policy(registry, mutation, resource=resource)
    asked = await ask_for_token(registry)
    assert dict(asked.metadata.annotations) == {"seen": "TokenRequest"}
    assert list(asked.spec.audiences) == ["x"]


@pytest.mark.parametrize("expression", ["Object{spec: Object.spec{audiences: ['y']}}", "Object{nope: object.nope}"])
async def test_a_token_is_issued_where_a_policy_that_may_fail_does(registry: Registry, expression: str) -> None:
    await policy(registry, apply(expression), resource="*/*", failurePolicy="Ignore")
    assert list((await ask_for_token(registry)).spec.audiences) == ["x"]


NODE = "Object{target: Object.target{name: 'n2'}}"
NODE_PATCH = "[JSONPatch{op: 'replace', path: '/target/name', value: 'n2'}]"
ATOMIC = "may not mutate atomic arrays, maps or structs: .target"


@pytest.mark.parametrize(("mutation", "told"), [(apply(NODE), ATOMIC), (patch(NODE_PATCH), "")], ids=["apply", "patch"])
async def test_a_binding(registry: Registry, mutation: dict[str, Any], told: str) -> None:
    """ObjectReference is atomic in Kubernetes."""
    await make(registry, pod("p"))
    await policy(registry, mutation, resource="pods/binding")
    (result,) = await registry.bind(admin(), [pods_pb2.BindRequest(namespace="default", name="p", node="n1")])
    assert told in str(result.error or "")
    if not told:
        found: Any = (await registry.get(admin(), POD, "default", "p")).message()
        assert found.spec.node_name == "n2"


REPLICAS = "Object{spec: Object.spec{replicas: object.spec.replicas * 2}}"
REPLICAS_PATCH = "[JSONPatch{op: 'replace', path: '/spec/replicas', value: object.spec.replicas * 2}]"


@pytest.mark.parametrize("mutation", [apply(REPLICAS), patch(REPLICAS_PATCH)], ids=["apply", "patch"])
async def test_a_scale(registry: Registry, mutation: dict[str, Any]) -> None:
    deployment = kinds.by_name("apps/v1", "Deployment")
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "app:1"}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    await make(registry, obj("apps/v1", "Deployment", "web", spec=spec))
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments/scale"], "operations": ["UPDATE"]}
    await policy(registry, mutation, matchConstraints={"resourceRules": [rule]})
    scale: Any = (await registry.get(admin(), deployment, "default", "web", subresource="scale")).message()
    scale.spec.replicas = 2
    changed: Any = await registry.update(admin(), deployment, "default", "web", scale, subresource="scale")
    assert changed.message().spec.replicas == 4


async def test_one_parameter_that_fails_does_not_end_its_binding(registry: Registry) -> None:
    """A policy is applied with each of them, in whatever order they come."""
    for name, data in {"p1": {"k": "one"}, "p2": {}, "p3": {"k": "three"}}.items():
        await make(registry, obj("v1", "ConfigMap", name, meta={"labels": {"params": "yes"}}, data=data))
    by_param = "Object{metadata: Object.metadata{annotations: {params.data.k: params.metadata.name}}}"
    await policy(
        registry, apply(by_param), name="q", failurePolicy="Ignore", paramKind={"apiVersion": "v1", "kind": "ConfigMap"}
    )
    ref = {"selector": {"matchLabels": {"params": "yes"}}, "parameterNotFoundAction": "Deny"}
    spec = {"policyName": "q", "paramRef": ref}
    await registry.create(admin(), BINDING, "", obj(V1, "MutatingAdmissionPolicyBinding", "params", spec=spec))
    assert (await make(registry, config()))["metadata"]["annotations"] == {"one": "p1", "three": "p3"}


def token_request(**facts: Any) -> Request:
    account = kinds.by_name("v1", "ServiceAccount")
    asked = authentication_v1_pb2.TokenRequest()
    asked.spec.audiences.append("x")
    return Request("CREATE", account, "token", "default", "a", asked, None, Identity("u", ()), **facts)


def test_a_body_of_a_subresource_is_shown_and_taken_back_as_what_it_is() -> None:
    request = token_request()
    shown = attributes.view(request, "uid")
    assert shown.object is not None
    assert (shown.object["apiVersion"], shown.object["kind"]) == ("authentication.k8s.io/v1", "TokenRequest")
    assert shown.request["kind"] == {"group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest"}
    assert shown.request["resource"] == {"group": "", "version": "v1", "resource": "serviceaccounts"}
    assert not matching.accept(request, shown.object)
    assert matching.accept(request, {**shown.object, "spec": {"audiences": ["y"]}})
    assert list(request.obj.spec.audiences) == ["y"]
    with pytest.raises(ValueError, match='kind: "Pod"; wanted "TokenRequest"'):
        matching.accept(request, {**shown.object, "kind": "Pod"})
