"""The agent's tokens: asked for once, renewed in time, kept while nobody answers, forgotten with their pod."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kubelet.tokens import AccountTokens
from wherry.api.context import Env
from wherry.api.errors import APIError, NotFound, ServiceUnavailable
from wherry.api.times import to_time
from wherry.pb import authentication_v1_pb2, core_v1_pb2
from wherry.testing.builders import make_pod


class API:
    """Each token says which request it came from."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self.asked: list[tuple[str, str, authentication_v1_pb2.TokenRequestSpec]] = []
        self.error: APIError | None = None

    async def request_token(
        self, namespace: str, account: str, spec: authentication_v1_pb2.TokenRequestSpec
    ) -> authentication_v1_pb2.TokenRequest:
        if self.error is not None:
            raise self.error
        self.asked.append((namespace, account, spec))
        answer = authentication_v1_pb2.TokenRequest(spec=spec)
        answer.status.token = f"token-{len(self.asked)}"
        answer.status.expiration_timestamp.CopyFrom(to_time(int(self.env.now()) + spec.expiration_seconds))
        return answer


@pytest.fixture
def api(env: Env) -> API:
    return API(env)


@pytest.fixture
def tokens(api: API, env: Env) -> AccountTokens:
    client: Any = api
    return AccountTokens(client, env)


@pytest.fixture
def pod() -> core_v1_pb2.Pod:
    made = make_pod("p", "ns").build()
    made.metadata.uid = "u1"
    made.spec.service_account_name = "robot"
    return made


async def test_what_is_asked(tokens: AccountTokens, api: API, pod: core_v1_pb2.Pod) -> None:
    await tokens.get(pod, "vault", 600)
    await tokens.get(pod, "", 3607)
    (namespace, account, spec), (_, _, plain) = api.asked
    assert (namespace, account, list(spec.audiences), spec.expiration_seconds) == ("ns", "robot", ["vault"], 600)
    ref = spec.bound_object_ref
    assert (ref.api_version, ref.kind, ref.name, ref.uid) == ("v1", "Pod", "p", "u1")
    assert not plain.audiences


@pytest.mark.parametrize(
    ("seconds", "until_s"), [(600, 480), (3607, 2885), (30 * 86_400, 86_400)], ids=["600", "3607", "a month"]
)
async def test_renewal(tokens: AccountTokens, pod: core_v1_pb2.Pod, seconds: int, until_s: int) -> None:
    """At 80 % of its time, and once a day at least."""
    assert await tokens.get(pod, "", seconds) == "token-1"
    await asyncio.sleep(until_s - 2)
    assert await tokens.get(pod, "", seconds) == "token-1"
    await asyncio.sleep(4)
    assert await tokens.get(pod, "", seconds) == "token-2"


async def test_an_old_token_serves_while_nobody_answers(tokens: AccountTokens, api: API, pod: core_v1_pb2.Pod) -> None:
    await tokens.get(pod, "", 600)
    api.error = ServiceUnavailable("away")
    await asyncio.sleep(500)
    assert await tokens.get(pod, "", 600) == "token-1"
    await asyncio.sleep(101)
    with pytest.raises(ServiceUnavailable):
        await tokens.get(pod, "", 600)


async def test_a_refusal_is_final(tokens: AccountTokens, api: API, pod: core_v1_pb2.Pod) -> None:
    await tokens.get(pod, "", 600)
    api.error = NotFound('serviceaccounts "robot" not found')
    await asyncio.sleep(500)
    with pytest.raises(NotFound):
        await tokens.get(pod, "", 600)


async def test_a_pod_that_is_gone_is_forgotten(tokens: AccountTokens, pod: core_v1_pb2.Pod) -> None:
    other = make_pod("q").build()
    other.metadata.uid = "u2"
    assert [await tokens.get(each, "", 600) for each in (pod, other)] == ["token-1", "token-2"]
    tokens.forget("u1")
    assert [await tokens.get(each, "", 600) for each in (pod, other)] == ["token-3", "token-2"]
