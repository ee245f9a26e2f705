"""Namespaces: nothing is made in one that is missing or going, and some never go."""

from __future__ import annotations

from controlplane.admission.base import Lookup, Request
from wherry.api.errors import Cause, NotFound

IMMORTAL = ("default", "kube-system", "kube-public")


class NamespaceLifecycle:
    async def mutate(self, request: Request, lookup: Lookup) -> None:
        if request.operation != "CREATE" or not request.kind.namespaced:
            return
        namespace = await lookup.find("v1", "Namespace", "", request.namespace)
        if namespace is None:
            message = f'namespaces "{request.namespace}" not found'
            raise NotFound(message, kind="namespaces", name=request.namespace)
        if namespace.status.phase == "Terminating" or namespace.metadata.HasField("deletion_timestamp"):
            # Without this the namespace controller would never see the namespace empty.
            cause = Cause(
                "NamespaceTerminating", f"namespace {request.namespace} is being terminated", "metadata.namespace"
            )
            raise request.forbid(
                f"unable to create new content in namespace {request.namespace} because it is being terminated",
                causes=(cause,),
            )

    async def validate(self, request: Request, lookup: Lookup) -> None:
        if request.operation == "DELETE" and request.kind.kind == "Namespace" and request.name in IMMORTAL:
            raise request.forbid("this namespace may not be deleted")
