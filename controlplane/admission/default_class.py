"""A claim without a storage class, and an Ingress without a class, get the cluster's default one, where there is one. Of several
the newest counts, as in Kubernetes."""

from __future__ import annotations

from typing import Any

from controlplane.admission.base import Lookup, Request

_STORAGE = "storageclass.kubernetes.io/is-default-class"
_STORAGE_OLD = "storageclass.beta.kubernetes.io/is-default-class"
_CLASS_OLD = "volume.beta.kubernetes.io/storage-class"
_INGRESS = "ingressclass.kubernetes.io/is-default-class"
_INGRESS_OLD = "kubernetes.io/ingress.class"


class DefaultStorageClass:
    async def mutate(self, request: Request, lookup: Lookup) -> None:
        if request.kind.kind != "PersistentVolumeClaim" or request.operation != "CREATE":
            return
        obj = request.obj
        if obj.spec.HasField("storage_class_name") or _CLASS_OLD in obj.metadata.annotations:
            return  # the empty name is a choice too: no class
        if await lookup.present("storage.k8s.io", "storageclasses"):
            name = _default(await lookup.all("storage.k8s.io/v1", "StorageClass"), (_STORAGE, _STORAGE_OLD))
            if name:
                obj.spec.storage_class_name = name

    async def validate(self, request: Request, lookup: Lookup) -> None:
        return


class DefaultIngressClass:
    async def mutate(self, request: Request, lookup: Lookup) -> None:
        if request.kind.kind != "Ingress" or request.operation != "CREATE":
            return
        obj = request.obj
        if obj.spec.HasField("ingress_class_name") or _INGRESS_OLD in obj.metadata.annotations:
            return
        if await lookup.present("networking.k8s.io", "ingressclasses"):
            name = _default(await lookup.all("networking.k8s.io/v1", "IngressClass"), (_INGRESS,))
            if name:
                obj.spec.ingress_class_name = name

    async def validate(self, request: Request, lookup: Lookup) -> None:
        return


def _default(classes: list[Any], marks: tuple[str, ...]) -> str:
    marked = [
        found.metadata for found in classes if any(found.metadata.annotations.get(mark) == "true" for mark in marks)
    ]
    marked.sort(key=lambda meta: (-meta.creation_timestamp.seconds, meta.name))
    return str(marked[0].name) if marked else ""
