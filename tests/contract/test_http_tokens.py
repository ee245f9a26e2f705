"""Bearer tokens over real HTTPS: asked for, shown, refused, and verified by others with what the server publishes."""

from __future__ import annotations

import base64
import math
from collections.abc import AsyncIterator

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from controlplane.auth.ca import private_pem
from controlplane.auth.keyfiles import KeyFiles
from controlplane.registry.base import ADMIN, Identity
from controlplane.server import Options
from wherry.api.context import Env
from wherry.api.errors import BadRequest, Conflict, Forbidden
from wherry.api.times import format_seconds
from wherry.client.keys import list_keys, remove_key, rotate_keys
from wherry.testing.eventually import eventually
from wherry.testing.https import Caller, Https, https

ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}


@pytest.fixture
async def admin(front: Https) -> AsyncIterator[Caller]:
    async with front.caller() as caller:
        made = await caller.ask("POST", ACCOUNTS, {"metadata": {"name": "robot"}})
        assert made.status == 201
        yield caller


@pytest.fixture
async def nobody(front: Https) -> AsyncIterator[Caller]:
    """Without a certificate."""
    async with front.caller("") as caller:
        yield caller


async def token_of(admin: Caller, **spec: object) -> str:
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    answer = await admin.ask("POST", f"{ACCOUNTS}/robot/token", body)
    assert answer.status == 201, answer.text
    token: str = answer.json["status"]["token"]
    return token


async def test_a_token_is_who_it_says_until_its_account_goes(admin: Caller, nobody: Caller) -> None:
    token = await token_of(admin)
    answer = await nobody.ask("POST", WHO, REVIEW, Authorization=f"Bearer {token}")
    assert answer.json["status"]["userInfo"]["username"] == "system:serviceaccount:default:robot"
    listed = await nobody.ask("GET", "/api/v1/pods", Authorization=f"Bearer {token}")
    assert listed.status == 403
    assert 'User "system:serviceaccount:default:robot" cannot list resource "pods"' in listed.json["message"]
    assert (await admin.ask("DELETE", f"{ACCOUNTS}/robot")).status == 200
    gone = await nobody.ask("POST", WHO, REVIEW, Authorization=f"Bearer {token}")
    assert (gone.status, gone.json["message"], gone.json["reason"]) == (401, "Unauthorized", "Unauthorized")
    assert gone.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("token", ["nope", "a.b.c", "x" * 30_000, "abcdef.0123456789abcdef"])
async def test_nobodys_token(nobody: Caller, token: str) -> None:
    answer = await nobody.ask("GET", "/version", Authorization=f"Bearer {token}")
    assert (answer.status, answer.json["message"]) == (401, "Unauthorized")


async def test_a_review_over_http(admin: Caller) -> None:
    token = await token_of(admin, audiences=["a.example"])
    body = {
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token, "audiences": ["a.example"]},
    }  # fmt: skip
    answer = await admin.ask("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body)
    assert (answer.status, answer.json["status"]["authenticated"]) == (201, True)


async def test_a_token_in_a_secret_lasts_as_long_as_it(admin: Caller, nobody: Caller) -> None:
    secrets = "/api/v1/namespaces/default/secrets"
    annotations = {"kubernetes.io/service-account.name": "robot"}
    body = {"metadata": {"name": "lasting", "annotations": annotations}, "type": "kubernetes.io/service-account-token"}
    assert (await admin.ask("POST", secrets, body)).status == 201

    async def data() -> dict[str, str]:
        found = (await admin.ask("GET", f"{secrets}/lasting")).json.get("data", {})
        return {key: base64.b64decode(value).decode() for key, value in found.items()} if "token" in found else {}

    async def is_gone() -> bool:
        return (await admin.ask("GET", f"{secrets}/lasting")).status == 404

    found = await eventually(data, 60)
    assert found["namespace"] == "default"
    assert found["ca.crt"].startswith("-----BEGIN CERTIFICATE-----")
    bearer = {"Authorization": f"Bearer {found['token']}"}
    answer = await nobody.ask("POST", WHO, REVIEW, **bearer)
    assert answer.json["status"]["userInfo"]["username"] == "system:serviceaccount:default:robot"
    assert (await admin.ask("PATCH", f"{secrets}/lasting", {"data": {"token": None}},
                            content_type="application/merge-patch+json")).status == 200  # fmt: skip
    assert (await eventually(data, 60))["token"] != found["token"], "to take the token out is to ask for another"
    assert (await nobody.ask("POST", WHO, REVIEW, **bearer)).status == 401

    assert (await admin.ask("DELETE", f"{ACCOUNTS}/robot")).status == 200
    assert await eventually(is_gone, 60)


async def test_keys_are_rotated_under_living_tokens() -> None:
    real, moved = Env(), [0.0]
    async with (
        https(Env(now=lambda: real.now() + moved[0])) as front,
        front.caller() as admin,
        front.caller("") as nobody,
    ):
        keys = front.plane.local_client(ADMIN)
        assert (await admin.ask("POST", ACCOUNTS, {"metadata": {"name": "robot"}})).status == 201
        annotations = {"kubernetes.io/service-account.name": "robot"}
        body = {"metadata": {"name": "s", "annotations": annotations}, "type": "kubernetes.io/service-account-token"}
        assert (await admin.ask("POST", "/api/v1/namespaces/default/secrets", body)).status == 201

        async def secret_token() -> str:
            found = (await admin.ask("GET", "/api/v1/namespaces/default/secrets/s")).json.get("data", {})
            return base64.b64decode(found.get("token", "")).decode()

        async def status_of(token: str) -> int:
            return (await nobody.ask("POST", WHO, REVIEW, Authorization=f"Bearer {token}")).status

        lasting, old = await eventually(secret_token, 60), await token_of(admin)
        (first,) = (await list_keys(keys)).keys
        assert (first.signs, first.secrets) == (True, 1)
        await token_of(admin, expirationSeconds=86_400)
        signs_from = (await rotate_keys(keys)).keys[1].signs_from
        published = (await admin.ask("GET", "/openid/v1/jwks")).json["keys"]
        assert len(published) == 2, "others learn of a key before there is a token signed by it"
        moved[0] += 61
        new = await token_of(admin)
        assert jwt.get_unverified_header(new)["kid"] == published[1]["kid"] != jwt.get_unverified_header(old)["kid"]
        assert [await status_of(token) for token in (lasting, old, new)] == [201, 201, 201]
        with pytest.raises(BadRequest, match="signs; rotate first"):
            await remove_key(keys, published[1]["kid"])
        with pytest.raises(Conflict, match="Secrets default/s, which have no end"):
            await remove_key(keys, first.id)
        change = {"data": {"token": None}}
        path = "/api/v1/namespaces/default/secrets/s"
        await admin.ask("PATCH", path, change, content_type="application/merge-patch+json")
        assert await status_of(await eventually(secret_token, 60)) == 201
        with pytest.raises(Conflict, match=f"are good until {format_seconds(math.ceil(signs_from + 86_400))}"):
            await remove_key(keys, first.id[:9])
        assert [key.signs for key in (await remove_key(keys, first.id[:9], force=True)).keys] == [True]
        assert [await status_of(token) for token in (lasting, old, new)] == [401, 401, 201]
        with pytest.raises(Forbidden):
            await rotate_keys(front.plane.local_client(Identity("alice", ("system:authenticated",))))


async def test_others_verify_our_tokens_by_themselves(admin: Caller, nobody: Caller) -> None:
    token = await token_of(admin, audiences=["vault"])
    own = await token_of(admin)
    assert (await nobody.ask("GET", "/openid/v1/jwks")).status == 403
    answer = await nobody.ask("GET", "/.well-known/openid-configuration", Authorization=f"Bearer {own}")
    found = answer.json
    assert found["issuer"] == "https://kubernetes.default.svc"
    assert found["id_token_signing_alg_values_supported"] == ["ES256"]
    path = "/" + found["jwks_uri"].split("/", 3)[3]
    keys = await nobody.ask("GET", path, Authorization=f"Bearer {own}")
    assert keys.headers["Content-Type"] == "application/jwk-set+json"
    (key,) = jwt.PyJWKSet.from_dict(keys.json).keys
    assert jwt.decode(token, key, ["ES256"], audience="vault", issuer=found["issuer"])["sub"].endswith(":robot")


async def test_keys_in_files() -> None:
    """Ours signs; a token that a former cluster has signed is good too, and one of nobody's claims is no 500."""
    own, former = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
    options = Options(scheduler=False, controllers=False, account_keys=KeyFiles(private_pem(own), [rsa_pem(former)]))
    async with https(Env(), options) as front, front.caller() as caller, front.caller("") as nobody:
        assert (await caller.ask("POST", ACCOUNTS, {"metadata": {"name": "robot"}})).status == 201
        token = await token_of(caller)
        shown = (await caller.ask("GET", "/openid/v1/jwks")).json["keys"]
        first, second, *_ = shown
        claims = jwt.decode(token, jwt.PyJWK(first).key, ["ES256"], audience="https://kubernetes.default.svc")
        theirs = jwt.encode(claims, former, "RS256", headers={"kid": second["kid"]})
        for good in (token, theirs):
            answer = await nobody.ask("POST", WHO, REVIEW, Authorization=f"Bearer {good}")
            assert answer.json["status"]["userInfo"]["username"] == "system:serviceaccount:default:robot"
        odd = jwt.encode({"iss": claims["iss"]}, former, "RS256", headers={"kid": second["kid"]})
        assert (await nobody.ask("POST", WHO, REVIEW, Authorization=f"Bearer {odd}")).status == 401
        configuration = (await caller.ask("GET", "/.well-known/openid-configuration")).json
        assert configuration["id_token_signing_alg_values_supported"] == ["ES256", "RS256"]


def rsa_pem(key: rsa.RSAPrivateKey) -> bytes:
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
