"""What a service account token says, as Kubernetes writes it. Pure: `accounttokens` looks the objects up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.auth.signing import InvalidToken
from controlplane.registry import violations
from controlplane.registry.base import Identity
from wherry.api.errors import Cause

ISSUER = "https://kubernetes.default.svc"
AUDIENCES = (ISSUER,)
USER_PREFIX = "system:serviceaccount:"
ALL_ACCOUNTS = "system:serviceaccounts"
MIN_LIFETIME_S = 600
MAX_LIFETIME_S = 1 << 32
# What admission asks for in every pod. Such a token works for a year although it says otherwise, as in Kubernetes: there are
# clients that read the file once. It still ends with its pod.
POD_LIFETIME_S = 3607
EXTENDED_LIFETIME_S = 365 * 86_400
# An object that was deleted a moment ago may still be needed to end in order.
DELETED_LEEWAY_S = 60.0
_EXTRA = "authentication.kubernetes.io/"
# Of the tokens in Secrets, which have no end of their own.
LASTING_ISSUER = "kubernetes/serviceaccount"
TOKEN_KEY = "token"
_LASTING = "kubernetes.io/serviceaccount/"


@dataclass(frozen=True, slots=True)
class Ref:
    name: str
    uid: str

    def claim(self) -> dict[str, str]:
        return {"name": self.name, "uid": self.uid} if self.uid else {"name": self.name}


@dataclass(frozen=True, slots=True)
class Claims:
    """`bound` are the objects without which the token is void, by kind: pod, secret, node. A token of a pod names the node
    too, for information."""

    namespace: str
    account: Ref
    bound: Mapping[str, Ref]
    token_id: str
    audiences: tuple[str, ...]
    secret: str = ""  # where a token that lasts must still stand


def user_name(namespace: str, account: str) -> str:
    return f"{USER_PREFIX}{namespace}:{account}"


def groups(namespace: str) -> tuple[str, ...]:
    return (ALL_ACCOUNTS, f"{ALL_ACCOUNTS}:{namespace}", "system:authenticated")


def problems(spec: Any) -> list[Cause]:
    """Of a TokenRequestSpec whose defaults are set."""
    asked = spec.expiration_seconds
    if asked < MIN_LIFETIME_S:
        detail = "may not specify a duration less than 10 minutes"
    elif asked > MAX_LIFETIME_S:
        detail = "may not specify a duration larger than 2^32 seconds"
    else:
        return []
    return [violations.invalid("spec.expirationSeconds", asked, detail)]


def write(
    namespace: str,
    account: Ref,
    bound: Mapping[str, Ref],
    audiences: Sequence[str],
    lifetime_s: int,
    now: int,
    token_id: str,
) -> dict[str, Any]:
    """The claims of a new token."""
    private: dict[str, Any] = {"namespace": namespace}
    for kind in ("node", "pod", "secret"):
        if kind in bound:
            private[kind] = bound[kind].claim()
    private["serviceaccount"] = account.claim()
    expires = now + lifetime_s
    if lifetime_s == POD_LIFETIME_S and "pod" in bound and set(audiences) & set(AUDIENCES):
        private["warnafter"], expires = expires, now + EXTENDED_LIFETIME_S
    return {
        "aud": list(audiences),
        "exp": expires,
        "iat": now,
        "iss": ISSUER,
        "jti": token_id,
        "kubernetes.io": private,
        "nbf": now,
        "sub": user_name(namespace, account.name),
    }


def read(found: Mapping[str, Any], now: float) -> Claims:
    """Raises InvalidToken for what is over, and for what is signed but is no token of an account."""
    try:
        return _read(found, now)
    except (KeyError, TypeError, AttributeError) as error:  # signed with a key from a file, by another program
        raise InvalidToken("invalid bearer token") from error


def _read(found: Mapping[str, Any], now: float) -> Claims:
    if found.get("iss") == LASTING_ISSUER:
        return _read_lasting(found)
    private = found.get("kubernetes.io")
    if found.get("iss") != ISSUER or not isinstance(private, dict):
        raise InvalidToken("invalid bearer token")
    if now >= found["exp"]:
        raise InvalidToken("service account token has expired")
    if now < found["nbf"] - 1:  # the claim is in whole seconds
        raise InvalidToken("service account token is not valid yet")
    audience = found.get("aud", ())
    bound = {kind: _ref(private[kind]) for kind in ("node", "pod", "secret") if kind in private}
    return Claims(
        private["namespace"],
        _ref(private["serviceaccount"]),
        bound,
        found.get("jti", ""),
        (audience,) if isinstance(audience, str) else tuple(audience),
    )


def write_lasting(namespace: str, account: Ref, secret: str) -> dict[str, Any]:
    """The claims of a token in a Secret."""
    return {
        "iss": LASTING_ISSUER,
        f"{_LASTING}namespace": namespace,
        f"{_LASTING}secret.name": secret,
        f"{_LASTING}service-account.name": account.name,
        f"{_LASTING}service-account.uid": account.uid,
        "sub": user_name(namespace, account.name),
    }


def _read_lasting(found: Mapping[str, Any]) -> Claims:
    account = Ref(found[f"{_LASTING}service-account.name"], found[f"{_LASTING}service-account.uid"])
    secret = found[f"{_LASTING}secret.name"]
    return Claims(found[f"{_LASTING}namespace"], account, {}, "", AUDIENCES, secret)


def identity(claims: Claims) -> Identity:
    extra = {}
    if claims.token_id:
        extra[_EXTRA + "credential-id"] = (f"JTI={claims.token_id}",)
    for kind in ("node", "pod"):
        if kind in claims.bound:
            extra[f"{_EXTRA}{kind}-name"] = (claims.bound[kind].name,)
            if claims.bound[kind].uid:
                extra[f"{_EXTRA}{kind}-uid"] = (claims.bound[kind].uid,)
    return Identity(
        user_name(claims.namespace, claims.account.name), groups(claims.namespace), claims.account.uid, extra
    )


def _ref(claim: Mapping[str, str]) -> Ref:
    return Ref(claim["name"], claim.get("uid", ""))
