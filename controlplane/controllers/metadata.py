"""A client that keeps only the metadata of what it lists and watches, for informers that need no more.

The garbage collector watches every kind; whole objects of all kinds would double the memory of the control plane.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeVar

from google.protobuf.message import Message

from wherry.client.base import ClientAPI, Page, Selection, WatchBatch, WatchEvent

M = TypeVar("M", bound=Message)
_EVERYTHING = Selection()


class MetadataClient:
    """Only what an `Informer` calls."""

    def __init__(self, client: ClientAPI) -> None:
        self._client = client

    async def list(
        self, cls: type[M], selection: Selection = _EVERYTHING, *, limit: int = 0, continue_token: str = ""
    ) -> Page[M]:
        page = await self._client.list(cls, selection, limit=limit, continue_token=continue_token)
        page.items = [_stripped(obj) for obj in page.items]
        return page

    async def watch(
        self, cls: type[M], selection: Selection = _EVERYTHING, *, resource_version: str = "", bookmarks: bool = False
    ) -> AsyncIterator[WatchBatch[M]]:
        stream: Any = self._client.watch(cls, selection, resource_version=resource_version, bookmarks=bookmarks)
        try:
            async for batch in stream:
                events = [WatchEvent(event.type, _stripped(event.object)) for event in batch.events]
                yield WatchBatch(events, batch.resource_version)
        finally:
            await stream.aclose()


def _stripped(obj: M) -> M:
    """A fresh message: a sub-message of the old one would keep all of it alive."""
    whole: Any = obj
    bare: Any = type(obj)()
    for field in ("name", "namespace", "uid", "resource_version"):
        setattr(bare.metadata, field, getattr(whole.metadata, field))
    bare.metadata.finalizers.extend(whole.metadata.finalizers)
    bare.metadata.owner_references.extend(whole.metadata.owner_references)
    if whole.metadata.HasField("deletion_timestamp"):
        bare.metadata.deletion_timestamp.CopyFrom(whole.metadata.deletion_timestamp)
    stripped: M = bare
    return stripped
