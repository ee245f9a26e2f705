"""Every pod runs as a service account of its namespace, `default` unless it names one, with that account's pull secrets.

Mirror pods (made by the node agent for static pods) have none.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

from controlplane.admission.base import Lookup, Request
from wherry.pb import core_v1_pb2

DEFAULT = "default"
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
_TOKEN_SECONDS = 3607
_VOLUME = "kube-api-access-"
_SUFFIX_CHARS = "bcdfghjklmnpqrstvwxz2456789"  # those of generated names
_SUFFIX_LENGTH = 5


class ServiceAccount:
    """`token_volume`: also mount the account's token, the cluster's CA and the namespace (needs token requests)."""

    def __init__(self, *, token_volume: bool) -> None:
        self._token_volume = token_volume

    async def mutate(self, request: Request, lookup: Lookup) -> None:
        if request.kind.kind != "Pod" or request.operation != "CREATE" or request.subresource:
            return
        pod: Any = request.obj
        if MIRROR_ANNOTATION in pod.metadata.annotations:
            if pod.spec.service_account_name:
                raise request.forbid("a mirror pod may not reference service accounts")
            return
        name = pod.spec.service_account_name or DEFAULT
        account = await lookup.find("v1", "ServiceAccount", request.namespace, name)
        if account is None:
            raise request.forbid(
                f'error looking up service account {request.namespace}/{name}: serviceaccount "{name}" not found'
            )
        pod.spec.service_account_name = name
        pod.spec.service_account = name
        if not pod.spec.image_pull_secrets:
            pod.spec.image_pull_secrets.extend(account.image_pull_secrets)
        if self._token_volume and _automount(pod, account):
            _mount(pod.spec, request.namespace, name)

    async def validate(self, request: Request, lookup: Lookup) -> None:
        return


def _automount(pod: Any, account: Any) -> bool:
    if pod.spec.HasField("automount_service_account_token"):
        return bool(pod.spec.automount_service_account_token)
    if account.HasField("automount_service_account_token"):
        return bool(account.automount_service_account_token)
    return True


def _mount(spec: Any, namespace: str, account: str) -> None:
    present = next((volume.name for volume in spec.volumes if volume.name.startswith(_VOLUME)), "")
    name = present or _volume_name(namespace, account)
    used = False
    for container in (*spec.init_containers, *spec.containers):
        if all(mount.mount_path != TOKEN_PATH for mount in container.volume_mounts):
            container.volume_mounts.add(name=name, read_only=True, mount_path=TOKEN_PATH)
            used = True
    if used and not present:
        spec.volumes.append(_volume(name))


@lru_cache(maxsize=1024)
def _volume_name(namespace: str, account: str) -> str:
    """The same for all pods of an account, and not drawn anew for each as in Kubernetes: the pods of one template are then alike
    in their whole spec, so what is worked out of it can be kept (see `strategies.pods`, `wherry.api.texts`)."""
    number = int.from_bytes(hashlib.blake2b(f"{namespace}/{account}".encode(), digest_size=8).digest(), "big")
    letters = []
    for _ in range(_SUFFIX_LENGTH):
        number, index = divmod(number, len(_SUFFIX_CHARS))
        letters.append(_SUFFIX_CHARS[index])
    return _VOLUME + "".join(letters)


@lru_cache(maxsize=128)
def _volume(name: str) -> Any:
    """Not to be changed."""
    volume = core_v1_pb2.Volume(name=name)
    projected = volume.volume_source.projected
    projected.default_mode = 0o644
    token = projected.sources.add().service_account_token
    token.expiration_seconds, token.path = _TOKEN_SECONDS, "token"
    ca = projected.sources.add().config_map
    ca.local_object_reference.name = "kube-root-ca.crt"
    ca.items.add(key="ca.crt", path="ca.crt")
    item = projected.sources.add().downward_api.items.add(path="namespace")
    item.field_ref.api_version, item.field_ref.field_path = "v1", "metadata.namespace"
    return volume
