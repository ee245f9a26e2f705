"""A policy with hundreds of expressions is compiled one at a time: when it is written, and once more at the first request that
meets it, however many come together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest

from controlplane.admission.policies.compiled import Policy
from controlplane.admission.policies.mutations import Mutations
from controlplane.admission.policies.source import PolicySource
from controlplane.registry.validation.admissionregistration import policy_in_slices
from wherry.api.context import Env
from wherry.pb import admissionregistration_v1_pb2 as pb

MANY = 200


def validating() -> Any:
    policy = pb.ValidatingAdmissionPolicy()
    policy.metadata.name = "p"
    for index in range(MANY):
        policy.spec.variables.add(name=f"v{index}", expression=f"object.spec.replicas > {index}")
        policy.spec.validations.add(expression=f"variables.v{index}")
        policy.spec.audit_annotations.add(key=f"k{index}", value_expression="string(object.spec.replicas)")
    return policy


def mutating() -> Any:
    policy = pb.MutatingAdmissionPolicy()
    policy.metadata.name = "p"
    for index in range(MANY):
        item = policy.spec.mutations.add(patch_type="ApplyConfiguration")
        item.apply_configuration.expression = f"Object{{spec: Object.spec{{replicas: {index}}}}}"
    return policy


def turns(work: Generator[None, None, Any]) -> int:
    return sum(1 for _ in work)


@pytest.mark.parametrize("make", [validating, mutating])
def test_others_have_a_turn_after_each_expression(make: Any) -> None:
    policy = make()
    compiled = Policy.made(policy.spec) if make is validating else Mutations.made(policy.spec)
    wanted = 3 * MANY if make is validating else MANY
    assert turns(policy_in_slices(policy)) >= wanted
    assert turns(compiled) >= wanted


async def test_of_many_requests_one_compiles(env: Env) -> None:
    policy, begun = validating(), 0

    def compile(spec: Any) -> Generator[None, None, Policy]:
        nonlocal begun
        begun += 1
        return (yield from Policy.made(spec))

    source: PolicySource[Policy] = PolicySource(None, env, None, "ValidatingAdmissionPolicy", compile)  # type: ignore[arg-type]
    first = asyncio.ensure_future(source.compiled(policy))
    await asyncio.sleep(0)
    first.cancel()  # its client has gone: somebody else goes on
    found = await asyncio.gather(*(source.compiled(policy) for _ in range(20)))
    assert begun == 2
    assert len({id(each) for each in found}) == 1
    assert isinstance(found[0], Policy)
