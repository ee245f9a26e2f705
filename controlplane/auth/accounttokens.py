"""Service account tokens: issues them for TokenRequests, and says whose one is as long as what it stands for exists.

Made by `controlplane.server`. The registry calls `issue` for the `token` subresource of service accounts, after admission (which
holds nodes to the pods that they run); `authentication` calls `verify`. `accountclaims` says what is in a token, `signing` how it
is signed. Reads accounts, pods, secrets and nodes through the registry and writes nothing: a token is not stored anywhere (how
long the longest one lasts is, by `keyring`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from controlplane.auth import accountclaims
from controlplane.auth.accountclaims import Claims, Ref
from controlplane.auth.signing import InvalidToken, Keys
from controlplane.registry import violations
from controlplane.registry.base import Identity, RegistryAPI, RequestContext
from wherry.api import kinds
from wherry.api.context import Env
from wherry.api.errors import BadRequest, Conflict, NotFound
from wherry.api.times import to_time
from wherry.pb import core_v1_pb2

MAX_CACHED = 1024
_GROUP = "authentication.k8s.io"
_INVALIDATED = "service account token has been invalidated"
_READER = Identity("system:apiserver", ("system:masters", "system:authenticated"))


class AccountTokens:
    """Invariant: at most MAX_CACHED tokens whose signature was found good, the least recently used goes first; whether one still
    holds is asked every time."""

    def __init__(self, registry: RegistryAPI, env: Env, keys: Keys) -> None:
        self._registry = registry
        self._env = env
        self._keys = keys
        # Told of the lifetime of each token, and of the time as of which it is signed, before it is.
        self.remember: Callable[[int, float], Awaitable[None]] | None = None
        self._signed: OrderedDict[str, Mapping[str, Any]] = OrderedDict()

    def sign(self, claims: Mapping[str, Any]) -> str:
        return self._keys.sign(claims, self._env.now())

    def take(self, keys: Keys) -> None:
        """Other keys from now on."""
        self._keys = keys
        self._signed.clear()

    def public_keys(self) -> dict[str, Any]:
        return self._keys.public()

    # issuing

    async def issue(self, ctx: RequestContext, namespace: str, name: str, request: Any) -> Any:
        """The request with its status. Raises NotFound, Invalid, BadRequest, Conflict, ServiceUnavailable."""
        out = type(request)()
        out.CopyFrom(request)
        _check_names(out.metadata, namespace, name)
        account = await self._find("ServiceAccount", namespace, name)
        spec = out.spec
        if not spec.HasField("expiration_seconds"):
            spec.expiration_seconds = 3600
        if not spec.audiences:
            spec.audiences.extend(accountclaims.AUDIENCES)
        now = int(self._env.now())
        metadata = out.metadata
        metadata.name, metadata.namespace, metadata.uid = name, namespace, account.metadata.uid
        metadata.creation_timestamp.CopyFrom(to_time(now))
        causes = accountclaims.problems(spec)
        if causes:
            raise violations.invalid_object(_GROUP, "TokenRequest", "", causes)
        bound = await self._bound(namespace, name, spec.bound_object_ref) if spec.HasField("bound_object_ref") else {}
        lifetime_s = int(spec.expiration_seconds)
        claims = accountclaims.write(
            namespace, _ref(account), bound, list(spec.audiences), lifetime_s, now, self._env.uuid()
        )
        out.ClearField("status")
        signed_at = self._env.now()
        if self.remember is not None:
            await self.remember(lifetime_s, signed_at)
        out.status.token = self._keys.sign(claims, signed_at)
        out.status.expiration_timestamp.CopyFrom(to_time(now + lifetime_s))
        return out

    async def _bound(self, namespace: str, account: str, ref: Any) -> dict[str, Ref]:
        """The objects of the claims: the one that is named, and the node of a pod."""
        group, _, version = ref.api_version.rpartition("/")
        if group or ref.kind not in ("Pod", "Secret", "Node"):
            raise BadRequest(f"cannot bind token to object of type {group}/{version}, Kind={ref.kind}")
        found = await self._find(ref.kind, "" if ref.kind == "Node" else namespace, ref.name)
        if ref.kind == "Pod" and found.spec.service_account_name != account:
            raise BadRequest(
                f"cannot bind token for serviceaccount {violations.quote(account)} to pod running with different "
                "serviceaccount name."
            )
        if ref.uid and ref.uid != found.metadata.uid:
            raise Conflict(
                f'Operation cannot be fulfilled on {ref.kind} "{ref.name}": the UID in the bound object reference '
                f"({ref.uid}) does not match the UID in record. The object might have been deleted and then recreated",
                kind=ref.kind,
                name=ref.name,
            )
        bound = {ref.kind.lower(): _ref(found)}
        if ref.kind == "Pod" and found.spec.node_name:
            bound["node"] = await self._node_of(found)
        return bound

    async def _node_of(self, pod: core_v1_pb2.Pod) -> Ref:
        try:
            return _ref(await self._find("Node", "", pod.spec.node_name))
        except NotFound:
            return Ref(pod.spec.node_name, "")

    # verifying

    async def verify(self, token: str, audiences: Sequence[str] = ()) -> tuple[Identity, tuple[str, ...]]:
        """Whose token it is, and for which of the audiences it is good (asked about none: those of the API). Raises
        InvalidToken, and ServiceUnavailable when it cannot be told."""
        found = self._signed.get(token)
        if found is None:
            found = self._signed[token] = self._keys.verify(token)
            if len(self._signed) > MAX_CACHED:
                self._signed.popitem(last=False)
        else:
            self._signed.move_to_end(token)
        claims = accountclaims.read(found, self._env.now())
        wanted = audiences or accountclaims.AUDIENCES
        good = tuple(audience for audience in wanted if audience in claims.audiences)
        if not good:
            shown = f"token audiences {_go(claims.audiences)} is invalid for the target audiences {_go(wanted)}"
            raise InvalidToken(shown)
        await self._check_alive(claims)
        if claims.secret:
            await self._check_kept(claims, token)
        return accountclaims.identity(claims), good

    async def _check_alive(self, claims: Claims) -> None:
        name = claims.account.name
        try:
            account = await self._find("ServiceAccount", claims.namespace, name)
        except NotFound as error:
            raise InvalidToken(error.message) from error
        if account.metadata.uid != claims.account.uid:
            raise InvalidToken(
                f"service account UID ({account.metadata.uid}) does not match claim ({claims.account.uid})"
            )
        if self._is_gone(account):
            raise InvalidToken(f"service account {claims.namespace}/{name} has been deleted")
        for kind, ref in claims.bound.items():
            if kind != "node" or "pod" not in claims.bound:  # the node of a pod is told, not asked
                await self._check_bound(claims.namespace, kind, ref)

    async def _check_bound(self, namespace: str, kind: str, ref: Ref) -> None:
        try:
            found = await self._find(kind.capitalize(), "" if kind == "node" else namespace, ref.name)
        except NotFound as error:
            raise InvalidToken(_INVALIDATED) from error
        if found.metadata.uid != ref.uid:
            raise InvalidToken(
                f"{kind} UID ({found.metadata.uid}) does not match service account {kind} ref claim ({ref.uid})"
            )
        if self._is_gone(found):
            raise InvalidToken(_INVALIDATED)

    async def _check_kept(self, claims: Claims, token: str) -> None:
        try:
            secret = await self._find("Secret", claims.namespace, claims.secret)
        except NotFound as error:
            raise InvalidToken(_INVALIDATED) from error
        if self._is_gone(secret) or secret.data.get(accountclaims.TOKEN_KEY, b"") != token.encode():
            raise InvalidToken(_INVALIDATED)

    def _is_gone(self, obj: Any) -> bool:
        if not obj.metadata.HasField("deletion_timestamp"):
            return False
        return bool(obj.metadata.deletion_timestamp.seconds < self._env.now() - accountclaims.DELETED_LEEWAY_S)

    async def _find(self, kind: str, namespace: str, name: str) -> Any:
        ctx = RequestContext(_READER, cause="authenticate")
        return (await self._registry.get(ctx, kinds.by_name("v1", kind), namespace, name)).message()


def _ref(obj: Any) -> Ref:
    return Ref(obj.metadata.name, obj.metadata.uid)


def _check_names(metadata: Any, namespace: str, name: str) -> None:
    """A request need not say for which account it is; if it does, it says the same as its path."""
    for field, given, wanted in (("name", metadata.name, name), ("namespace", metadata.namespace, namespace)):
        if given and given != wanted:
            detail = f"must match the service account {field} if specified"
            cause = violations.invalid(f"metadata.{field}", given, detail)
            raise violations.invalid_object(_GROUP, "TokenRequest", name, [cause])


def _go(values: Sequence[str]) -> str:
    """A list of texts as Go prints one with %q."""
    return "[" + " ".join(violations.quote(value) for value in values) + "]"
