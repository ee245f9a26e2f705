"""Builders of objects for tests: `make_pod("p").cpu("500m").memory("1Gi").on("n1").build()`, `make_node("n1").cpu(4).build()`.

Each method changes the builder and returns it, so that a row of a test table stays on one line; `build()` hands out a copy,
so a builder can be kept and varied. What is built is what the registry would hand out: `uid` and `creationTimestamp` are
set. Used by the tests of the scheduler, the controllers and the agent; nothing in production imports it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

from wherry.pb import core_v1_pb2, meta_resource_pb2, meta_v1_pb2

CREATED_S = 1_893_456_000  # 2030-01-01T00:00:00Z, where the virtual clock starts too


def _quantity(amount: str | int) -> meta_resource_pb2.Quantity:
    return meta_resource_pb2.Quantity(string=str(amount))


def _expression(key: str, operator: str, values: Iterable[str]) -> core_v1_pb2.NodeSelectorRequirement:
    return core_v1_pb2.NodeSelectorRequirement(key=key, operator=operator, values=list(values))


class PodBuilder:
    """One container `c` from the start; `cpu`, `memory`, `request`, `limit` and `host_port` speak of the latest container."""

    def __init__(self, name: str, namespace: str = "default") -> None:
        self._pod = core_v1_pb2.Pod(
            metadata=meta_v1_pb2.ObjectMeta(
                name=name,
                namespace=namespace,
                uid=f"uid-{namespace}-{name}",
                creation_timestamp=meta_v1_pb2.Time(seconds=CREATED_S),
                generation=1,
            ),
            spec=core_v1_pb2.PodSpec(scheduler_name="default-scheduler", restart_policy="Always"),
            status=core_v1_pb2.PodStatus(phase="Pending"),
        )
        self._container = self._pod.spec.containers.add(name="c", image="example.com/app:1")

    def build(self) -> core_v1_pb2.Pod:
        pod = core_v1_pb2.Pod()
        pod.CopyFrom(self._pod)
        return pod

    # -- metadata

    def uid(self, uid: str) -> Self:
        self._pod.metadata.uid = uid
        return self

    def version(self, resource_version: str | int) -> Self:
        self._pod.metadata.resource_version = str(resource_version)
        return self

    def labels(self, labels: Mapping[str, str] | None = None, /, **more: str) -> Self:
        self._pod.metadata.labels.update({**(labels or {}), **more})
        return self

    def annotations(self, annotations: Mapping[str, str]) -> Self:
        self._pod.metadata.annotations.update(annotations)
        return self

    def created(self, unix_s: int) -> Self:
        self._pod.metadata.creation_timestamp.seconds = unix_s
        return self

    def deleting(self, unix_s: int = CREATED_S, grace_s: int = 30) -> Self:
        self._pod.metadata.deletion_timestamp.seconds = unix_s
        self._pod.metadata.deletion_grace_period_seconds = grace_s
        return self

    def finalizer(self, name: str) -> Self:
        self._pod.metadata.finalizers.append(name)
        return self

    def owner(self, kind: str, name: str, uid: str, *, api_version: str = "apps/v1", controller: bool = True) -> Self:
        self._pod.metadata.owner_references.add(
            api_version=api_version, kind=kind, name=name, uid=uid, controller=controller, block_owner_deletion=True
        )
        return self

    # -- containers

    def container(self, name: str, *, image: str = "example.com/app:1", command: Iterable[str] = ()) -> Self:
        self._container = self._pod.spec.containers.add(name=name, image=image, command=list(command))
        return self

    def no_containers(self) -> Self:
        """For a spec that names all of its containers itself."""
        del self._pod.spec.containers[:]
        return self

    def init_container(self, name: str, *, image: str = "example.com/app:1") -> Self:
        self._container = self._pod.spec.init_containers.add(name=name, image=image)
        return self

    def sidecar(self, name: str, *, image: str = "example.com/app:1") -> Self:
        """An init container that keeps running."""
        self._container = self._pod.spec.init_containers.add(name=name, image=image, restart_policy="Always")
        return self

    def image(self, image: str) -> Self:
        self._container.image = image
        return self

    def cpu(self, amount: str | int) -> Self:
        return self.request("cpu", amount)

    def memory(self, amount: str | int) -> Self:
        return self.request("memory", amount)

    def request(self, resource: str, amount: str | int) -> Self:
        self._container.resources.requests[resource].CopyFrom(_quantity(amount))
        return self

    def limit(self, resource: str, amount: str | int) -> Self:
        self._container.resources.limits[resource].CopyFrom(_quantity(amount))
        return self

    def overhead(self, resource: str, amount: str | int) -> Self:
        self._pod.spec.overhead[resource].CopyFrom(_quantity(amount))
        return self

    def port(self, container_port: int, *, name: str = "", protocol: str = "TCP") -> Self:
        self._container.ports.add(name=name, container_port=container_port, protocol=protocol)
        return self

    def host_port(self, port: int, *, protocol: str = "TCP", ip: str = "") -> Self:
        self._container.ports.add(container_port=port, host_port=port, protocol=protocol, host_ip=ip)
        return self

    # -- where it may and where it does run

    def on(self, node: str) -> Self:
        self._pod.spec.node_name = node
        return self

    def scheduler(self, name: str) -> Self:
        self._pod.spec.scheduler_name = name
        return self

    def priority(self, priority: int, *, preemption_policy: str = "PreemptLowerPriority") -> Self:
        self._pod.spec.priority = priority
        self._pod.spec.preemption_policy = preemption_policy
        return self

    def gate(self, name: str) -> Self:
        self._pod.spec.scheduling_gates.add(name=name)
        return self

    def node_selector(self, labels: Mapping[str, str] | None = None, /, **more: str) -> Self:
        self._pod.spec.node_selector.update({**(labels or {}), **more})
        return self

    def tolerate(
        self, key: str = "", value: str = "", *, operator: str = "", effect: str = "", seconds: int | None = None
    ) -> Self:
        """Without a value: Exists."""
        toleration = self._pod.spec.tolerations.add(
            key=key, value=value, operator=operator or ("Equal" if value else "Exists"), effect=effect
        )
        if seconds is not None:
            toleration.toleration_seconds = seconds
        return self

    def require(self, key: str, operator: str, *values: str, new_term: bool = True) -> Self:
        """Required node affinity. Terms are alternatives; `new_term=False` adds to the latest one instead."""
        terms = self._pod.spec.affinity.node_affinity.required_during_scheduling_ignored_during_execution
        term = (
            terms.node_selector_terms.add()
            if new_term or not terms.node_selector_terms
            else terms.node_selector_terms[-1]
        )
        term.match_expressions.append(_expression(key, operator, values))
        return self

    def require_field(self, key: str, operator: str, *values: str, new_term: bool = True) -> Self:
        terms = self._pod.spec.affinity.node_affinity.required_during_scheduling_ignored_during_execution
        term = (
            terms.node_selector_terms.add()
            if new_term or not terms.node_selector_terms
            else terms.node_selector_terms[-1]
        )
        term.match_fields.append(_expression(key, operator, values))
        return self

    def prefer(self, weight: int, key: str, operator: str, *values: str) -> Self:
        """Preferred node affinity."""
        terms = self._pod.spec.affinity.node_affinity.preferred_during_scheduling_ignored_during_execution
        terms.add(weight=weight).preference.match_expressions.append(_expression(key, operator, values))
        return self

    # -- status

    def phase(self, phase: str) -> Self:
        self._pod.status.phase = phase
        return self

    def condition(
        self, kind: str, status: str, *, reason: str = "", message: str = "", since_s: int = CREATED_S
    ) -> Self:
        for condition in self._pod.status.conditions:
            if condition.type == kind:
                break
        else:
            condition = self._pod.status.conditions.add(type=kind)
        condition.status, condition.reason, condition.message = status, reason, message
        condition.last_transition_time.seconds = since_s
        return self

    def ready(self, since_s: int = CREATED_S) -> Self:
        """Running, all of its containers ready since then."""
        self.phase("Running")
        for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready"):
            self.condition(kind, "True", since_s=since_s)
        del self._pod.status.container_statuses[:]
        for container in self._pod.spec.containers:
            status = self._pod.status.container_statuses.add(
                name=container.name, image=container.image, ready=True, started=True
            )
            status.state.running.started_at.seconds = since_s
        return self

    def ip(self, address: str) -> Self:
        self._pod.status.pod_ip = address
        del self._pod.status.pod_ips[:]
        self._pod.status.pod_ips.add(ip=address)
        return self


class NodeBuilder:
    """Ready, with 4 CPUs, 8 GiB, 100 GiB of ephemeral storage and 110 pods unless said otherwise."""

    def __init__(self, name: str) -> None:
        self._node = core_v1_pb2.Node(
            metadata=meta_v1_pb2.ObjectMeta(
                name=name, uid=f"uid-{name}", creation_timestamp=meta_v1_pb2.Time(seconds=CREATED_S)
            ),
        )
        self._node.metadata.labels["kubernetes.io/hostname"] = name
        for resource, amount in (("cpu", "4"), ("memory", "8Gi"), ("ephemeral-storage", "100Gi"), ("pods", "110")):
            self.capacity(resource, amount)
        self.condition("Ready", "True", reason="KubeletReady")

    def build(self) -> core_v1_pb2.Node:
        node = core_v1_pb2.Node()
        node.CopyFrom(self._node)
        return node

    def uid(self, uid: str) -> Self:
        self._node.metadata.uid = uid
        return self

    def version(self, resource_version: str | int) -> Self:
        self._node.metadata.resource_version = str(resource_version)
        return self

    def cpu(self, amount: str | int) -> Self:
        return self.capacity("cpu", amount)

    def memory(self, amount: str | int) -> Self:
        return self.capacity("memory", amount)

    def pods(self, amount: int) -> Self:
        return self.capacity("pods", amount)

    def capacity(self, resource: str, amount: str | int) -> Self:
        """Capacity and allocatable; "" removes the resource."""
        for amounts in (self._node.status.capacity, self._node.status.allocatable):
            if amount == "":
                amounts.pop(resource, None)
            else:
                amounts[resource].CopyFrom(_quantity(amount))
        return self

    def labels(self, labels: Mapping[str, str] | None = None, /, **more: str) -> Self:
        self._node.metadata.labels.update({**(labels or {}), **more})
        return self

    def annotations(self, annotations: Mapping[str, str]) -> Self:
        self._node.metadata.annotations.update(annotations)
        return self

    def taint(self, key: str, value: str = "", effect: str = "NoSchedule", *, added_s: int | None = None) -> Self:
        taint = self._node.spec.taints.add(key=key, value=value, effect=effect)
        if added_s is not None:
            taint.time_added.seconds = added_s
        return self

    def unschedulable(self) -> Self:
        """Cordoned; the taint that the node lifecycle controller adds is not here."""
        self._node.spec.unschedulable = True
        return self

    def not_ready(self, status: str = "False", *, since_s: int = CREATED_S) -> Self:
        return self.condition("Ready", status, reason="KubeletNotReady", since_s=since_s)

    def condition(
        self, kind: str, status: str, *, reason: str = "", message: str = "", since_s: int = CREATED_S
    ) -> Self:
        for condition in self._node.status.conditions:
            if condition.type == kind:
                break
        else:
            condition = self._node.status.conditions.add(type=kind)
        condition.status, condition.reason, condition.message = status, reason, message
        condition.last_transition_time.seconds = since_s
        condition.last_heartbeat_time.seconds = since_s
        return self


def make_pod(name: str, namespace: str = "default") -> PodBuilder:
    return PodBuilder(name, namespace)


def make_node(name: str) -> NodeBuilder:
    return NodeBuilder(name)
