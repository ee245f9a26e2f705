"""Service account tokens: what is in one, who may have which, and how long each holds."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import jwt
import pytest

from controlplane.admission.chain import Options as AdmissionOptions
from controlplane.auth import accountclaims, signing
from controlplane.auth.accounttokens import AccountTokens
from controlplane.auth.authentication import Authentication
from controlplane.auth.ca import private_pem
from controlplane.auth.signing import InvalidToken, Keys, load_keys, parse_keys
from controlplane.registry.base import Identity, RequestContext
from controlplane.registry.registry import Options, Registry
from controlplane.store.open import open_store
from wherry.api import codec, errors, kinds
from wherry.api.context import Env
from wherry.pb import authentication_v1_pb2, meta_v1_pb2
from wherry.testing import recordings
from wherry.testing.registries import admin, node, obj, pod

DAY_S = 86_400.0


@dataclass
class World:
    registry: Registry
    tokens: AccountTokens
    authentication: Authentication
    env: Env
    now: list[float]

    async def create(self, made: Any, namespace: str = "golden") -> Any:
        kind = kinds.of(type(made))
        stored = await self.registry.create(admin(), kind, namespace if kind.namespaced else "", made)
        return stored.message()

    async def delete(self, kind: str, name: str, namespace: str = "golden", grace_s: int = 0) -> None:
        options = meta_v1_pb2.DeleteOptions(grace_period_seconds=grace_s)
        await self.registry.delete(admin(), kinds.by_name("v1", kind), namespace, name, options)

    async def request(self, account: str = "robot", ctx: RequestContext | None = None, **spec: Any) -> Any:
        asked = codec.from_dict({"spec": spec}, authentication_v1_pb2.TokenRequest)
        kind = kinds.by_name("v1", "ServiceAccount")
        context = ctx or admin()
        stored = await self.registry.create(context, kind, "golden", asked, name=account, subresource="token")
        return stored.message()

    async def token(self, account: str = "robot", **spec: Any) -> str:
        return str((await self.request(account, **spec)).status.token)

    async def why_not(self, token: str, *audiences: str) -> str:
        with pytest.raises(InvalidToken) as refused:
            await self.tokens.verify(token, audiences)
        return str(refused.value)


@pytest.fixture
async def world(env: Env) -> AsyncIterator[World]:
    store = await open_store("sqlite::memory:", env, inline=True)
    registry = Registry(store, env, Options(admission=AdmissionOptions(token_volume=True)))
    await registry.start()
    start, offset = env.now, [0.0]
    clock = Env(now=lambda: start() + offset[0], rng=env.rng)
    tokens = AccountTokens(registry, clock, parse_keys((await load_keys(store)).value))
    registry.issue_with(tokens.issue)
    found = World(registry, tokens, Authentication(registry, clock, tokens), clock, offset)
    await found.create(obj("v1", "Namespace", "golden"))
    await found.create(obj("v1", "ServiceAccount", "robot"))
    await found.create(obj("v1", "Node", "n1"))
    yield found
    await registry.close()
    await store.close()


def claims_of(token: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(signing.decode(token.split(".")[1]))
    return found


async def bound_pod(world: World, name: str = "p", *, on: str = "n1", **spec: Any) -> Any:
    made = pod(name, nodeName=on, serviceAccountName="robot", **spec)
    return await world.create(made)


def pod_ref(found: Any, **more: str) -> dict[str, str]:
    return {"kind": "Pod", "apiVersion": "v1", "name": found.metadata.name, **more}


async def test_another_library_reads_what_we_sign(world: World) -> None:
    token = await world.token(audiences=["a.example"])
    (key,) = world.tokens.public_keys()["keys"]
    read = jwt.decode(
        token, jwt.PyJWK(key), ["ES256"], audience="a.example", issuer="https://kubernetes.default.svc",
        options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
    )  # fmt: skip
    assert jwt.get_unverified_header(token)["kid"] == key["kid"]
    assert read["sub"] == "system:serviceaccount:golden:robot"


async def test_the_claims_are_those_of_kubernetes(world: World) -> None:
    account = (await world.registry.get(admin(), kinds.by_name("v1", "ServiceAccount"), "golden", "robot")).message()
    found = await bound_pod(world)
    claims = claims_of(await world.token(boundObjectRef=pod_ref(found), expirationSeconds=600))
    server = (await world.registry.get(admin(), kinds.by_name("v1", "Node"), "", "n1")).message()
    now = int(world.env.now())
    assert claims.pop("jti")
    assert claims == {
        "aud": ["https://kubernetes.default.svc"],
        "exp": now + 600,
        "iat": now,
        "iss": "https://kubernetes.default.svc",
        "kubernetes.io": {
            "namespace": "golden",
            "node": {"name": "n1", "uid": server.metadata.uid},
            "pod": {"name": "p", "uid": found.metadata.uid},
            "serviceaccount": {"name": "robot", "uid": account.metadata.uid},
        },
        "nbf": now,
        "sub": "system:serviceaccount:golden:robot",
    }


async def test_the_token_of_a_pod_outlives_what_it_says(world: World) -> None:
    """Clients that read the file once are not cut off after an hour; whoever refreshes it does so by what the answer says."""
    found = await bound_pod(world)
    answer = await world.request(boundObjectRef=pod_ref(found), expirationSeconds=3607)
    claims, now = claims_of(answer.status.token), int(world.env.now())
    assert answer.status.expiration_timestamp.seconds == now + 3607
    assert (claims["kubernetes.io"]["warnafter"], claims["exp"]) == (now + 3607, now + 365 * DAY_S)
    other = claims_of(await world.token(boundObjectRef=pod_ref(found), expirationSeconds=3607, audiences=["vault"]))
    assert other["exp"] == now + 3607


async def test_who_shows_a_token(world: World) -> None:
    found = await bound_pod(world)
    token = await world.token(boundObjectRef=pod_ref(found))
    identity = await world.authentication.identity(token)
    assert identity is not None
    assert identity.user == "system:serviceaccount:golden:robot"
    assert identity.groups == ("system:serviceaccounts", "system:serviceaccounts:golden", "system:authenticated")
    assert identity.uid == claims_of(token)["kubernetes.io"]["serviceaccount"]["uid"]
    extra = {key.removeprefix("authentication.kubernetes.io/"): value for key, value in identity.extra.items()}
    assert extra.pop("node-uid")
    assert extra.pop("credential-id")[0].startswith("JTI=")
    assert extra == {"node-name": ("n1",), "pod-name": ("p",), "pod-uid": (found.metadata.uid,)}


async def _account_goes(world: World) -> None:
    await world.delete("ServiceAccount", "robot")


async def _account_is_made_anew(world: World) -> None:
    await world.delete("ServiceAccount", "robot")
    await world.create(obj("v1", "ServiceAccount", "robot"))


async def _pod_goes(world: World) -> None:
    await world.delete("Pod", "p")


async def _pod_is_made_anew(world: World) -> None:
    await world.delete("Pod", "p")
    await bound_pod(world)


async def _time_passes(world: World) -> None:
    world.now[0] += 3600


async def _pod_is_stuck(world: World) -> None:
    await world.delete("Pod", "p", grace_s=30)
    world.now[0] += 30 + accountclaims.DELETED_LEEWAY_S + 1


@pytest.mark.parametrize(
    ("happens", "why"),
    [
        (_account_goes, 'serviceaccounts "robot" not found'),
        (_account_is_made_anew, "does not match claim"),
        (_pod_goes, "service account token has been invalidated"),
        (_pod_is_made_anew, "does not match service account pod ref claim"),
        (_time_passes, "service account token has expired"),
        (_pod_is_stuck, "service account token has been invalidated"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
async def test_a_token_ends_with_what_it_stands_for(world: World, happens: Callable[[World], Any], why: str) -> None:
    found = await bound_pod(world)
    token = await world.token(boundObjectRef=pod_ref(found))
    await world.tokens.verify(token)
    await happens(world)
    assert why in await world.why_not(token)
    assert await world.authentication.identity(token) is None


async def test_bound_to_a_secret_or_a_node(world: World) -> None:
    await world.create(obj("v1", "Secret", "s"))
    by_secret = await world.token(boundObjectRef={"kind": "Secret", "apiVersion": "v1", "name": "s"})
    by_node = await world.token(boundObjectRef={"kind": "Node", "apiVersion": "v1", "name": "n1"})
    for token in (by_secret, by_node):
        await world.tokens.verify(token)
    await world.delete("Secret", "s")
    await world.delete("Node", "n1", "")
    for token in (by_secret, by_node):
        assert await world.why_not(token) == "service account token has been invalidated"


async def test_a_pod_that_is_ending_keeps_its_token(world: World) -> None:
    found = await bound_pod(world)
    token = await world.token(boundObjectRef=pod_ref(found))
    await world.delete("Pod", "p", grace_s=30)
    await world.tokens.verify(token)


async def test_audiences(world: World) -> None:
    token = await world.token(audiences=["a.example", "b.example"])
    assert (await world.tokens.verify(token, ["b.example", "c.example"]))[1] == ("b.example",)
    assert "is invalid for the target audiences" in await world.why_not(token)
    assert "is invalid for the target audiences" in await world.why_not(token, "c.example")


def _other_key(token: str, keys: Keys) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec

    return parse_keys(private_pem(ec.generate_private_key(ec.SECP256R1()))).sign(claims_of(token), 0)


def _with_head(**head: str) -> Callable[[str, Keys], str]:
    def change(token: str, keys: Keys) -> str:
        parts = token.split(".")
        return ".".join([signing.encode(json.dumps(head).encode()), *parts[1:]])

    return change


def _other_claims(token: str, keys: Keys) -> str:
    head, _, signature = token.split(".")
    changed = claims_of(token) | {"sub": "system:serviceaccount:kube-system:admin"}
    return f"{head}.{signing.encode(json.dumps(changed).encode())}.{signature}"


@pytest.mark.parametrize(
    "change",
    [
        _other_key,
        _other_claims,
        _with_head(alg="none"),
        _with_head(alg="HS256"),
        lambda token, keys: token.rpartition(".")[0] + ".",
        lambda token, keys: token[:-4] + "AAAA",
        lambda token, keys: "a.b.c",
        lambda token, keys: "nope",
        lambda token, keys: "." * 3,
        lambda token, keys: token + "=",
        lambda token, keys: "x" * 20_000,
        lambda token, keys: "é" * 10,
        lambda token, keys: signing.encode(b"[" * 5000) + ".e30.AAAA",
        lambda token, keys: keys.sign({"sub": "x", "exp": 1 << 40, "nbf": 0}, 0),
        lambda token, keys: keys.sign({**claims_of(token), "iss": "https://elsewhere"}, 0),
    ],
)
async def test_forgeries(world: World, change: Callable[[str, Keys], str]) -> None:
    token = await world.token()
    forged = change(token, world.tokens._keys)
    assert await world.why_not(forged) == "invalid bearer token"
    assert await world.authentication.identity(forged) is None


@pytest.mark.skipif(
    not recordings.GOLDEN.is_dir() and not os.environ.get("CI"),
    reason="no recordings of an API server beside the checkout",
)
@pytest.mark.parametrize("number", range(14, 21))
async def test_recorded_requests(world: World, number: int) -> None:
    record = next(item for item in recordings.records("auth") if item.number == number)
    account = record.path.split("/")[-2]
    wanted = record.answer
    if record.status >= 400:
        with pytest.raises(errors.APIError) as refused:
            await world.request(account, **record.body["spec"])
        error = refused.value
        assert (error.code, error.reason, error.message) == (record.status, wanted["reason"], wanted["message"])
        causes = [{"reason": c.reason, "message": c.message, "field": c.field} for c in error.causes]
        assert causes == wanted.get("details", {}).get("causes", [])
        return
    answer = codec.to_dict(await world.request(account, **record.body["spec"]))
    for field in ("name", "namespace", "uid", "creationTimestamp"):
        assert bool(answer["metadata"].get(field)) == bool(wanted["metadata"].get(field)), field
    assert answer["spec"] == wanted["spec"]
    assert answer["status"].keys() == wanted["status"].keys()


PODS_TOKEN = {"serviceAccountToken": {"path": "t", "audience": "vault"}}


@pytest.mark.parametrize(
    ("name", "spec", "why"),
    [
        ("n1", {}, ""),
        ("n1", {"audiences": ["vault"]}, ""),
        ("n1", {"audiences": ["bank"]}, 'audience "bank" not found in pod spec volume'),
        ("n2", {}, "node requested token bound to a pod scheduled on a different node"),
        ("n1", {"boundObjectRef": None}, "node requested token not bound to a pod"),
        ("n1", {"boundObjectRef": {"kind": "Node", "apiVersion": "v1", "name": "n1"}}, "token not bound to a pod"),
        ("n1", {"uid": ""}, "node requested token with a pod binding without a uid"),
        ("n1", {"uid": "other"}, "does not match the UID in record"),
    ],
)
async def test_a_node_has_tokens_of_its_pods_only(world: World, name: str, spec: dict[str, Any], why: str) -> None:
    found = await bound_pod(world, volumes=[{"name": "v", "projected": {"sources": [PODS_TOKEN]}}])
    asked = {"boundObjectRef": pod_ref(found, uid=spec.pop("uid", found.metadata.uid)), **spec}
    asked = {key: value for key, value in asked.items() if value is not None}
    if not why:
        assert (await world.request(ctx=node(name), **asked)).status.token
        return
    with pytest.raises(errors.Forbidden) as refused:
        await world.request(ctx=node(name), **asked)
    assert why in refused.value.message
    assert refused.value.message.startswith('serviceaccounts "robot" is forbidden: ')


async def test_a_pod_of_another_account_is_refused(world: World) -> None:
    found = await bound_pod(world)
    with pytest.raises(errors.BadRequest, match="pod running with different serviceaccount name"):
        await world.request("default", boundObjectRef=pod_ref(found))
    with pytest.raises(errors.Conflict, match="does not match the UID in record"):
        await world.request(boundObjectRef=pod_ref(found, uid="other"))


async def review(world: World, token: str, *audiences: str) -> Any:
    asked = authentication_v1_pb2.TokenReview()
    asked.spec.token = token
    asked.spec.audiences.extend(audiences)
    await world.authentication.review(asked)
    return codec.to_dict(asked)["status"]


async def test_reviews(world: World) -> None:
    token = await world.token(audiences=["a.example"])
    good = await review(world, token, "a.example", "b.example")
    assert (good["authenticated"], good["audiences"]) == (True, ["a.example"])
    assert good["user"]["username"] == "system:serviceaccount:golden:robot"
    assert await review(world, "nope") == {"user": {}, "error": "invalid bearer token"}
    bad = await review(world, token)
    assert bad["error"].startswith("[invalid bearer token, token audiences")
    with pytest.raises(errors.BadRequest, match="token is required"):
        await review(world, "")


async def test_bootstrap_tokens(world: World) -> None:
    secret = obj("v1", "Secret", "bootstrap-token-abcdef", type="bootstrap.kubernetes.io/token", stringData={
        "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
        "auth-extra-groups": "system:bootstrappers:workers,system:masters",
    })  # fmt: skip
    await world.create(secret, "kube-system")
    assert await world.authentication.identity("abcdef.0123456789abcdef") == Identity(
        "system:bootstrap:abcdef", ("system:bootstrappers", "system:bootstrappers:workers", "system:authenticated")
    )
    assert await world.authentication.identity("abcdef.fedcba9876543210") is None


_NAMESPACE = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}


async def test_pods_get_a_token_as_kubernetes_mounts_it(world: World) -> None:
    made = await world.create(pod("plain"))
    (volume,) = codec.to_dict(made)["spec"]["volumes"]
    assert volume["name"].startswith("kube-api-access-")
    assert len(volume["name"]) == len("kube-api-access-") + 5
    assert volume["projected"] == {
        "defaultMode": 0o644,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": _NAMESPACE}]}},
        ],
    }  # fmt: skip
    (mount,) = codec.to_dict(made)["spec"]["containers"][0]["volumeMounts"]
    path = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert mount == {"name": volume["name"], "readOnly": True, "mountPath": path}


@pytest.mark.parametrize(
    ("account", "spec"),
    [
        ({}, {"automountServiceAccountToken": False}),
        ({"automountServiceAccountToken": False}, {}),
        ({"automountServiceAccountToken": True}, {"automountServiceAccountToken": False}),
    ],
)
async def test_pods_without_a_token(world: World, account: dict[str, Any], spec: dict[str, Any]) -> None:
    await world.create(obj("v1", "ServiceAccount", "quiet", **account))
    made = await world.create(pod("p", serviceAccountName="quiet", **spec))
    assert not made.spec.volumes


async def test_a_mount_of_ones_own_stands(world: World) -> None:
    made = pod("p", volumes=[{"name": "mine", "emptyDir": {}}])
    made.spec.containers[0].volume_mounts.add(name="mine", mount_path="/var/run/secrets/kubernetes.io/serviceaccount")
    made = await world.create(made)
    assert [volume.name for volume in made.spec.volumes] == ["mine"]


async def test_a_pod_names_an_account_that_is_not_there(world: World) -> None:
    with pytest.raises(errors.Forbidden) as refused:
        await world.create(pod("p", serviceAccountName="nobody"))
    assert refused.value.message == (
        'pods "p" is forbidden: error looking up service account golden/nobody: serviceaccount "nobody" not found'
    )
