"""ValidatingAdmissionPolicy through the registry: what is refused, said, noted, and in which words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.admission import expressions
from controlplane.admission.chain import Outside
from controlplane.admission.policies import typecheck
from controlplane.admission.policies.authorizer import Decision, Question
from controlplane.registry.base import Identity, RequestContext
from controlplane.registry.registry import Registry
from wherry.api import kinds
from wherry.api.context import Env
from wherry.api.errors import APIError, Invalid
from wherry.api.turns import at_once
from wherry.testing.registries import admin, obj, open_registry

V1 = "admissionregistration.k8s.io/v1"
POLICY = kinds.by_name(V1, "ValidatingAdmissionPolicy")
BINDING = kinds.by_name(V1, "ValidatingAdmissionPolicyBinding")
CONFIG = kinds.by_name("v1", "ConfigMap")
RULE = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE", "UPDATE"]}
ASKED: list[Question] = []


async def decide(question: Question) -> Decision:
    ASKED.append(question)
    return Decision(question.identity.user == "root", "because")


def no_transport() -> Any:
    raise AssertionError("no webhook here")


@pytest.fixture
async def registry(env: Env) -> AsyncIterator[Registry]:
    ASKED.clear()
    async with open_registry(env) as found:
        found.reach(Outside(env, no_transport, decide))
        yield found


async def policy(registry: Registry, *validations: dict[str, Any], name: str = "p", **spec: Any) -> None:
    body = {"matchConstraints": {"resourceRules": [RULE]}, "validations": list(validations), **spec}
    await registry.create(admin(), POLICY, "", obj(V1, "ValidatingAdmissionPolicy", name, spec=body))


async def bind(registry: Registry, *actions: str, name: str = "b", policy: str = "p", **spec: Any) -> None:
    body = {"policyName": policy, "validationActions": list(actions) or ["Deny"], **spec}
    await registry.create(admin(), BINDING, "", obj(V1, "ValidatingAdmissionPolicyBinding", name, spec=body))


def config(name: str = "c", **labels: str) -> Any:
    return obj("v1", "ConfigMap", name, meta={"labels": labels}, data={"a": "b"})


async def make(
    registry: Registry, made: Any, ctx: RequestContext | None = None, namespace: str = "default"
) -> APIError | None:
    try:
        await registry.create(ctx or admin(), CONFIG, namespace, made)
    except APIError as error:
        return error
    return None


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "message": ({"expression": "false", "message": " no "}, "no"),
    "no message": ({"expression": "object.metadata.name == 'x'"}, "failed expression: object.metadata.name == 'x'"),
    "message expression": (
        {"expression": "false", "messageExpression": "'not ' + object.metadata.name", "message": "no"}, "not c",
    ),
    "message expression that fails": (
        {"expression": "false", "messageExpression": "object.nope", "message": "no"}, "no",
    ),
    "message expression of two lines": (
        {"expression": "false", "messageExpression": "'a\\nb'", "message": "no"}, "no",
    ),
    "an error": (
        {"expression": "object.nope"}, "expression 'object.nope' resulted in error: no such key: nope",
    ),
    "not a bool": ({"expression": "object.metadata.name"}, "failed expression: object.metadata.name"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
async def test_the_words_of_a_denial(registry: Registry, name: str) -> None:
    validation, words = CASES[name]
    await policy(registry, validation)
    assert await make(registry, config()) is None  # nobody has bound it
    await bind(registry)
    error = await make(registry, config())
    assert error is not None
    text = f"ValidatingAdmissionPolicy 'p' with binding 'b' denied request: {words}"
    assert error.message == f'configmaps "c" is forbidden: {text}'
    assert (error.code, error.reason, [cause.message for cause in error.causes]) == (422, "Invalid", [text])


async def test_reasons_have_codes(registry: Registry) -> None:
    await policy(registry, {"expression": "false", "reason": "Forbidden"})
    await bind(registry)
    error = await make(registry, config())
    assert error is not None
    assert (error.code, error.reason) == (403, "Forbidden")


async def test_warn_and_audit(registry: Registry) -> None:
    annotation = {"key": "who", "valueExpression": "request.userInfo.username"}
    await policy(
        registry, {"expression": "true"}, {"expression": "object.metadata.name != 'c'", "message": "no"},
        auditAnnotations=[annotation],
    )  # fmt: skip
    await bind(registry, "Warn", "Audit")
    ctx = admin()
    assert await make(registry, config(), ctx) is None
    assert ctx.warnings == ["Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': no"]
    assert ctx.annotations == {
        "validation.policy.admission.k8s.io/validation_failure": '[{"message":"no","policy":"p","binding":"b",'
        '"expressionIndex":1,"validationActions":["Warn","Audit"]}]',
        "p/who": "system:admin",
    }


async def test_failures_are_ignored_where_the_policy_says_so(registry: Registry) -> None:
    await policy(registry, {"expression": "object.nope"}, failurePolicy="Ignore")
    await bind(registry)
    assert await make(registry, config()) is None


async def test_variables_are_worked_out_when_asked_for(registry: Registry) -> None:
    await policy(
        registry,
        {
            "expression": "!variables.labelled || variables.colour == 'red'",
            "messageExpression": "'is ' + variables.colour",
        },
        variables=[
            {"name": "labelled", "expression": "has(object.metadata.labels) && 'colour' in object.metadata.labels"},
            {"name": "colour", "expression": "object.metadata.labels['colour']"},
        ],
    )
    await bind(registry)
    assert await make(registry, config("a")) is None  # `colour` would fail here
    assert await make(registry, config("b", colour="red")) is None
    error = await make(registry, config("c", colour="blue"))
    assert error is not None
    assert error.message.endswith("is blue")


async def test_conditions_selectors_and_namespaces(registry: Registry) -> None:
    await policy(
        registry, {"expression": "namespaceObject.metadata.name != 'default'", "message": "not here"},
        matchConditions=[{"name": "people", "expression": "!request.userInfo.username.startsWith('system:node:')"}],
    )  # fmt: skip
    await bind(registry, matchResources={"objectSelector": {"matchLabels": {"strict": "y"}}})
    assert await make(registry, config("a")) is None
    assert await make(registry, config("b", strict="y"), namespace="kube-system") is None
    assert await make(registry, config("c", strict="y")) is not None


async def test_params(registry: Registry) -> None:
    await policy(
        registry, {"expression": "size(object.metadata.name) <= int(params.data.longest)", "message": "too long"},
        paramKind={"apiVersion": "v1", "kind": "ConfigMap"},
    )  # fmt: skip
    await bind(registry, paramRef={"name": "rules", "namespace": "kube-system", "parameterNotFoundAction": "Deny"})
    error = await make(registry, config("short"))
    assert error is not None
    assert error.message.endswith(
        "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
    )
    # The rules themselves are ConfigMaps: what they would be held to is not there yet.
    live = (await registry.get(admin(), BINDING, "", "b")).message()
    live.spec.param_ref.parameter_not_found_action = "Allow"
    await registry.update(admin(), BINDING, "", "b", live)
    rules = obj("v1", "ConfigMap", "rules", data={"longest": "5"})
    assert await make(registry, rules, namespace="kube-system") is None
    assert await make(registry, config("short")) is None
    error = await make(registry, config("longer"))
    assert error is not None
    assert error.message.endswith("too long")


async def test_params_by_selector_all_have_to_agree(registry: Registry) -> None:
    await policy(
        registry, {"expression": "object.metadata.name != params.data.no", "messageExpression": "'not ' + params.data.no"},
        paramKind={"apiVersion": "v1", "kind": "ConfigMap"},
    )  # fmt: skip
    for name in ("x", "y"):
        made = obj("v1", "ConfigMap", f"no-{name}", meta={"labels": {"rules": "y"}}, data={"no": name})
        assert await make(registry, made) is None
    selector = {"matchLabels": {"rules": "y"}}
    await bind(registry, paramRef={"selector": selector, "parameterNotFoundAction": "Allow"})
    assert await make(registry, config("z")) is None
    for name in ("x", "y"):
        error = await make(registry, config(name))
        assert error is not None
        assert error.message.endswith(f"not {name}")


async def test_the_authorizer_is_asked(registry: Registry) -> None:
    expression = (
        "authorizer.group('apps').resource('deployments').namespace('x').check('delete').allowed() "
        "|| authorizer.requestResource.check('bless').allowed()"
    )
    await policy(registry, {"expression": expression, "message": "ask root"})
    await bind(registry)
    error = await make(registry, config())
    assert error is not None
    assert error.message.endswith("ask root")
    assert [(q.verb, q.group, q.resource, q.namespace, q.name) for q in ASKED] == [
        ("delete", "apps", "deployments", "x", ""),
        ("bless", "", "configmaps", "default", "c"),
    ]
    assert await make(registry, config(), RequestContext(Identity("root"))) is None


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "type": (
        {"validations": [{"expression": "1 + 1"}]}, "spec.validations[0].expression",
        'Invalid value: "1 + 1": must evaluate to bool but got int',
    ),
    "unknown name": (
        {"validations": [{"expression": "nobody.there"}]}, "spec.validations[0].expression",
        "undeclared reference to 'nobody' (in container '')",
    ),
    "request has no such field": (
        {"validations": [{"expression": "request.nope == ''"}]}, "spec.validations[0].expression",
        "undefined field 'nope'",
    ),
    "variable": (
        {"variables": [{"name": "v", "expression": "1 +"}]}, "spec.variables[0].expression", "compilation failed",
    ),
    "variable before it is there": (
        {"variables": [{"name": "a", "expression": "variables.b"}, {"name": "b", "expression": "1"}]},
        "spec.variables[0].expression", "undefined field 'b'",
    ),
    "message": (
        {"validations": [{"expression": "true", "messageExpression": "1"}]}, "spec.validations[0].messageExpression",
        "must evaluate to string but got int",
    ),
    "condition": (
        {"matchConditions": [{"name": "c", "expression": "'a'"}]}, "spec.matchConditions[0].expression",
        "must evaluate to bool but got string",
    ),
    "reason": (
        {"validations": [{"expression": "true", "reason": "NotFound"}]}, "spec.validations[0].reason",
        "Unsupported value",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
async def test_what_does_not_compile_is_refused(registry: Registry, name: str) -> None:
    spec, field, words = WRONG[name]
    with pytest.raises(Invalid) as caught:
        await policy(registry, *spec.pop("validations", [{"expression": "true"}]), **spec)
    assert [cause.field for cause in caught.value.causes] == [field]
    assert words in caught.value.causes[0].message


async def test_what_costs_too_much_ends(registry: Registry) -> None:
    numbers = "[0,1,2,3,4,5,6,7,8,9]"
    deep = "true"
    for depth in range(8):
        deep = f"{numbers}.all(x{depth}, {deep})"
    await policy(registry, {"expression": deep})
    await bind(registry)
    error = await make(registry, config())
    assert error is not None
    assert error.message.endswith("operation cancelled: actual cost limit exceeded")


REFS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "neither": ({"parameterNotFoundAction": "Deny"}, ["spec.paramRef"]),
    "both": (
        {"name": "a", "selector": {}, "parameterNotFoundAction": "Deny"}, ["spec.paramRef.name", "spec.paramRef.selector"],
    ),
    "no action": ({"name": "a"}, ["spec.paramRef.parameterNotFoundAction"]),
    "odd action": ({"name": "a", "parameterNotFoundAction": "Wait"}, ["spec.paramRef.parameterNotFoundAction"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFS)
async def test_a_binding_says_which_params(registry: Registry, name: str) -> None:
    ref, fields = REFS[name]
    with pytest.raises(Invalid) as caught:
        await bind(registry, paramRef=ref)
    assert [cause.field for cause in caught.value.causes] == fields


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://u:p@x.example/", "user information is not permitted in the URL"),
        ("https://x.example/#f", "fragments are not permitted in the URL"),
        ("https://x.example/?a=b", "query parameters are not permitted in the URL"),
    ],
)
async def test_urls_of_hooks(registry: Registry, url: str, words: str) -> None:
    hook = {
        "name": "h.hooks.example", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": {"url": url},
        "rules": [RULE],
    }  # fmt: skip
    made = obj(V1, "ValidatingWebhookConfiguration", "h", webhooks=[hook])
    with pytest.raises(Invalid, match=words):
        await registry.create(admin(), kinds.by_name(V1, "ValidatingWebhookConfiguration"), "", made)


DEPLOYMENTS = {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["*"]}
TYPES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "fits": ({"expression": "object.spec.replicas <= 5 && object.metadata.creationTimestamp < now"}, {}),
    "undefined field": (
        {"expression": "object.spec.replicaz <= 5"},
        {
            "spec.validations[0].expression": "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'replicaz'\n"
            " | object.spec.replicaz <= 5\n | ...........^\n"
        },
    ),
    "another type": (
        {"expression": "object.spec.replicas == 'x'", "messageExpression": "object.nope"},
        {
            "spec.validations[0].expression": "no matching overload",
            "spec.validations[0].messageExpression": "undefined field 'nope'",
        },
    ),
    "by a variable": (
        {"expression": "variables.first.imagee == 'x'"}, {"spec.validations[0].expression": "undefined field 'imagee'"}
    ),
    "lists, maps and quantities": (
        {
            "expression": "object.spec.template.spec.containers.all(c, c.resources.limits['cpu'] == '1' "
            "&& c.ports[0].containerPort > 0)"
        },
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
async def test_expressions_that_do_not_fit_their_kinds_are_named(registry: Registry, name: str) -> None:
    validation, wanted = TYPES[name]
    validation = {key: text.replace("< now", "< timestamp('2030-01-01T00:00:00Z')") for key, text in validation.items()}
    await policy(
        registry, validation, matchConstraints={"resourceRules": [DEPLOYMENTS, {**RULE, "resources": ["pods/*"]}]},
        variables=[{"name": "first", "expression": "object.spec.template.spec.containers[0]"}],
    )  # fmt: skip
    stored = (await registry.get(admin(), POLICY, "", "p")).message()
    assert stored.status.observed_generation == stored.metadata.generation == 1
    found = {item.field_ref: item.warning for item in stored.status.type_checking.expression_warnings}
    assert found.keys() == wanted.keys(), found
    assert all(text in found[path] for path, text in wanted.items())
    # An update checks anew; one that changes nothing in the spec does not.
    stored.spec.validations[0].expression = "object.metadata.name != ''"
    stored.spec.validations[0].message_expression = ""
    changed = (await registry.update(admin(), POLICY, "", "p", stored)).message()
    assert changed.status.observed_generation == 2
    assert not changed.status.type_checking.expression_warnings


def heavy(variables: int, validations: int) -> Any:
    """A policy for two kinds."""
    spec = {
        "matchConstraints": {"resourceRules": [DEPLOYMENTS, {**RULE, "resources": ["configmaps"]}]},
        "variables": [{"name": f"v{i}", "expression": "object.metadata.name"} for i in range(variables)],
        "validations": [{"expression": "object.data.size() > 0"}] * validations,
    }
    return obj(V1, "ValidatingAdmissionPolicy", "p", spec=spec).spec


@pytest.mark.parametrize(
    ("variables", "validations", "slices", "told"),
    [
        pytest.param(10, 20, 60, 20, id="all"),
        pytest.param(400, 10, 410, 10, id="the first kind"),
        pytest.param(500, 1, 0, 0, id="nothing"),
        pytest.param(0, 501, 0, 0, id="nothing of so many validations"),
    ],
)
def test_what_the_check_of_types_takes_is_limited_and_in_slices(
    variables: int, validations: int, slices: int, told: int
) -> None:
    """A slice for each expression and kind: variables count as well."""
    spec = heavy(variables, validations)
    assert len(list(typecheck.warnings(spec))) == slices
    assert len(at_once(typecheck.warnings(spec))) == told


NUMBERS = "[0,1,2,3,4,5,6,7,8,9]"
DEAR = f"{NUMBERS}.all(a, {NUMBERS}.all(b, {NUMBERS}.all(c, a >= 0)))"
FAILS = f"{DEAR} && object.nope"


async def test_others_get_their_turn_between_dear_expressions(registry: Registry) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(other())
    counts = []
    for count in (1, 100):
        name = f"p{count}"
        await policy(registry, *[{"expression": DEAR}] * count, name=name)
        await bind(registry, name=name, policy=name)
        before = turns
        assert await make(registry, config(name)) is None
        counts.append(turns - before)
    task.cancel()
    assert counts[1] - counts[0] >= 10


@pytest.mark.parametrize("expression", [DEAR, FAILS, "variables.v"], ids=["passes", "fails", "a variable that fails"])
async def test_all_expressions_of_a_policy_share_its_budget(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, expression: str
) -> None:
    """One that fails has cost something too: a thousand of them would hold up everybody."""
    monkeypatch.setattr(expressions, "POLICY_BUDGET", 10_000)
    validations = [{"expression": expression}] * 9 + [{"expression": "true"}]
    await policy(registry, *validations, variables=[{"name": "v", "expression": FAILS}])
    await bind(registry, "Audit")
    ctx = admin()
    await make(registry, config(), ctx)
    assert "actual cost limit exceeded" in str(ctx.annotations)


@pytest.mark.parametrize("expression", [DEAR, FAILS], ids=["passes", "fails"])
async def test_all_conditions_share_their_budget(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, expression: str
) -> None:
    monkeypatch.setattr(expressions, "CONDITIONS_BUDGET", 10_000)
    each = [{"name": f"c{index}", "expression": expression} for index in range(9)]
    await policy(registry, {"expression": "true"}, matchConditions=each)
    await bind(registry)
    error = await make(registry, config())
    assert error is not None
    assert "actual cost limit exceeded" in error.message
