"""The shell around the plan of `default` and `kube-root-ca.crt`. Started by `controlplane.controllers.manager`."""

from __future__ import annotations

from typing import Any

from controlplane.controllers import shell
from controlplane.controllers.serviceaccount import plan as planning
from controlplane.controllers.shell import Kit
from wherry.api.errors import AlreadyExists, APIError
from wherry.client.base import Selection
from wherry.client.controller import Controller
from wherry.pb import core_v1_pb2


class ServiceAccountController:
    def __init__(self, kit: Kit, ca_pem: bytes, *, workers: int = 2) -> None:
        self._client = kit.client
        self._ca_pem = ca_pem.decode()
        self._namespaces = kit.informers.informer(core_v1_pb2.Namespace)
        self._accounts = kit.informers.informer(
            core_v1_pb2.ServiceAccount, selection=Selection(field_selector=f"metadata.name={planning.ACCOUNT}")
        )
        self._bundles = kit.informers.informer(
            core_v1_pb2.ConfigMap, selection=Selection(field_selector=f"metadata.name={planning.ROOT_CA}")
        )
        self._runner: Controller[str] = Controller("serviceaccount", self.reconcile, workers=workers)
        self._namespaces.add_handler(self._on_namespace)
        self._accounts.add_handler(self._on_content)
        self._bundles.add_handler(self._on_content)

    async def run(self) -> None:
        await self._runner.run()

    def _on_namespace(self, old: Any, new: Any) -> None:
        if new is not None:
            self._runner.enqueue(new.metadata.name)

    def _on_content(self, old: Any, new: Any) -> None:
        self._runner.enqueue((new if new is not None else old).metadata.namespace)

    async def reconcile(self, name: str) -> float | None:
        namespace = self._namespaces.get(name)
        if namespace is None:
            return None
        account = self._accounts.get(planning.ACCOUNT, name)
        bundle = self._bundles.get(planning.ROOT_CA, name)
        decided = planning.plan(namespace, account, bundle, self._ca_pem)
        for made in (decided.create_account, decided.create_bundle):
            if made is not None:
                await self._create(made)
        if decided.update_bundle is not None:
            await self._client.update(decided.update_bundle)
        return None

    async def _create(self, made: core_v1_pb2.ServiceAccount | core_v1_pb2.ConfigMap) -> None:
        try:
            if isinstance(made, core_v1_pb2.ServiceAccount):
                await self._client.create(made)
            else:
                await self._client.create(made)
        except AlreadyExists:
            pass
        except APIError as error:
            if not shell.is_namespace_terminating(error):
                raise
