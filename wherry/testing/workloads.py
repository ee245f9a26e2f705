"""Builders of Deployments and ReplicaSets for tests, beside `wherry.testing.builders` (pods and nodes).

What is built is what the registry would hand out: defaults, uid and creationTimestamp are set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from wherry.api import intstr, meta
from wherry.pb import apps_v1_pb2, core_v1_pb2, meta_v1_pb2
from wherry.testing.builders import CREATED_S


def _template(image: str, app: str) -> core_v1_pb2.PodTemplateSpec:
    return core_v1_pb2.PodTemplateSpec(
        metadata=meta_v1_pb2.ObjectMeta(labels={"app": app}),
        spec=core_v1_pb2.PodSpec(containers=[core_v1_pb2.Container(name="c", image=image)]),
    )


class DeploymentBuilder:
    """RollingUpdate with 25% and 25%, ten revisions of history, a deadline of ten minutes: Kubernetes' defaults."""

    def __init__(self, name: str, replicas: int, namespace: str = "default") -> None:
        self._deployment = apps_v1_pb2.Deployment(
            metadata=meta_v1_pb2.ObjectMeta(
                name=name,
                namespace=namespace,
                uid=f"uid-{namespace}-{name}",
                generation=1,
                creation_timestamp=meta_v1_pb2.Time(seconds=CREATED_S),
            ),
            spec=apps_v1_pb2.DeploymentSpec(
                replicas=replicas,
                selector=meta_v1_pb2.LabelSelector(match_labels={"app": name}),
                template=_template("example.com/app:1", name),
                revision_history_limit=10,
                progress_deadline_seconds=600,
            ),
        )
        self.rolling("25%", "25%")

    def build(self) -> apps_v1_pb2.Deployment:
        built = apps_v1_pb2.Deployment()
        built.CopyFrom(self._deployment)
        return built

    def rolling(self, surge: int | str, unavailable: int | str) -> Self:
        strategy = self._deployment.spec.strategy
        strategy.type = "RollingUpdate"
        strategy.rolling_update.max_surge.CopyFrom(intstr.of(surge))
        strategy.rolling_update.max_unavailable.CopyFrom(intstr.of(unavailable))
        return self

    def recreate(self) -> Self:
        self._deployment.spec.strategy.Clear()
        self._deployment.spec.strategy.type = "Recreate"
        return self

    def image(self, image: str) -> Self:
        self._deployment.spec.template.spec.containers[0].image = image
        return self

    def paused(self) -> Self:
        self._deployment.spec.paused = True
        return self

    def history(self, limit: int) -> Self:
        self._deployment.spec.revision_history_limit = limit
        return self

    def deadline(self, seconds: int) -> Self:
        self._deployment.spec.progress_deadline_seconds = seconds
        return self

    def min_ready(self, seconds: int) -> Self:
        self._deployment.spec.min_ready_seconds = seconds
        return self

    def annotations(self, annotations: Mapping[str, str]) -> Self:
        self._deployment.metadata.annotations.update(annotations)
        return self

    def deleting(self) -> Self:
        self._deployment.metadata.deletion_timestamp.seconds = CREATED_S
        return self


class ReplicaSetBuilder:
    """One that no Deployment owns, unless `of` says so. Its status says that all of its pods are there and available."""

    def __init__(self, name: str, replicas: int, namespace: str = "default") -> None:
        self._rs = apps_v1_pb2.ReplicaSet(
            metadata=meta_v1_pb2.ObjectMeta(
                name=name,
                namespace=namespace,
                uid=f"uid-{namespace}-{name}",
                generation=1,
                creation_timestamp=meta_v1_pb2.Time(seconds=CREATED_S),
            ),
            spec=apps_v1_pb2.ReplicaSetSpec(
                replicas=replicas,
                selector=meta_v1_pb2.LabelSelector(match_labels={"app": name}),
                template=_template("example.com/app:1", name),
            ),
        )
        self.has(replicas)

    def build(self) -> apps_v1_pb2.ReplicaSet:
        built = apps_v1_pb2.ReplicaSet()
        built.CopyFrom(self._rs)
        return built

    def of(self, deployment: apps_v1_pb2.Deployment, image: str = "") -> Self:
        """Of the Deployment's template, with another image where one is given."""
        self._rs.metadata.owner_references.append(meta.owner_reference(deployment))
        self._rs.spec.template.CopyFrom(deployment.spec.template)
        if image:
            self._rs.spec.template.spec.containers[0].image = image
        self._rs.spec.template.metadata.labels["pod-template-hash"] = self._rs.metadata.name
        self._rs.spec.selector.CopyFrom(deployment.spec.selector)
        return self

    def has(self, replicas: int, ready: int | None = None, available: int | None = None) -> Self:
        """What the status says; `ready` and `available` are all of them unless given."""
        ready = replicas if ready is None else ready
        self._rs.status.CopyFrom(
            apps_v1_pb2.ReplicaSetStatus(
                replicas=replicas,
                fully_labeled_replicas=replicas,
                ready_replicas=ready,
                available_replicas=ready if available is None else available,
                observed_generation=1,
            )
        )
        return self

    def age(self, seconds: int) -> Self:
        """Created that long after the epoch: higher is newer."""
        self._rs.metadata.creation_timestamp.seconds = CREATED_S + seconds
        return self

    def revision(self, revision: int) -> Self:
        self._rs.metadata.annotations["deployment.kubernetes.io/revision"] = str(revision)
        return self

    def sized_for(self, desired: int, maximum: int) -> Self:
        self._rs.metadata.annotations["deployment.kubernetes.io/desired-replicas"] = str(desired)
        self._rs.metadata.annotations["deployment.kubernetes.io/max-replicas"] = str(maximum)
        return self

    def min_ready(self, seconds: int) -> Self:
        self._rs.spec.min_ready_seconds = seconds
        return self

    def deleting(self) -> Self:
        self._rs.metadata.deletion_timestamp.seconds = CREATED_S
        return self


def make_deployment(name: str, replicas: int = 3, namespace: str = "default") -> DeploymentBuilder:
    return DeploymentBuilder(name, replicas, namespace)


def make_replicaset(name: str, replicas: int = 3, namespace: str = "default") -> ReplicaSetBuilder:
    return ReplicaSetBuilder(name, replicas, namespace)
