"""Every pod runs as a service account of its namespace, `default` unless it names one, with that account's pull secrets.

Mirror pods (made by the node agent for static pods) have none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from controlplane.admission.base import Lookup, Request

DEFAULT = "default"
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
_TOKEN_SECONDS = 3607
_VOLUME = "kube-api-access-"


class ServiceAccount:
    """`token_volume`: also mount the account's token, the cluster's CA and the namespace (needs token requests). `suffix` gives
    the volume's name an end that a pod's own volumes do not have."""

    def __init__(self, suffix: Callable[[str], str], *, token_volume: bool) -> None:
        self._suffix = suffix
        self._token_volume = token_volume

    async def mutate(self, request: Request, lookup: Lookup) -> None:
        if request.kind.kind != "Pod" or request.operation != "CREATE" or request.subresource:
            return
        pod: Any = request.obj
        if MIRROR_ANNOTATION in pod.metadata.annotations:
            if pod.spec.service_account_name:
                raise request.forbid("a mirror pod may not reference service accounts")
            return
        named = pod.spec.service_account_name
        name = named or DEFAULT
        account = await lookup.find("v1", "ServiceAccount", request.namespace, name)
        if account is None and named and named != DEFAULT:
            raise request.forbid(
                f'error looking up service account {request.namespace}/{name}: serviceaccount "{name}" not found'
            )
        # `default` is made by a controller a moment after its namespace; a pod need not wait for it.
        pod.spec.service_account_name = name
        pod.spec.service_account = name
        if account is not None and not pod.spec.image_pull_secrets:
            pod.spec.image_pull_secrets.extend(account.image_pull_secrets)
        if self._token_volume and _automount(pod, account):
            _mount(pod, self._suffix)

    async def validate(self, request: Request, lookup: Lookup) -> None:
        return


def _automount(pod: Any, account: Any | None) -> bool:
    if pod.spec.HasField("automount_service_account_token"):
        return bool(pod.spec.automount_service_account_token)
    if account is not None and account.HasField("automount_service_account_token"):
        return bool(account.automount_service_account_token)
    return True


def _mount(pod: Any, suffix: Callable[[str], str]) -> None:
    present = next((volume.name for volume in pod.spec.volumes if volume.name.startswith(_VOLUME)), "")
    name = present or suffix(_VOLUME)
    used = False
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        if all(mount.mount_path != TOKEN_PATH for mount in container.volume_mounts):
            container.volume_mounts.add(name=name, read_only=True, mount_path=TOKEN_PATH)
            used = True
    if present or not used:
        return
    volume = pod.spec.volumes.add(name=name)
    projected = volume.volume_source.projected
    projected.default_mode = 0o644
    token = projected.sources.add().service_account_token
    token.expiration_seconds, token.path = _TOKEN_SECONDS, "token"
    ca = projected.sources.add().config_map
    ca.local_object_reference.name = "kube-root-ca.crt"
    ca.items.add(key="ca.crt", path="ca.crt")
    item = projected.sources.add().downward_api.items.add(path="namespace")
    item.field_ref.api_version, item.field_ref.field_path = "v1", "metadata.namespace"
