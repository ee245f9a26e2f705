"""MutatingAdmissionPolicy through the registry: what it makes of objects, and what it refuses in which words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.admission.chain import Outside
from controlplane.admission.policies.authorizer import Decision, Question
from controlplane.registry.base import Identity, RequestContext
from controlplane.registry.registry import Registry
from wherry.api import codec, kinds
from wherry.api.context import Env
from wherry.api.errors import APIError, Invalid
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
