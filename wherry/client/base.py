"""The typed client's face. Controllers, the scheduler, the agent, the CLI and outsiders all see the cluster through it.

`wherry.client.client.Client` implements it over a `Transport`: real gRPC (`wherry.client.grpc`), or in memory for the
control plane's own components and for simulation, where the very same servicers are called without sockets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from google.protobuf.message import Message

from wherry.api.errors import APIError
from wherry.pb import core_v1_pb2, meta_v1_pb2, pods_pb2, resources_pb2

if TYPE_CHECKING:
    from wherry.pb import authentication_v1_pb2, autoscaling_v1_pb2

M = TypeVar("M", bound=Message)


class BidiStream(Protocol):
    """A bidirectional RPC in progress."""

    async def send(self, message: Message) -> None: ...
    async def done_sending(self) -> None: ...
    def __aiter__(self) -> AsyncIterator[Any]: ...
    async def cancel(self) -> None: ...


class Transport(Protocol):
    """Carries RPCs. `method` is "/wherry.v1.Resources/Get"; the response type is found from the service descriptor.
    Errors arrive as `wherry.api.errors.APIError`; a broken connection as ServiceUnavailable."""

    async def unary(self, method: str, request: Message, *, timeout_s: float | None = None) -> Any: ...
    def server_stream(self, method: str, request: Message) -> AsyncIterator[Any]:
        """Close with aclose()."""
        ...

    def bidi(self, method: str, *, metadata: Mapping[str, str] | None = None) -> BidiStream: ...
    async def close(self) -> None: ...


@dataclass(slots=True)
class Page(Generic[M]):
    items: list[M]
    resource_version: str
    continue_token: str = ""
    remaining_item_count: int | None = None


@dataclass(slots=True)
class WatchEvent(Generic[M]):
    type: str  # ADDED, MODIFIED, DELETED, BOOKMARK
    object: M


@dataclass(slots=True)
class WatchBatch(Generic[M]):
    events: list[WatchEvent[M]]
    resource_version: str


@dataclass(frozen=True, slots=True)
class TableBatch:
    """Rows of what changed, and for each the type of its event: ADDED, MODIFIED, DELETED. It may have none."""

    table: resources_pb2.Table
    types: Sequence[str]
    resource_version: str


@dataclass(frozen=True, slots=True)
class Selection:
    namespace: str = ""
    label_selector: str = ""
    field_selector: str = ""


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    grace_period_s: int | None = None
    propagation_policy: str = ""  # "", "Orphan", "Background", "Foreground"
    uid: str = ""  # precondition
    resource_version: str = ""  # precondition
    dry_run: bool = False


@dataclass(slots=True)
class Warnings:
    """Pass one to a call to collect the server's warnings."""

    messages: list[str] = field(default_factory=list)


class ClientAPI(Protocol):
    """Calls raise `wherry.api.errors.APIError`. Objects given are not changed; objects returned are the caller's own.
    Each call has a deadline (30 s unless said) and sends the current `wherry.api.context.cause`."""

    async def get(self, cls: type[M], name: str, namespace: str = "", *, resource_version: str = "") -> M: ...
    async def list(
        self, cls: type[M], selection: Selection = Selection(), *, limit: int = 0, continue_token: str = "",
        resource_version: str = "", resource_version_match: str = "",
    ) -> Page[M]: ...  # fmt: skip
    def watch(
        self, cls: type[M], selection: Selection = Selection(), *, resource_version: str = "", bookmarks: bool = False
    ) -> AsyncIterator[WatchBatch[M]]: ...
    async def create(self, obj: M, *, dry_run: bool = False, field_manager: str = "") -> M:
        """Namespace and name come from the object's metadata."""
        ...

    async def create_batch(self, objs: Sequence[M]) -> Sequence[str | APIError]:
        """Up to 100 objects of one kind, each for itself, in one request: the name of each, or why it was not created."""
        ...

    async def update(self, obj: M, *, subresource: str = "", dry_run: bool = False, field_manager: str = "") -> M: ...
    async def update_status(self, obj: M) -> M: ...
    async def patch(
        self, cls: type[M], name: str, namespace: str, patch: Any, *, patch_type: str = "application/merge-patch+json",
        subresource: str = "", dry_run: bool = False, field_manager: str = "",
    ) -> M:  # fmt: skip
        """`patch`: a plain JSON value, or bytes as they are to be sent."""
        ...

    async def apply(
        self, obj: M | bytes, cls: type[M], name: str, namespace: str = "", *, field_manager: str, force: bool = False,
        dry_run: bool = False,
    ) -> M: ...  # fmt: skip
    async def delete(
        self, cls: type[M], name: str, namespace: str = "", options: DeleteOptions = DeleteOptions()
    ) -> M | None:
        """The object while it still exists, None when it is gone. NotFound when it was not there."""
        ...

    async def delete_collection(
        self, cls: type[M], selection: Selection, options: DeleteOptions = DeleteOptions()
    ) -> Sequence[M]: ...
    async def get_scale(
        self, resource: resources_pb2.APIResource, name: str, namespace: str = ""
    ) -> autoscaling_v1_pb2.Scale:
        """Of an object of whatever discovery names with that subresource."""
        ...

    async def bind(self, request: pods_pb2.BindRequest) -> str: ...
    async def bind_batch(self, requests: Sequence[pods_pb2.BindRequest]) -> Sequence[str | Exception]: ...
    async def evict(self, name: str, namespace: str, options: DeleteOptions = DeleteOptions()) -> None: ...
    async def request_token(
        self, namespace: str, account: str, spec: authentication_v1_pb2.TokenRequestSpec
    ) -> authentication_v1_pb2.TokenRequest:
        """A token of a service account."""
        ...

    def logs(self, name: str, namespace: str, options: core_v1_pb2.PodLogOptions) -> AsyncIterator[bytes]: ...
    def exec(self, start: pods_pb2.StreamStart) -> BidiStream:
        """Sends the start frame; the rest is the caller's. Likewise attach and port_forward."""
        ...

    def attach(self, start: pods_pb2.StreamStart) -> BidiStream: ...
    def port_forward(self, start: pods_pb2.StreamStart) -> BidiStream: ...
    async def discover(self) -> resources_pb2.DiscoverResponse: ...
    async def table(
        self, group: str, version: str, resource: str, *, name: str = "", selection: Selection = Selection()
    ) -> resources_pb2.Table: ...
    def watch_table(
        self, group: str, version: str, resource: str, *, selection: Selection = Selection(), resource_version: str = ""
    ) -> AsyncIterator[TableBatch]:
        """Tables of what changes, each with the event type of every row."""
        ...

    async def call(self, path: str, request: Message) -> Any:
        """A unary RPC that has no method here, by its path: "/wherry.v1.Keys/List"."""
        ...

    async def server_status(self) -> meta_v1_pb2.Status:
        """Success when the server is healthy (grpc.health.v1)."""
        ...

    async def close(self) -> None: ...
