"""How a node gets its certificate: by a token when it is new, by its old certificate when that nears its end.

Called by the node link's Join. On the join port callers have no identity and must show a token; on the main port a node
renews for itself, and for nobody else.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from controlplane.auth.ca import Authority
from controlplane.auth.certificates import NODE_LIFETIME_S, sign_node
from controlplane.auth.names import node_of
from controlplane.auth.tokens import verify_token
from controlplane.registry.base import Identity, RegistryAPI, RequestContext
from wherry.api.context import Env
from wherry.api.errors import AlreadyExists, BadRequest, Forbidden
from wherry.pb import nodelink_pb2

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
MAX_CSR_BYTES = 16 * 1024


class Joiner:
    """`alive(node)` tells whether a node of that name holds a control stream now."""

    def __init__(
        self,
        registry: RegistryAPI,
        env: Env,
        ca: Authority,
        cluster_id: str,
        alive: Callable[[str], bool],
        *,
        lifetime_s: float = NODE_LIFETIME_S,
    ) -> None:
        self._registry = registry
        self._env = env
        self._ca = ca
        self._cluster_id = cluster_id
        self._alive = alive
        self._lifetime_s = lifetime_s

    async def join(self, request: nodelink_pb2.JoinRequest, identity: Identity) -> nodelink_pb2.JoinResponse:
        """Raises Unauthorized (token), Forbidden (wrong subject), AlreadyExists (a living node has this name)."""
        name = request.node_name
        if not _SUBDOMAIN.fullmatch(name) or len(name) > 253:
            raise BadRequest(f'node_name: "{name[:64]}" is no node name; wanted a lower case DNS subdomain')
        if len(request.csr_pem) > MAX_CSR_BYTES:
            raise BadRequest(f"csr_pem: {len(request.csr_pem)} bytes; wanted at most {MAX_CSR_BYTES}")
        if request.token:
            await verify_token(self._registry, RequestContext(identity), self._env, request.token)
            if self._alive(name):
                raise AlreadyExists(
                    f'a node with name "{name}" is connected to the cluster; stop its agent or take another name',
                    kind="nodes",
                    name=name,
                )
        elif node_of(identity) != name:
            raise Forbidden(
                f'nodes "{name}" is forbidden: User "{identity.user}" cannot get a certificate for it without a token',
                kind="nodes",
                name=name,
            )
        certificate = sign_node(self._ca, self._env, request.csr_pem, name, lifetime_s=self._lifetime_s)
        return nodelink_pb2.JoinResponse(
            certificate_pem=certificate, ca_pem=self._ca.certificate_pem, cluster_id=self._cluster_id
        )
