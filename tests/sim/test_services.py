"""EndpointSlices in a simulated cluster: they follow the pods, through a crash of the control plane too."""

from __future__ import annotations

from wherry.api.context import Env
from wherry.pb import core_v1_pb2, discovery_v1_pb2
from wherry.testing.cluster import SimCluster, sim_cluster
from wherry.testing.manifests import deployment

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""


def slices(cluster: SimCluster) -> list[discovery_v1_pb2.EndpointSlice]:
    return list(cluster.objects("endpointslices.discovery.k8s.io").values())


def ready(cluster: SimCluster) -> list[str]:
    return sorted(
        address
        for found in slices(cluster)
        for endpoint in found.endpoints
        for address in endpoint.addresses
        if endpoint.conditions.ready
    )


def wanted(cluster: SimCluster) -> list[str]:
    return sorted(pod.status.pod_ip for pod in cluster.ready_pods(app="web"))


def legacy(cluster: SimCluster) -> list[str]:
    found = cluster.objects("endpoints").get("default/web")
    return sorted(a.ip for subset in found.subsets for a in subset.addresses) if found is not None else []


async def test_slices_follow_the_pods_and_go_with_the_service(env: Env) -> None:
    async with sim_cluster(env) as cluster:
        await cluster.apply(deployment("web", replicas=3) + "---" + SERVICE)
        await cluster.converge()
        await cluster.wait_until(lambda: len(ready(cluster)) == 3 and ready(cluster) == wanted(cluster))
        (found,) = slices(cluster)
        assert [(port.port, port.protocol) for port in found.ports] == [(8080, "TCP")]
        await cluster.wait_until(lambda: legacy(cluster) == wanted(cluster))
        await cluster.crash_control_plane()
        await cluster.start_control_plane()
        await cluster.scale("default/web", 5)
        await cluster.wait_until(lambda: len(ready(cluster)) == 5 and ready(cluster) == wanted(cluster))
        await cluster.scale("default/web", 0)
        await cluster.wait_until(lambda: not ready(cluster) and not legacy(cluster))
        assert len(slices(cluster)) == 1
        await cluster.insist(lambda: cluster.client.delete(core_v1_pb2.Service, "web", "default"))
        await cluster.wait_until(lambda: not slices(cluster) and "default/web" not in cluster.objects("endpoints"))


async def test_written_endpoints_are_mirrored_and_go_again(env: Env) -> None:
    bare = "apiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec: {ports: [{port: 80}]}\n---\n"
    endpoints = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: db}\nsubsets: [{addresses: [{ip: IP}], ports: [{port: 80}]}]\n"
    async with sim_cluster(env) as cluster:
        await cluster.apply(bare + endpoints.replace("IP", "192.0.2.1"))
        await cluster.wait_until(lambda: ready(cluster) == ["192.0.2.1"])
        await cluster.crash_control_plane()
        await cluster.start_control_plane()
        await cluster.apply(endpoints.replace("IP", "192.0.2.2"))
        await cluster.wait_until(lambda: ready(cluster) == ["192.0.2.2"])
        assert len(slices(cluster)) == 1
        await cluster.insist(lambda: cluster.client.delete(core_v1_pb2.Endpoints, "db", "default"))
        await cluster.wait_until(lambda: not slices(cluster))
