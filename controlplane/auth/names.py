"""The names that mean something to authentication and authorisation. Imported where cryptography must not be."""

from __future__ import annotations

from controlplane.registry.base import Identity

NODE_PREFIX = "system:node:"
NODES_GROUP = "system:nodes"
MASTERS_GROUP = "system:masters"
INGRESS_USER = "wherry:ingress"


def node_of(identity: Identity) -> str:
    """The name of the node that an identity stands for, or ""."""
    if NODES_GROUP in identity.groups and identity.user.startswith(NODE_PREFIX):
        return identity.user.removeprefix(NODE_PREFIX)
    return ""
