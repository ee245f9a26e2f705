"""The registry's face: what the fronts, and nobody else, call. One pipeline serves every verb of every kind.

A front turns bytes into a request and a `RequestContext`, calls one method here, and encodes what comes back. It holds no
semantics; errors are those of `wherry.api.errors`. The implementation is `controlplane.registry.registry.Registry`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.message import Message

from wherry.api.kinds import Kind
from wherry.pb import meta_v1_pb2, pods_pb2, policy_v1_pb2, resources_pb2

if TYPE_CHECKING:
    from controlplane.registry.conditions import Condition
    from controlplane.registry.tables.render import Cells


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks: `authentication.k8s.io/v1 UserInfo`. `groups` include system:authenticated where it holds."""

    user: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


ADMIN = Identity("system:admin", ("system:masters", "system:authenticated"))
ANONYMOUS = Identity("system:anonymous", ("system:unauthenticated",))


@dataclass(slots=True)
class RequestContext:
    """One request. `warnings` collects what becomes Warning headers; `cause` is carried into events and logs. `created` is set
    when an update made the object. `normal`: the object of a create or an update was decoded from text, and so has the one form
    that `wherry.api.normal` gives to others. `condition` is that of its writes."""

    identity: Identity
    cause: str = ""
    warnings: list[str] = field(default_factory=list)
    field_manager: str = ""
    dry_run: bool = False
    field_validation: str = "Strict"
    annotations: dict[str, str] = field(default_factory=dict)  # for the audit log
    created: bool = False
    normal: bool = False
    condition: Condition | None = None


@dataclass(slots=True)
class Stored:
    """One object as read or written: serialised without resourceVersion, plus its revision.

    `memo` belongs to the entry of the watch cache and is shared by all readers of this revision: encodings are kept
    there so that each is made once. What is in it must not be changed.
    """

    kind: Kind
    value: bytes
    revision: int
    memo: dict[str, Any]

    def wire(self) -> bytes:
        """The serialised message with metadata.resourceVersion appended (protobuf concatenation merges)."""
        if not self.revision:  # the outcome of a dry run: it never was in the store
            return self.value
        # Kind messages have metadata as field 1; ObjectMeta.resource_version is field 6.
        revision = str(self.revision).encode()
        inner = b"\x32" + bytes((len(revision),)) + revision
        return self.value + b"\x0a" + bytes((len(inner),)) + inner

    def wire_size(self) -> int:
        """How long `wire` is, without making it."""
        return len(self.value) + (4 + len(str(self.revision)) if self.revision else 0)

    def message(self) -> Any:
        """A fresh message, the caller's own, with resourceVersion."""
        return self.kind.message.FromString(self.wire())


@dataclass(frozen=True, slots=True)
class ListOptions:
    namespace: str = ""
    label_selector: str = ""
    field_selector: str = ""
    limit: int = 0
    continue_token: str = ""
    resource_version: str = ""
    resource_version_match: str = ""


@dataclass(slots=True)
class ListResult:
    items: Sequence[Stored]
    revision: int
    continue_token: str = ""
    remaining: int | None = None


@dataclass(frozen=True, slots=True)
class WatchOptions:
    namespace: str = ""
    label_selector: str = ""
    field_selector: str = ""
    resource_version: str = ""
    bookmarks: bool = False
    send_initial_events: bool = False
    timeout_s: float = 0.0


@dataclass(slots=True)
class WatchEvent:
    """`type` is ADDED, MODIFIED, DELETED or BOOKMARK. A DELETED object is the last state, at the delete's revision."""

    type: str
    stored: Stored


@dataclass(slots=True)
class WatchBatch:
    """All events for this watcher up to `revision`; a revision is never split."""

    events: Sequence[WatchEvent]
    revision: int


@dataclass(slots=True)
class DeleteResult:
    """`stored` is set while the object still exists (grace, finalizers); else `status` tells what went, and `last` is what it
    was, for kinds whose deletion Kubernetes answers with the object."""

    stored: Stored | None
    status: meta_v1_pb2.Status | None
    last: Stored | None = None


@dataclass(slots=True)
class BindResult:
    revision: int = 0
    error: Exception | None = None


class RegistryAPI(Protocol):
    """Objects go in as messages (or patch bodies) and come out as `Stored`. Every write is durable when it returns."""

    def served(self) -> Sequence[Kind]:
        """The kinds that are served, custom ones included, in discovery order."""
        ...

    def verbs(self, kind: Kind) -> Sequence[str]:
        """For discovery."""
        ...

    def kind(self, group: str, version: str, resource: str) -> Kind:
        """Raises NotFound ("the server could not find the requested resource")."""
        ...

    async def get(
        self, ctx: RequestContext, kind: Kind, namespace: str, name: str, *, resource_version: str = "",
        subresource: str = "",
    ) -> Stored: ...  # fmt: skip

    async def list(self, ctx: RequestContext, kind: Kind, options: ListOptions) -> ListResult: ...

    def watch(self, ctx: RequestContext, kind: Kind, options: WatchOptions) -> AsyncIterator[WatchBatch]:
        """Raises Expired. Close it with aclose()."""
        ...

    async def create(
        self, ctx: RequestContext, kind: Kind, namespace: str, obj: Message, *, name: str = "", subresource: str = ""
    ) -> Stored: ...

    async def update(
        self, ctx: RequestContext, kind: Kind, namespace: str, name: str, obj: Message, *, subresource: str = ""
    ) -> Stored: ...

    async def patch(
        self, ctx: RequestContext, kind: Kind, namespace: str, name: str, patch_type: str, body: bytes, *,
        subresource: str = "",
    ) -> Stored: ...  # fmt: skip

    async def apply(
        self, ctx: RequestContext, kind: Kind, namespace: str, name: str, body: bytes, *, force: bool = False,
        subresource: str = "",
    ) -> tuple[Stored, bool]:  # fmt: skip
        """Server-side apply; the flag tells whether the object was created."""
        ...

    async def delete(
        self, ctx: RequestContext, kind: Kind, namespace: str, name: str, options: meta_v1_pb2.DeleteOptions
    ) -> DeleteResult: ...

    async def delete_collection(
        self, ctx: RequestContext, kind: Kind, selection: ListOptions, options: meta_v1_pb2.DeleteOptions
    ) -> ListResult: ...

    def table(self, kind: Kind, items: Sequence[Stored]) -> resources_pb2.Table:
        """The columns that kubectl users know, for these objects."""
        ...

    def cells(self, kind: Kind, stored: Stored) -> Cells:
        """Those of one object in its table."""
        ...

    async def bind(self, ctx: RequestContext, bindings: Sequence[pods_pb2.BindRequest]) -> Sequence[BindResult]:
        """Independent compare-and-puts in one store batch."""
        ...

    async def admit_session(
        self,
        ctx: RequestContext,
        namespace: str,
        name: str,
        subresource: str,
        options: dict[str, Any],
        kind: Kind | None = None,
    ) -> None:
        """Before a connection to a pod (or what `kind` says) begins. `options` is the PodExecOptions (or its like), as JSON.
        Raises Forbidden, or what a webhook or policy says."""
        ...

    async def evict(self, ctx: RequestContext, eviction: policy_v1_pb2.Eviction) -> meta_v1_pb2.Status: ...

    async def update_pod_statuses(
        self, ctx: RequestContext, updates: Sequence[tuple[str, str, str, Any, bool]]
    ) -> Sequence[Exception | None]:
        """For the node link: (namespace, name, uid, PodStatus, terminated) each on its own; in one store batch.
        `terminated` removes the object when it is being deleted. None means written (or unchanged)."""
        ...
