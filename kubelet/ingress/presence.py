"""Which `wherry ingress` there are, and under which addresses they are found together: what an Ingress' status names. Run by
`controller`.

Each keeps a Lease with its addresses; one that was not renewed for a while is gone, by the clock of who watches it, and only by
one who could see renewals all that while: an outage of our own looks the same as the absence of all others. All of them come to
the same list, so none overwrites another's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from wherry.api import meta
from wherry.api.context import Env
from wherry.api.errors import AlreadyExists, APIError, NotFound
from wherry.api.tasks import TaskGroup
from wherry.api.times import to_micro_time
from wherry.client.base import ClientAPI, DeleteOptions, Selection
from wherry.client.informer import Informer
from wherry.pb.coordination_v1_pb2 import Lease

log = logging.getLogger(__name__)

NAMESPACE = "kube-public"  # not kube-system: who may write Leases there may stop the scheduler
LABEL, VALUE = "wherry.dev/component", "ingress"
ADDRESSES = "wherry.dev/addresses"
RENEW_S = 10.0
DURATION_S = 40.0
CONTACT_S = 2 * RENEW_S  # after this without a renewal of our own we are the ones who were away


class Presence:
    """`changed` is called when `addresses` says something else. Invariant: `_seen` holds when each Lease that is there was seen
    to change, `_since` when contact with the control plane that still lasts began, `_contact` when there was some last: all by
    the loop's clock."""

    def __init__(
        self, client: ClientAPI, env: Env, name: str, addresses: Sequence[str], changed: Callable[[], None]
    ) -> None:
        self._client, self._env = client, env
        self._name = f"wherry-ingress-{name}"
        self._own = tuple(addresses)
        self._changed = changed
        self._leases = Informer(
            client, Lease, env, selection=Selection(namespace=NAMESPACE, label_selector=f"{LABEL}={VALUE}")
        )
        self._seen: dict[str, float] = {}
        self._since = self._contact = float("-inf")
        self._last: tuple[str, ...] = ()
        self._leases.add_handler(self._on_lease)

    async def run(self) -> None:
        """Until cancelled; the Lease stays, as haproxy does."""
        async with TaskGroup() as group:
            group.keep(self._leases.run, name="ingress-leases")
            while True:
                self._note(await self._renew())
                await self._forget_gone()
                self._tell()
                await asyncio.sleep(RENEW_S)

    async def wait_known(self, limit_s: float) -> None:
        """Returns when it is known who else there is, or cannot be known in this time."""
        try:
            async with asyncio.timeout(limit_s):
                await self._leases.wait_synced()
        except TimeoutError:
            log.warning("it is not known which other ingresses there are: the status names this one's address only")

    def addresses(self) -> tuple[str, ...]:
        """Of all that live, sorted."""
        found = set(self._own)
        for lease in self._leases.list():
            if not self._is_gone(lease):
                found.update(part for part in lease.metadata.annotations.get(ADDRESSES, "").split(",") if part)
        return tuple(sorted(found))

    async def leave(self) -> None:
        """This one serves no more."""
        try:
            await self._client.delete(Lease, self._name, NAMESPACE)
        except APIError as error:
            log.debug("lease %s: %s", self._name, error)

    def _is_gone(self, lease: Lease) -> bool:
        if lease.metadata.name == self._name:
            return False
        now = asyncio.get_running_loop().time()
        if now - self._contact > CONTACT_S:
            return False  # nobody can be judged by us, until we have listened anew for as long
        return now - max(self._seen[meta.key(lease)], self._since) > DURATION_S

    def _note(self, renewed: bool) -> None:
        """After each try. A gap may also be one in which we did not run."""
        now = asyncio.get_running_loop().time()
        if not renewed:
            self._contact = float("-inf")
            return
        if now - self._contact > CONTACT_S:
            self._since = now
        self._contact = now

    def _on_lease(self, old: Any, new: Any) -> None:
        if new is None:
            self._seen.pop(meta.key(old), None)
        else:
            self._seen[meta.key(new)] = asyncio.get_running_loop().time()
        self._tell()

    def _tell(self) -> None:
        if (now := self.addresses()) != self._last:
            self._last = now
            self._changed()

    async def _renew(self) -> bool:
        """Whether the control plane has taken it."""
        try:
            try:
                lease = await self._client.get(Lease, self._name, NAMESPACE)
            except NotFound:
                lease = Lease()
                lease.metadata.name, lease.metadata.namespace = self._name, NAMESPACE
            wanted = Lease()
            wanted.CopyFrom(lease)
            wanted.metadata.labels[LABEL] = VALUE
            wanted.metadata.annotations[ADDRESSES] = ",".join(self._own)
            wanted.spec.holder_identity = self._name
            wanted.spec.lease_duration_seconds = int(DURATION_S)
            wanted.spec.renew_time.CopyFrom(to_micro_time(self._env.now()))
            await (self._client.update if lease.metadata.uid else self._client.create)(wanted)
        except AlreadyExists:
            pass  # ours, of a moment ago
        except APIError as error:
            log.debug("lease %s: %s", self._name, error)
            return False
        return True

    async def _forget_gone(self) -> None:
        for lease in self._leases.list():
            if self._is_gone(lease):
                still = DeleteOptions(resource_version=lease.metadata.resource_version)  # unless it has come back
                try:
                    await self._client.delete(Lease, lease.metadata.name, NAMESPACE, still)
                except APIError as error:
                    log.debug("lease %s: %s", lease.metadata.name, error)
