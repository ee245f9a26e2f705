"""Leader election on a Lease: of several replicas one runs the scheduler and the controllers.

Called by `controlplane.server`. The rules are client-go's: a candidate trusts only its own clock (how long it has seen the
record unchanged), never the times written in it; a leader that could not renew before its deadline stops by itself, well
before another may begin. `revision` is that of the leader's last renewal, for fencing its writes (design, section 9).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from wherry.api.context import Env
from wherry.api.errors import AlreadyExists, APIError, Conflict, NotFound
from wherry.api.tasks import TaskGroup
from wherry.api.times import to_micro_time
from wherry.client.base import ClientAPI
from wherry.pb import coordination_v1_pb2

log = logging.getLogger(__name__)

LEASE_DURATION_S = 15.0
RENEW_DEADLINE_S = 10.0
RETRY_S = 2.0


class LeaderElector:
    """Invariants: `leading` is true only within `renew_deadline_s` of a renewal that was acknowledged; and
    renew_deadline_s < lease_duration_s, so two replicas that measure time at about the same speed never lead at once."""

    def __init__(
        self,
        client: ClientAPI,
        env: Env,
        identity: str,
        *,
        name: str,
        namespace: str = "kube-system",
        lease_duration_s: float = LEASE_DURATION_S,
        renew_deadline_s: float = RENEW_DEADLINE_S,
        retry_s: float = RETRY_S,
    ) -> None:
        if not retry_s < renew_deadline_s < lease_duration_s:
            raise ValueError(
                f"wanted retry_s < renew_deadline_s < lease_duration_s; got {retry_s}, {renew_deadline_s}, {lease_duration_s}"
            )
        self._client = client
        self._env = env
        self.identity = identity
        self._name = name
        self._namespace = namespace
        self._lease_duration_s = lease_duration_s
        self._renew_deadline_s = renew_deadline_s
        self._retry_s = retry_s
        self._observed: coordination_v1_pb2.Lease | None = None
        self._observed_at = 0.0
        self._renewed_at = 0.0
        self.leading = False
        self.holder = ""

    @property
    def lease(self) -> str:
        """`namespace/name`, as a BindRequest wants it."""
        return f"{self._namespace}/{self._name}"

    @property
    def revision(self) -> int:
        """Of our last renewal; 0 when we do not lead."""
        if not self.leading or self._observed is None:
            return 0
        return int(self._observed.metadata.resource_version or 0)

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """For ever: waits for leadership, runs `lead()` while it lasts (cancelling it when it is lost), and tries again.
        When cancelled it gives the Lease back, so that the next leader need not wait for it to run out."""
        while True:
            await self._acquire()
            log.info("%s: %s leads", self.lease, self.identity)
            try:
                async with TaskGroup() as group:
                    work = group.create_task(_run(lead), name="leading")
                    await self._hold()
                    work.cancel()
            finally:
                was, self.leading = self.leading, False
                if was:
                    await self._release()
            log.warning("%s: %s leads no more", self.lease, self.identity)

    async def _acquire(self) -> None:
        while True:
            if await self._try():
                break
            await asyncio.sleep(self._retry_s * (1.0 + 0.2 * self._env.rng.random()))
        self.leading = True

    async def _hold(self) -> None:
        """Renews until the deadline passes without success, or another one holds the Lease."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._retry_s)
            remaining = self._renewed_at + self._renew_deadline_s - loop.time()
            try:
                async with asyncio.timeout(max(remaining, 0.0)):
                    renewed = await self._try()
            except TimeoutError:
                renewed = False
            if self.holder != self.identity or loop.time() - self._renewed_at >= self._renew_deadline_s:
                self.leading = False
                return
            if not renewed:
                log.info("%s: not renewed, trying again", self.lease)

    async def _try(self) -> bool:
        """Takes or renews the Lease if nobody else holds it. True when it is ours now."""
        loop = asyncio.get_running_loop()
        try:
            current = await self._client.get(coordination_v1_pb2.Lease, self._name, self._namespace)
        except NotFound:
            current = None
        except APIError as error:
            log.debug("%s: %s", self.lease, error)
            return False
        asked_at = loop.time()
        if current is not None:
            self._observe(current)
            self.holder = current.spec.holder_identity
            if self.holder and self.holder != self.identity:
                duration = current.spec.lease_duration_seconds or self._lease_duration_s
                if loop.time() - self._observed_at < duration:
                    return False
        wanted = self._wanted(current)
        try:
            if current is None:
                written = await self._client.create(wanted)
            else:
                written = await self._client.update(wanted)
        except (AlreadyExists, Conflict, NotFound):
            return False  # another candidate was faster: look again later
        except APIError as error:
            log.debug("%s: %s", self.lease, error)
            return False
        self._observe(written)
        self.holder = self.identity
        self._renewed_at = asked_at  # when we asked, not when the answer came: the others' clocks run from no later
        return True

    def _observe(self, lease: coordination_v1_pb2.Lease) -> None:
        if self._observed is None or self._observed.metadata.resource_version != lease.metadata.resource_version:
            self._observed = lease
            self._observed_at = asyncio.get_running_loop().time()

    def _wanted(self, current: coordination_v1_pb2.Lease | None) -> coordination_v1_pb2.Lease:
        lease = coordination_v1_pb2.Lease()
        if current is not None:
            lease.CopyFrom(current)
        lease.metadata.name = self._name
        lease.metadata.namespace = self._namespace
        now = to_micro_time(self._env.now())
        if lease.spec.holder_identity != self.identity:
            if current is not None:
                lease.spec.lease_transitions += 1
            lease.spec.acquire_time.CopyFrom(now)
        lease.spec.holder_identity = self.identity
        lease.spec.lease_duration_seconds = int(self._lease_duration_s)
        lease.spec.renew_time.CopyFrom(now)
        return lease

    async def _release(self) -> None:
        """Leaves the Lease without a holder; if that fails it runs out by itself."""
        if self._observed is None:
            return
        lease = coordination_v1_pb2.Lease()
        lease.CopyFrom(self._observed)
        lease.spec.holder_identity = ""
        lease.spec.lease_duration_seconds = 1
        try:
            async with asyncio.timeout(self._retry_s):
                self._observe(await self._client.update(lease))
        except (APIError, TimeoutError) as error:
            log.debug("%s: not released: %s", self.lease, error)


async def _run(lead: Callable[[], Awaitable[None]]) -> None:
    await lead()
