"""The example of docs/client.md runs as it stands, against a real server and nodes without containers."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from controlplane.server import Options
from wherry.api.context import Env
from wherry.api.tasks import TaskGroup
from wherry.client.config import ClientConfig, write_config
from wherry.client.informer import Informer
from wherry.pb.core_v1_pb2 import Node, NodeStatus, Pod
from wherry.testing.serving import Serving, serving

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "deploy_and_watch.py"


async def play_kubelet(running: Serving) -> None:
    """Says of every pod that is bound to the one node that it runs."""
    client = running.client("kubelet", ["system:masters"])
    node = Node()
    node.metadata.name = "n1"
    node = await client.create(node)
    status = NodeStatus()
    status.conditions.add(type="Ready", status="True", reason="KubeletReady")
    for name, amount in (("cpu", "4"), ("memory", "8Gi"), ("pods", "110")):
        status.capacity[name].string = amount
        status.allocatable[name].string = amount
    node.status.CopyFrom(status)
    await client.update_status(node)
    bound: asyncio.Queue[Pod] = asyncio.Queue()
    informer = Informer(client, Pod, Env())
    informer.add_handler(
        lambda old, new: bound.put_nowait(new) if new and new.spec.node_name and new.status.phase == "Pending" else None
    )
    try:
        async with TaskGroup() as group:
            group.create_task(informer.run())
            while True:
                pod = await bound.get()
                patch = {"status": {"phase": "Running"}}
                await client.patch(Pod, pod.metadata.name, "default", patch, subresource="status")
    finally:
        await client.close()


async def test_the_example_runs(tmp_path: Path) -> None:
    async with serving(Env(), Options()) as running:
        tls = running.tls("admin", ["system:masters"])
        config = tmp_path / "config"
        write_config(ClientConfig(running.address, tls.ca, tls.certificate, tls.key), config)
        kubelet = asyncio.create_task(play_kubelet(running))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(EXAMPLE),
            "some/image",
            env={**os.environ, "WHERRY_CONFIG": str(config)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), 30)
        finally:
            if process.returncode is None:
                process.kill()
            kubelet.cancel()
            await asyncio.gather(kubelet, return_exceptions=True)
        assert process.returncode == 0, output.decode()
        lines = output.decode().splitlines()
        assert lines[-1] == "done"
        running_pods = {line.split()[1] for line in lines if line.startswith("MODIFIED") and " Running n1" in line}
        assert len(running_pods) == 3
