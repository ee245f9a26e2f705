"""Golden transcripts: whole flows across all components, as people would read them.

A transcript is a file of commands (`> apply web replicas=3`), each followed by what was to be seen after it: events, in
Kubernetes' words, and what is asked for with `pods` and `deployments`. `WHERRY_REWRITE=1` writes what is seen into the
files; read the difference before you commit it.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wherry.api import meta
from wherry.api.context import Env
from wherry.client.base import DeleteOptions
from wherry.pb import apps_v1_pb2, core_v1_pb2
from wherry.testing.cluster import SimCluster, sim_cluster
from wherry.testing.loop import run_virtual
from wherry.testing.manifests import deployment

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
# What the kubelet and the scheduler tell of every pod would drown the rest.
QUIET = ("Scheduled", "Pulled", "Pulling", "Created", "Started")


class Names:
    """Generated names as stable ones, in order of their appearance: web-7d9f-x2z becomes web-rs1-a."""

    def __init__(self) -> None:
        self._sets: dict[str, str] = {}
        self._pods: dict[str, str] = {}

    def learn(self, resource: str, obj: Any) -> None:
        name, owner = obj.metadata.name, meta.controller_of(obj)
        if owner is None:
            return
        if resource == "replicasets.apps":
            number = 1 + sum(known.startswith(f"{owner.name}-rs") for known in self._sets.values())
            self._sets.setdefault(name, f"{owner.name}-rs{number}")
        elif resource == "pods":
            rs = self._sets.get(owner.name, owner.name)
            count = sum(known.startswith(f"{rs}-") for known in self._pods.values())
            self._pods.setdefault(name, f"{rs}-{chr(ord('a') + count)}")

    def tidy(self, text: str) -> str:
        for known in (self._pods, self._sets):
            for name, stable in known.items():
                text = text.replace(name, stable)
        return text


class Stage:
    def __init__(self, cluster: SimCluster) -> None:
        self._cluster = cluster
        self._names = Names()
        self._seen = 0
        self._counts: dict[str, int] = {}

    async def run(self, line: str) -> list[str]:
        command, *words = line.split()
        options = dict(word.split("=") for word in words if "=" in word)
        names = [word for word in words if "=" not in word]
        answer = getattr(self, f"do_{command.replace('-', '_')}")(*names, **options)
        shown: list[str] = (await answer) or []
        await asyncio.sleep(0.001)
        return self._news() + [self._names.tidy(each) for each in shown]

    def _news(self) -> list[str]:
        """Events since the last command, equal ones counted, sorted: their order in one instant means nothing."""
        changes = self._cluster.history.changes[self._seen :]
        self._seen += len(changes)
        told: dict[str, int] = {}
        for change in changes:
            if change.new is not None:
                self._names.learn(change.kind.group_resource, change.new)
        for change in changes:
            if change.kind.plural == "events" and change.type == "ADDED" and change.new.reason not in QUIET:
                event = change.new
                who = f"{event.involved_object.kind}/{event.involved_object.name}"
                text = self._names.tidy(f"{event.type} {event.reason} {who}: {event.message}")
                told[text] = told.get(text, 0) + 1
        return sorted(told)

    async def do_apply(self, name: str, **options: str) -> None:
        given: dict[str, Any] = {key: int(text) if text.isdigit() else text for key, text in options.items()}
        await self._cluster.apply(deployment(name, **given))

    async def do_image(self, name: str, image: str) -> None:
        await self._cluster.set_image(f"default/{name}", image)

    async def do_scale(self, name: str, replicas: str) -> None:
        await self._cluster.scale(f"default/{name}", int(replicas))

    async def do_delete(self, name: str, policy: str) -> None:
        options = DeleteOptions(propagation_policy=policy)
        await self._cluster.client.delete(apps_v1_pb2.Deployment, name, "default", options)

    async def do_cordon(self, name: str) -> None:
        def cordon(node: core_v1_pb2.Node) -> None:
            node.spec.unschedulable = True

        await self._cluster.change(core_v1_pb2.Node, name, cordon)

    async def do_refuse(self, image: str) -> None:
        for node in self._cluster.nodes.values():
            node.refuse_image(image)

    async def do_cut(self, name: str) -> None:
        self._cluster.nodes[name].cut()

    async def do_heal(self, name: str) -> None:
        self._cluster.nodes[name].heal()

    async def do_crash(self) -> None:
        await self._cluster.restart_control_plane(down_s=1)

    async def do_tick(self, seconds: str) -> None:
        await asyncio.sleep(float(seconds))

    async def do_nodes(self) -> list[str]:
        def line(node: core_v1_pb2.Node) -> str:
            taints = " ".join(f"{taint.key}:{taint.effect}" for taint in node.spec.taints)
            ready = meta.get_condition(node.status.conditions, "Ready")
            return f"{node.metadata.name} Ready={ready.status if ready else ''} {taints}".rstrip()

        return self._table("nodes", line)

    async def do_pods(self) -> list[str]:
        def line(pod: core_v1_pb2.Pod) -> str:
            ready = "ready" if meta.is_true(pod.status.conditions, "Ready") else "not ready"
            going = ", terminating" if meta.is_deleting(pod) else ""
            return f"{pod.metadata.name} {pod.status.phase} {ready}{going} on {pod.spec.node_name or 'no node'}"

        return self._table("pods", line)

    async def do_deployments(self) -> list[str]:
        def line(found: apps_v1_pb2.Deployment) -> str:
            status = found.status
            conditions = " ".join(f"{each.type}={each.status}({each.reason})" for each in status.conditions)
            counts = f"{status.ready_replicas}/{found.spec.replicas} up to date {status.updated_replicas}"
            return f"{found.metadata.name} {counts} available {status.available_replicas} {conditions}"

        return self._table("deployments.apps", line)

    def _table(self, resource: str, line: Callable[[Any], str]) -> list[str]:
        return sorted(self._names.tidy(line(obj)) for obj in self._cluster.objects(resource).values()) or ["(none)"]


def commands(text: str) -> list[str]:
    return [line[2:] for line in text.splitlines() if line.startswith("> ")]


async def perform(env: Env, text: str) -> str:
    head = re.match(r"(#.*\n)*", text)
    assert head is not None
    out = [head.group().rstrip("\n")] if head.group() else []
    async with sim_cluster(env) as cluster:
        stage = Stage(cluster)
        stage._news()
        for command in commands(text):
            out += [f"> {command}", *(f"  {line}" for line in await stage.run(command))]
    return "\n".join(out) + "\n"


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    text = path.read_text()
    seen = run_virtual(lambda env: perform(env, text))
    if os.environ.get("WHERRY_REWRITE"):
        path.write_text(seen)
    assert seen == text
