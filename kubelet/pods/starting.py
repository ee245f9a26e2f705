"""Starts and kills the containers of one pod: creation, hooks, events, and what a failure leaves behind.

The part of `kubelet.pods.worker` that acts on containers; it decides nothing. Every effect is noted in the shared `PodState`.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace

from kubelet.pods import model as m
from kubelet.pods.config import container_config, find_container, target_of
from kubelet.pods.env import Found, environment, references
from kubelet.pods.hooks import POST_START_LIMIT_S, run_hook
from kubelet.pods.naming import names_of
from kubelet.pods.podstate import PodState
from kubelet.pods.resizing import copied, told, with_resources
from kubelet.pods.resources import container_resources, larger, memory_bytes, pod_resources
from kubelet.pods.services import ConfigError
from kubelet.pods.states import Role
from kubelet.runtime.base import ContainerState, ContainerStatus, Resources, RuntimeFailure
from wherry.api.errors import APIError, NotFound
from wherry.api.tasks import TaskGroup
from wherry.pb import core_v1_pb2

MINIMUM_STOP_S = 2.0  # what is left for the stop signal after a long preStop hook, as in the kubelet


class ContainerActions:
    """`hooks`: running postStart hooks by container id. `group` is the worker's, while it runs."""

    def __init__(self, state: PodState) -> None:
        self._state = state
        self.hooks: dict[str, asyncio.Task[None]] = {}
        self.group: TaskGroup | None = None

    async def create_and_start(self, action: m.StartContainer) -> None:
        state = self._state
        services, pod, memory = state.services, state.pod, state.memory
        found = find_container(pod, action.container)
        sandbox = self._state.sandboxes.get(action.sandbox_id)
        if found is None or sandbox is None:
            return
        container, role = found
        objects = await self._look_up(container)
        env = environment(
            pod, container, objects,
            ips=sandbox.ips or services.node.facts.ips, host_ips=services.node.facts.ips,
            allocatable=services.node.allocatable, services=services.service_env(pod),
        )  # fmt: skip
        mounts = services.volumes.mounts(pod, container, env)
        hosts = services.files.hosts_mount(pod, sandbox.ips, names_of(pod, services.node))
        if hosts is not None and all(mount.container_path != "/etc/hosts" for mount in mounts):
            mounts.append(hosts)
        async with services.starts.container():
            if self._state.stopping():
                return
            termination_file = services.files.termination_file(pod, container.name, action.attempt)
            target = target_of(pod, container.name, self._running_ids()) if role is Role.EPHEMERAL else ""
            config = container_config(
                pod, container, action, services.node, env=env, mounts=mounts, termination_file=termination_file,
                processes_of=target,
            )  # fmt: skip
            # What the sandbox was made with: the control plane, who knows the RuntimeClass, may be away.
            made_with = self._state.sandbox_config(sandbox.attempt, sandbox.annotations.get(m.RUNTIME_HANDLER, ""))
            created = await services.runtime.create_container(action.sandbox_id, config, made_with)
            self._state.containers[created] = ContainerStatus(
                id=created, sandbox_id=action.sandbox_id, name=container.name, attempt=action.attempt,
                state=ContainerState.CREATED, created_at=services.env.now(), started_at=0.0, finished_at=0.0,
                exit_code=0, reason="", message="", image=container.image, image_id="", log_path="",
                labels=config.labels, annotations=config.annotations,
            )  # fmt: skip
            memory.create_failures.pop(container.name, None)
            memory.applied[created] = copied(container.resources)
            memory.images.pop(container.image, None)
            self._state.emit("Normal", "Created", f"Container created: {container.name}", _path(role, container))
            await self.start(container, role, created)

    def _running_ids(self) -> dict[str, str]:
        """By container name."""
        found = self._state.containers.values()
        return {each.name: each.id for each in found if each.state is ContainerState.RUNNING}

    async def start(self, container: core_v1_pb2.Container, role: Role, container_id: str) -> None:
        """Failing to start counts as an exit: the runtime says so too, and the crash back-off applies."""
        runtime, memory = self._state.services.runtime, self._state.memory
        hook = container.lifecycle.HasField("post_start")
        if hook:
            memory.hooks_pending.add(container_id)
        try:
            await runtime.start_container(container_id)
        except RuntimeFailure as error:
            memory.hooks_pending.discard(container_id)
            now = self._state.services.env.now()
            memory.start_failures[container_id] = m.Failure(error.reason or "RunContainerError", error.message, now)
            self._state.emit("Warning", "Failed", f"Error: {error.message}", _path(role, container))
            await self._state.look_at(container_id)
            status = self._state.containers.get(container_id)
            if status is not None and status.state is ContainerState.CREATED:
                # It never ran and never will: a corpse with the kubelet's exit code, so that the back-off counts it.
                self._state.containers[container_id] = replace(
                    status, state=ContainerState.EXITED, exit_code=128, reason="StartError", message=error.message,
                    finished_at=now,
                )  # fmt: skip
            return
        await self._state.look_at(container_id)
        self._state.emit("Normal", "Started", f"Container started: {container.name}", _path(role, container))
        if hook and self.group is not None:
            self.hooks[container_id] = self.group.create_task(self._post_start(container, role, container_id))

    async def _post_start(self, container: core_v1_pb2.Container, role: Role, container_id: str) -> None:
        handler = container.lifecycle.post_start
        try:
            problem = await run_hook(
                self._state.services, container, container_id, handler, self._state.address(), POST_START_LIMIT_S
            )
            if problem:
                self._state.emit(
                    "Warning", "FailedPostStartHook", f"PostStartHook failed: {problem}", _path(role, container)
                )
                self._state.memory.hooks_failed.add(container_id)
        finally:
            self._state.memory.hooks_pending.discard(container_id)
            self.hooks.pop(container_id, None)
            self._state.wake.set()

    async def kill(self, action: m.KillContainer) -> None:
        services = self._state.services
        env = services.env
        found = find_container(self._state.pod, action.container)
        path = _path(found[1], found[0]) if found else ""
        if action.message == "FailedPostStartHook":
            self._state.emit("Normal", "Killing", "FailedPostStartHook", path)
        else:
            self._state.emit("Normal", "Killing", action.message, path)
        given_s = max(action.deadline - env.now(), 0.0)
        container, hook = self._pre_stop(action)
        if action.hook and given_s > 0 and hook is not None:
            problem = await run_hook(services, container, action.container_id, hook, self._state.address(), given_s)
            if problem:
                self._state.emit("Warning", "FailedPreStopHook", f"PreStopHook failed: {problem}", path)
        left_s = max(action.deadline - env.now(), min(MINIMUM_STOP_S, given_s))
        try:
            # From when it was made: it is gone from the spec of an orphan, and an adopted one keeps what it began with.
            status = self._state.containers.get(action.container_id)
            chosen = status.annotations.get(m.STOP_SIGNAL, "") if status is not None else ""
            await services.runtime.stop_container(action.container_id, left_s, chosen)
        finally:
            self._state.dirty[action.container_id] = None

    async def resize(self, action: m.ResizeContainers) -> None:
        """The pod's own cgroup gives room first and takes it last. Each container that has got what it is allocated is noted:
        after a failure, or killed in between, the next try goes on from there."""
        state = self._state
        services, pod, memory = state.services, state.pod, state.memory
        wanted = pod_resources(pod)
        applied = {
            status.name: memory.applied[status.id]
            for status in state.containers.values()
            if status.id in action.container_ids and status.id in memory.applied
        }
        services.cgroups.create(pod, larger(wanted, pod_resources(with_resources(pod, applied))))
        for container_id in action.container_ids:
            status = state.containers.get(container_id)
            found = find_container(pod, status.name) if status is not None else None
            if status is None or found is None or status.state is not ContainerState.RUNNING:
                continue
            container, _ = found
            given = container_resources(pod, container, services.node.memory_bytes)
            await self._check_usage(container_id, given, memory.applied.get(container_id))
            await services.runtime.update_resources(container_id, given)
            memory.applied[container_id] = copied(container.resources)
        services.cgroups.create(pod, wanted)
        memory.resize_failure = None
        state.emit("Normal", "ResizeCompleted", f"Pod resize completed: {told(pod)}")

    async def _check_usage(
        self, container_id: str, given: Resources, applied: core_v1_pb2.ResourceRequirements | None
    ) -> None:
        """A limit below what is used would be the death of the container. Raises RuntimeFailure."""
        limit = given.memory_limit_bytes
        if not limit or applied is None or limit >= memory_bytes(applied.limits) > 0:
            return
        for found in await self._state.services.runtime.stats():
            if found.container_id == container_id and found.memory_working_set_bytes >= limit:
                raise RuntimeFailure(
                    f"attempting to set container memory limit ({limit}) below current usage "
                    f"({found.memory_working_set_bytes})"
                )

    def _pre_stop(self, action: m.KillContainer) -> tuple[core_v1_pb2.Container, core_v1_pb2.LifecycleHandler | None]:
        """From the spec; of an orphan, whose spec is gone, from the container's annotations."""
        found = find_container(self._state.pod, action.container)
        if found is not None:
            lifecycle = found[0].lifecycle
            return found[0], lifecycle.pre_stop if lifecycle.HasField("pre_stop") else None
        status = self._state.containers.get(action.container_id)
        encoded = status.annotations.get(m.PRE_STOP, "") if status is not None else ""
        handler = core_v1_pb2.LifecycleHandler.FromString(base64.b64decode(encoded)) if encoded else None
        return core_v1_pb2.Container(name=action.container), handler

    async def _look_up(self, container: core_v1_pb2.Container) -> Found:
        found = Found()
        for kind, name in references(container):
            namespace = self._state.pod.metadata.namespace
            try:
                if kind == "ConfigMap":
                    found.config_maps[name] = await self._state.services.objects.get(
                        core_v1_pb2.ConfigMap, namespace, name
                    )
                else:
                    found.secrets[name] = await self._state.services.objects.get(core_v1_pb2.Secret, namespace, name)
            except NotFound:
                continue
            except APIError as error:
                raise ConfigError(f"cannot read {kind.lower()} {namespace}/{name}: {error.message}") from error
        return found


def _path(role: Role, container: core_v1_pb2.Container) -> str:
    return f"spec.{role.field}{{{container.name}}}"
