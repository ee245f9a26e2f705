"""Signs CertificateSigningRequests: a node's own renewal without asking, a user's once somebody has approved it.

A controller: it sees the cluster through a client. Run by `controlplane.server`, since only the server holds the CA's key.
Signers: kubernetes.io/kube-apiserver-client-kubelet (approved here when a node asks for itself) and
kubernetes.io/kube-apiserver-client (approved by people). Requests are deleted some time after they have been dealt with.
"""

from __future__ import annotations

import logging
from typing import Any

from controlplane.auth.ca import DAY_S, Authority
from controlplane.auth.certificates import (
    Lifetimes,
    load_csr,
    node_csr_problem,
    sign_client,
    sign_node,
)
from controlplane.auth.names import MASTERS_GROUP, node_of
from controlplane.registry.base import Identity
from wherry.api.context import Env
from wherry.api.errors import APIError, NotFound
from wherry.api.tasks import TaskGroup
from wherry.api.times import from_time, to_time
from wherry.client.base import ClientAPI
from wherry.client.controller import Controller
from wherry.client.informer import Informer, SharedInformers
from wherry.pb import certificates_v1_pb2

log = logging.getLogger(__name__)

NODE_SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client"
NODE_USAGES = frozenset({"digital signature", "key encipherment", "client auth"})
MIN_LIFETIME_S = 600.0
# As Kubernetes' csrcleaner: an hour after it was dealt with, a day when nobody did.
DONE_KEPT_S = 3600.0
PENDING_KEPT_S = 86_400.0

CSR = certificates_v1_pb2.CertificateSigningRequest


class Signer:
    def __init__(
        self,
        client: ClientAPI,
        env: Env,
        ca: Authority,
        informers: SharedInformers | None = None,
        *,
        lifetimes: Lifetimes | None = None,
    ) -> None:
        self._client = client
        self._env = env
        self._ca = ca
        self._lifetimes = lifetimes or Lifetimes()
        self._shared = informers
        self._informers = informers or SharedInformers(client, env)
        self._requests: Informer[CSR] = self._informers.informer(CSR)
        self._controller: Controller[str] = Controller("csrsigning", self._reconcile)
        self._requests.add_handler(self._changed)

    async def run(self) -> None:
        """Until cancelled."""
        async with TaskGroup() as group:
            if self._shared is None:
                group.keep(self._informers.run, name="csr-informers")
            await self._requests.wait_synced()
            group.keep(self._controller.run, name="csr-signer")

    def _changed(self, old: Any, new: Any) -> None:
        if new is not None:
            self._controller.enqueue(new.metadata.name)

    async def _reconcile(self, name: str) -> float | None:
        request = self._requests.get(name)
        if request is None:
            return None
        state = condition_types(request)
        remaining = self._remaining_s(
            request, done=bool(request.status.certificate or "Denied" in state or "Failed" in state)
        )
        if remaining <= 0:
            try:
                await self._client.delete(CSR, name)
            except NotFound:
                pass
            return None
        if request.status.certificate or "Denied" in state or "Failed" in state:
            return remaining
        if request.spec.signer_name == NODE_SIGNER and "Approved" not in state:
            if not self_renewal_problem(request):
                await self._approve(request)
            return remaining  # the approval comes back through the informer
        if "Approved" in state and request.spec.signer_name in (NODE_SIGNER, CLIENT_SIGNER):
            await self._sign(request)
        return remaining

    def _remaining_s(self, request: CSR, *, done: bool) -> float:
        kept_s = DONE_KEPT_S if done else PENDING_KEPT_S
        return from_time(request.metadata.creation_timestamp) + kept_s - self._env.now()

    async def _approve(self, request: CSR) -> None:
        wanted = _copy(request)
        self._condition(
            wanted, "Approved", "AutoApproved", "Auto approving self kubelet client certificate of a node for itself."
        )
        await self._client.update(wanted, subresource="approval")

    async def _sign(self, request: CSR) -> None:
        wanted = _copy(request)
        try:
            wanted.status.certificate = self._certificate(request)
        except APIError as error:
            log.warning("certificate signing request %s: %s", request.metadata.name, error)
            self._condition(wanted, "Failed", "SignerValidationFailure", error.message)
        await self._client.update_status(wanted)

    def _certificate(self, request: CSR) -> bytes:
        """Raises an APIError when the request can't be signed at all."""
        asked_s = float(request.spec.expiration_seconds)
        if request.spec.signer_name == NODE_SIGNER:
            lifetime_s = min(max(asked_s or self._lifetimes.node_s, MIN_LIFETIME_S), self._lifetimes.node_s)
            identity = Identity(request.spec.username, tuple(request.spec.groups))
            return sign_node(self._ca, self._env, request.spec.request, node_of(identity), lifetime_s=lifetime_s)
        lifetime_s = min(max(asked_s or 30 * DAY_S, MIN_LIFETIME_S), self._lifetimes.user_s)
        return sign_client(
            self._ca, self._env, request.spec.request, refused_groups=(MASTERS_GROUP,), lifetime_s=lifetime_s
        )

    def _condition(self, request: CSR, kind: str, reason: str, message: str) -> None:
        now = to_time(self._env.now())
        condition = request.status.conditions.add(type=kind, status="True", reason=reason, message=message)
        condition.last_update_time.CopyFrom(now)
        condition.last_transition_time.CopyFrom(now)


def condition_types(request: CSR) -> set[str]:
    return {condition.type for condition in request.status.conditions}


def self_renewal_problem(request: CSR) -> str:
    """Why this is not a node asking for its own client certificate; empty when it is."""
    identity = Identity(request.spec.username, tuple(request.spec.groups))
    node = node_of(identity)
    if not node:
        return f'user "{identity.user}" is no node'
    usages = set(request.spec.usages)
    if not usages <= NODE_USAGES or "client auth" not in usages:
        return f"usages {sorted(usages)}; wanted client auth, digital signature and at most key encipherment"
    try:
        return node_csr_problem(load_csr(request.spec.request), node)
    except APIError as error:
        return error.message


def _copy(request: CSR) -> CSR:
    copy = CSR()
    copy.CopyFrom(request)
    return copy
