"""What a namespace lacks. Pure; called by `controller`."""

from __future__ import annotations

from dataclasses import dataclass

from wherry.api import meta
from wherry.pb import core_v1_pb2, meta_v1_pb2

ACCOUNT = "default"
ROOT_CA = "kube-root-ca.crt"
_KEY = "ca.crt"
_ABOUT = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal "
    "service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)


@dataclass(frozen=True, slots=True)
class Plan:
    create_account: core_v1_pb2.ServiceAccount | None = None
    create_bundle: core_v1_pb2.ConfigMap | None = None
    update_bundle: core_v1_pb2.ConfigMap | None = None


def plan(
    namespace: core_v1_pb2.Namespace,
    account: core_v1_pb2.ServiceAccount | None,
    bundle: core_v1_pb2.ConfigMap | None,
    ca_pem: str,
) -> Plan:
    if meta.is_deleting(namespace) or namespace.status.phase == "Terminating":
        return Plan()
    name = namespace.metadata.name
    create_account = create_bundle = update_bundle = None
    if account is None:
        create_account = core_v1_pb2.ServiceAccount(metadata=meta_v1_pb2.ObjectMeta(name=ACCOUNT, namespace=name))
    if bundle is None:
        create_bundle = core_v1_pb2.ConfigMap(
            metadata=meta_v1_pb2.ObjectMeta(
                name=ROOT_CA, namespace=name, annotations={"kubernetes.io/description": _ABOUT}
            ),
            data={_KEY: ca_pem},
        )
    elif dict(bundle.data) != {_KEY: ca_pem}:
        update_bundle = core_v1_pb2.ConfigMap()
        update_bundle.CopyFrom(bundle)
        update_bundle.data.clear()
        update_bundle.data[_KEY] = ca_pem
    return Plan(create_account, create_bundle, update_bundle)
