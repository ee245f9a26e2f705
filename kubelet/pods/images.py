"""Making sure that a container's image is there: the pull policies and imagePullSecrets. Called by `worker`."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any

from kubelet.pods import model as m
from kubelet.pods.services import PodServices
from kubelet.runtime.base import Image, RegistryAuth, RuntimeFailure
from wherry.api.errors import APIError
from wherry.pb import core_v1_pb2


async def ensure_image(services: PodServices, pod: core_v1_pb2.Pod, action: m.EnsureImage) -> Image:
    """Raises RuntimeFailure with the waiting reason that the container is to show."""
    reference, field_path = action.image, f"spec.{action.role.field}{{{action.container}}}"
    emit, runtime = services.events.emit, services.runtime
    present = None if action.policy == "Always" else await runtime.image_status(reference)
    if present is not None:
        message = f'Container image "{reference}" already present on machine'
        emit(pod, "Normal", "Pulled", message, field_path)
        return present
    if action.policy == "Never":
        message = f'Container image "{reference}" is not present with pull policy of Never'
        emit(pod, "Warning", "ErrImageNeverPull", message, field_path)
        raise RuntimeFailure(message, reason="ErrImageNeverPull")
    loop = services.env.now
    emit(pod, "Normal", "Pulling", f'Pulling image "{reference}"', field_path)
    began = loop()
    async with services.pulls:
        waited_s = loop() - began
        await _pull(services, pod, reference)
    image = await runtime.image_status(reference)
    if image is None:
        raise RuntimeFailure(f'image "{reference}" is gone right after it was pulled', reason="ErrImagePull")
    took_s = loop() - began
    emit(
        pod, "Normal", "Pulled",
        f'Successfully pulled image "{reference}" in {took_s - waited_s:.3g}s ({took_s:.3g}s including waiting). '
        f"Image size: {image.size_bytes} bytes.",
        field_path,
    )  # fmt: skip
    return image


async def _pull(services: PodServices, pod: core_v1_pb2.Pod, reference: str) -> None:
    """With each credential that fits in turn, then without."""
    failure: RuntimeFailure | None = None
    for auth in [*await _credentials(services, pod, reference), None]:
        try:
            await services.runtime.pull_image(reference, auth)
            return
        except RuntimeFailure as error:
            failure = failure or error
    assert failure is not None
    raise failure


async def _credentials(services: PodServices, pod: core_v1_pb2.Pod, reference: str) -> list[RegistryAuth]:
    found: list[RegistryAuth] = []
    for secret_ref in pod.spec.image_pull_secrets:
        try:
            secret = await services.objects.get(core_v1_pb2.Secret, pod.metadata.namespace, secret_ref.name)
        except APIError as error:
            message = (
                f"Unable to retrieve some image pull secrets ({secret_ref.name}); "
                f"attempting to pull the image may not succeed."
            )
            services.events.emit(pod, "Warning", "FailedToRetrieveImagePullSecret", f"{message} {error.message}")
            continue
        found += credentials_in(secret, reference)
    return found


def registry_of(reference: str) -> str:
    """`docker.io` when the reference names no host."""
    first, slash, _ = reference.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"


def credentials_in(secret: core_v1_pb2.Secret, reference: str) -> Iterator[RegistryAuth]:
    """Those of the reference's registry in a dockerconfigjson or dockercfg Secret; a malformed one holds none."""
    raw = secret.data.get(".dockerconfigjson") or secret.data.get(".dockercfg")
    try:
        document: Any = json.loads(raw) if raw else {}
    except ValueError:
        return
    entries = document.get("auths", document) if isinstance(document, dict) else {}
    if not isinstance(entries, dict):
        return
    wanted = registry_of(reference)
    for server, entry in sorted(entries.items()):
        host = server.removeprefix("https://").removeprefix("http://").partition("/")[0]
        if host == "index.docker.io":
            host = "docker.io"
        if host != wanted or not isinstance(entry, dict):
            continue
        username, password = str(entry.get("username", "")), str(entry.get("password", ""))
        if not username and entry.get("auth"):
            try:
                username, _, password = base64.b64decode(str(entry["auth"])).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                continue
        yield RegistryAuth(username=username, password=password, server=server)
