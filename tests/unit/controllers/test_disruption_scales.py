"""What a disruption budget is told about owners that no cache holds. Virtual time."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from controlplane.controllers.disruption.plan import UnknownScale
from controlplane.controllers.disruption.scales import FRESH_S, MISSED_S, OwnerScales
from wherry.api.errors import APIError, Forbidden, InternalError, NotFound, ServiceUnavailable, Timeout
from wherry.client.base import ClientAPI
from wherry.pb import autoscaling_v1_pb2, meta_v1_pb2, resources_pb2


def resource(
    plural: str, kind: str, group: str = "example.com", *subresources: str, namespaced: bool = True
) -> resources_pb2.APIResource:
    return resources_pb2.APIResource(
        group=group, version="v1", plural=plural, kind=kind, subresources=subresources, namespaced=namespaced
    )


class Cluster:
    """Answers as a server does, and counts."""

    def __init__(self) -> None:
        self.resources = [
            resource("configmaps", "ConfigMap", ""),
            resource("daemonsets", "DaemonSet", "apps", "status"),
            resource("fleets", "Fleet", "example.com", "scale"),
            resource("armies", "Army", "example.com", "scale", namespaced=False),
        ]
        self.answer: int | APIError = 7
        self.asked: list[tuple[str, str, str]] = []
        self.discoveries = 0

    async def discover(self) -> resources_pb2.DiscoverResponse:
        self.discoveries += 1
        return resources_pb2.DiscoverResponse(resources=self.resources)

    async def get_scale(self, found: Any, name: str, namespace: str = "") -> autoscaling_v1_pb2.Scale:
        self.asked.append((found.plural, name, namespace))
        if isinstance(self.answer, APIError):
            raise self.answer
        scale = autoscaling_v1_pb2.Scale()
        scale.metadata.uid = "uid"
        scale.spec.replicas = self.answer
        return scale


def owner(kind: str = "Fleet", api_version: str = "example.com/v1", uid: str = "uid") -> meta_v1_pb2.OwnerReference:
    return meta_v1_pb2.OwnerReference(api_version=api_version, kind=kind, name="x", uid=uid, controller=True)


def scales(cluster: Cluster) -> OwnerScales:
    return OwnerScales(cast(ClientAPI, cluster))


@pytest.mark.parametrize(
    ("given", "answer", "wanted"),
    [
        (owner(), 7, 7),
        (owner(), 0, 0),
        (owner(uid="former"), 7, None),
        (owner(), NotFound("gone"), None),
    ],
    ids=["so many", "none", "another owner of that name", "gone"],
)
async def test_scales(given: meta_v1_pb2.OwnerReference, answer: int | APIError, wanted: int | None) -> None:
    cluster = Cluster()
    cluster.answer = answer
    assert await scales(cluster).read("ns", given) == wanted
    assert cluster.asked == [("fleets", "x", "ns")]


async def test_an_owner_outside_namespaces_is_asked_without_one() -> None:
    cluster = Cluster()
    assert await scales(cluster).read("ns", owner("Army")) == 7
    assert cluster.asked == [("armies", "x", "")]


@pytest.mark.parametrize(
    ("given", "answer", "message"),
    [
        (owner("ConfigMap", "v1"), 7, "configmaps does not implement the scale subresource"),
        (owner("DaemonSet", "apps/v1"), 7, "daemonsets.apps does not implement the scale subresource"),
        (owner("Thing"), 7, 'no matches for kind "Thing" in version "example.com/v1"'),
        (owner("Fleet", "example.com/v2"), 7, 'no matches for kind "Fleet" in version "example.com/v2"'),
        (owner(), Forbidden("no"), "no"),
        (owner(), InternalError("the field is not there"), "the field is not there"),
    ],
    ids=["of the core", "of a group", "unknown kind", "unknown version", "forbidden", "without figures"],
)
async def test_owners_that_do_not_say(given: meta_v1_pb2.OwnerReference, answer: int | APIError, message: str) -> None:
    cluster = Cluster()
    cluster.answer = answer
    with pytest.raises(UnknownScale) as raised:
        await scales(cluster).read("ns", given)
    assert str(raised.value) == message


@pytest.mark.parametrize("error", [ServiceUnavailable("away"), Timeout("late")], ids=["away", "late"])
async def test_what_passes_is_for_the_queue(error: APIError) -> None:
    cluster = Cluster()
    cluster.answer = error
    with pytest.raises(type(error)):
        await scales(cluster).read("ns", owner())


async def test_discovery_is_asked_seldom_but_for_news() -> None:
    cluster = Cluster()
    reader = scales(cluster)
    for _ in range(10):
        await reader.read("ns", owner())
        with pytest.raises(UnknownScale):
            await reader.read("ns", owner("Thing"))
    assert cluster.discoveries == 1
    cluster.resources.append(resource("things", "Thing", "example.com", "scale"))
    await asyncio.sleep(MISSED_S)
    assert await reader.read("ns", owner("Thing")) == 7
    assert cluster.discoveries == 2
    cluster.resources.pop()
    await asyncio.sleep(FRESH_S)
    with pytest.raises(UnknownScale):
        await reader.read("ns", owner("Thing"))
