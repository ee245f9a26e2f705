"""Making sure that a container's image is there: the pull policies and imagePullSecrets. Called by `worker`."""

from __future__ import annotations

import asyncio

from kubelet.pods import model as m
from kubelet.pods.credentials import credentials_in
from kubelet.pods.services import PodServices
from kubelet.runtime.base import Image, RegistryAuth, RuntimeFailure
from wherry.api.errors import APIError
from wherry.pb import core_v1_pb2

PROGRESS_S = 10.0


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
        telling = asyncio.create_task(_tell_progress(services, pod, reference, field_path), name="pull-progress")
        try:
            await _pull(services, pod, reference)
        finally:
            telling.cancel()
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


async def _tell_progress(services: PodServices, pod: core_v1_pb2.Pod, reference: str, field_path: str) -> None:
    """A large image over a thin line takes minutes: whoever watches sees that it moves."""
    while True:
        await asyncio.sleep(PROGRESS_S)
        try:
            fetched, expected = await services.runtime.pulling_bytes()
        except RuntimeFailure:
            continue  # the pull itself will tell
        if expected:
            message = f'Pulling image "{reference}": this node has {_mib(fetched)} of the {_mib(expected)} that it fetches now'
            services.events.emit(pod, "Normal", "Pulling", message, field_path)


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"


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
