"""Creates a Deployment, watches its pods until all of them run, scales it, and deletes it again. See docs/client.md.

Run it where a client config is (~/.wherry/config, or WHERRY_CONFIG=...): python docs/examples/deploy_and_watch.py
"""

from __future__ import annotations

import asyncio
import sys

from wherry.api.errors import AlreadyExists
from wherry.client.base import DeleteOptions, Selection
from wherry.client.client import Client
from wherry.client.config import load_config
from wherry.client.grpc import connect
from wherry.pb.apps_v1_pb2 import Deployment
from wherry.pb.core_v1_pb2 import Pod


def web(replicas: int, image: str) -> Deployment:
    deployment = Deployment()
    deployment.metadata.name = "example-web"
    deployment.metadata.namespace = "default"
    deployment.spec.replicas = replicas
    deployment.spec.selector.match_labels["app"] = "example-web"
    template = deployment.spec.template
    template.metadata.labels["app"] = "example-web"
    template.spec.containers.add(name="web", image=image)
    return deployment


async def watch_until_running(client: Client, wanted: int) -> None:
    pods = Selection(namespace="default", label_selector="app=example-web")
    page = await client.list(Pod, pods)
    phases = {pod.metadata.name: pod.status.phase for pod in page.items}
    if list(phases.values()).count("Running") >= wanted:
        return
    async for batch in client.watch(Pod, pods, resource_version=page.resource_version):
        for event in batch.events:
            pod = event.object
            print(f"{event.type:9} {pod.metadata.name} {pod.status.phase} {pod.spec.node_name}")
            if event.type == "DELETED":
                phases.pop(pod.metadata.name, None)
            else:
                phases[pod.metadata.name] = pod.status.phase
        if list(phases.values()).count("Running") >= wanted:
            return


async def main(image: str) -> None:
    client = connect(load_config())
    try:
        try:
            await client.create(web(2, image))
        except AlreadyExists:
            print("it is there already")
        await watch_until_running(client, 2)
        await client.patch(Deployment, "example-web", "default", {"spec": {"replicas": 3}})
        await watch_until_running(client, 3)
        await client.delete(Deployment, "example-web", "default", DeleteOptions(propagation_policy="Background"))
        print("done")
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "wherry.local/demo:1"))
