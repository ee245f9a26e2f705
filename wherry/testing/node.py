"""A simulated node: the real agent over a hollow runtime, on a link that can be cut and a machine that can lose its power.

Made by `wherry.testing.cluster`.
"""

from __future__ import annotations

import asyncio
import logging

from kubelet.agent import Agent
from kubelet.options import AgentOptions
from kubelet.runtime.base import SandboxState
from kubelet.runtime.hollow import HollowRuntime, Latency
from wherry.api.context import Env
from wherry.testing.loop import virtual_loop
from wherry.testing.network import Link

log = logging.getLogger(__name__)


class SimNode:
    """`runtime` is the machine: containers live on while the agent is away, and end when the power does."""

    def __init__(
        self,
        name: str,
        env: Env,
        link: Link,
        number: int,
        *,
        cpus: int,
        memory_bytes: int,
        latency: Latency | None = None,
    ) -> None:
        self.name = name
        self.link = link
        self.missing_images: set[str] = set()
        self._env = env
        self._number = number
        self._capacity = {"cpu": str(cpus), "memory": str(memory_bytes)}
        self._latency = latency or Latency(pull_s=0.2)
        self.runtime = self._machine()
        self.agent: Agent | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self._task is not None

    async def start(self) -> None:
        """The agent's process."""
        assert self._task is None, f"the agent of {self.name} runs already"
        options = AgentOptions(node_name=self.name, ips=(f"10.0.0.{self._number}",), capacity=self._capacity)
        self.agent = Agent(self._env, self.link, self.runtime, options)
        self._task = virtual_loop().create_task(self.agent.run(), name=f"agent-{self.name}")

    async def stop(self) -> None:
        """The agent's process ends; containers go on. Raises what ended it before."""
        task, self._task, self.agent = self._task, None, None
        if task is None:
            return
        if not task.done():
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass

    async def power_off(self) -> None:
        """Agent, containers and what was on its disk are gone."""
        await self.stop()
        await self.runtime.close()
        self.runtime = self._machine()

    async def power_on(self) -> None:
        await self.start()

    def cut(self) -> None:
        """The cable is pulled: agent and containers live on, unheard."""
        self.link.cut()

    def heal(self) -> None:
        self.link.heal()

    async def sandboxes(self) -> list[str]:
        """namespace/name of the pods that have a living sandbox here."""
        found = await self.runtime.list_sandboxes()
        return sorted(f"{each.namespace}/{each.name}" for each in found if each.state is SandboxState.READY)

    def refuse_image(self, image: str) -> None:
        """As if no registry had it, from now on."""
        self.missing_images.add(image)
        self.runtime.missing_images.add(image)

    def check_invariants(self) -> None:
        self.runtime.check_invariants()
        if self.agent is not None:
            self.agent.check_invariants()

    def _machine(self) -> HollowRuntime:
        return HollowRuntime(
            self._env,
            latency=self._latency,
            missing_images=sorted(self.missing_images),
            subnet=f"10.244.{self._number}",
        )
