"""Second versions of kinds: other shapes of the very same stored objects, converted on the way in and out.

`find` and `of` say which there are; `registry` asks them and converts what it takes and gives. A conversion is a pair of pure
functions in a module here, imported when somebody speaks that version.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from controlplane.registry import patches
from controlplane.registry.base import (
    ListOptions,
    ListResult,
    RequestContext,
    Stored,
    WatchBatch,
    WatchEvent,
    WatchOptions,
)
from wherry.api import codec, fields, jsontext, kinds, yamltext
from wherry.api.errors import BadRequest, Cause
from wherry.api.kinds import Kind

Options = TypeVar("Options", ListOptions, WatchOptions)


def _no_causes(obj: Any) -> list[Cause]:
    return []


@dataclass(frozen=True, slots=True)
class View:
    """`to_primary` and `from_primary` get a message and give a fresh one of the other version. `field_names`: selectable fields
    of this version by what they are called in the primary one. `check` finds what only this version refuses in a new object."""

    kind: Kind
    primary: Kind
    to_primary: Callable[[Any], Any]
    from_primary: Callable[[Any], Any]
    field_names: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Any], list[Cause]] = _no_causes

    def shown(self, stored: Stored) -> Stored:
        """The object in this version; kept with the revision that it is of."""
        memo: dict[Any, Any] = stored.memo.setdefault(f"as {self.kind.api_version}", {})
        value = memo.get("value")
        if value is None:
            obj = self.from_primary(stored.kind.message.FromString(stored.value))
            value = memo["value"] = obj.SerializeToString(deterministic=True)
        return Stored(self.kind, value, stored.revision, memo)

    def hidden(self, stored: Stored) -> Stored:
        """Back again: what tables are made of."""
        obj = self.to_primary(self.kind.message.FromString(stored.value))
        return Stored(self.primary, obj.SerializeToString(deterministic=True), stored.revision, {})

    def shown_list(self, listed: ListResult) -> ListResult:
        return replace(listed, items=[self.shown(stored) for stored in listed.items])

    async def shown_watch(self, batches: AsyncIterator[WatchBatch]) -> AsyncIterator[WatchBatch]:
        closing: Any = batches
        async with aclosing(closing):
            async for batch in batches:
                events = [WatchEvent(event.type, self.shown(event.stored)) for event in batch.events]
                yield WatchBatch(events, batch.revision)

    def options(self, options: Options) -> Options:
        """With the fields of the selector as the primary version calls them."""
        if not options.field_selector:
            return options
        terms = []
        for term in fields.parse(options.field_selector).terms:
            if not term.field.startswith("metadata.") and term.field not in self.field_names:
                raise BadRequest(f"field label not supported: {term.field}")
            terms.append(replace(term, field=self.field_names.get(term.field, term.field)))
        return replace(options, field_selector=str(fields.Selector(tuple(terms))))

    def patch(self, patch_type: str, change: Any, ctx: RequestContext) -> Callable[[Any], Any]:
        """What `writes` does to the stored object: the patch is of this version."""

        def way(current: Any) -> Any:
            out = patches.patched(self.kind, self.kind.message, self.from_primary(current), patch_type, change, ctx)
            if out.metadata.resource_version == current.metadata.resource_version:
                out.metadata.resource_version = ""  # the patch does not speak of it
            return self.to_primary(out)

        return way

    def configuration(self, body: bytes) -> bytes:
        """An apply configuration of this version as one of the primary version. Raises BadRequest."""
        text = jsontext.text_of(body)
        config = jsontext.parse(body)[0] if text.lstrip()[:1] == "{" else yamltext.parse(text).value
        if not isinstance(config, dict) or config.get("apiVersion") != self.kind.api_version:
            return body  # what is wrong with it is said by whoever reads it
        obj = self.to_primary(codec.from_dict(config, self.kind.message, strict=True))
        given = codec.to_dict(obj)
        if "status" not in config:
            given.pop("status", None)
        return json.dumps({**given, "apiVersion": self.primary.api_version, "kind": self.primary.kind}).encode()


# (group, version, plural) -> (the primary version and kind, the module here)
_VIEWS: Mapping[tuple[str, str, str], tuple[str, str, str]] = {
    ("autoscaling", "v1", "horizontalpodautoscalers"): ("autoscaling/v2", "HorizontalPodAutoscaler", "autoscaling"),
    ("events.k8s.io", "v1", "events"): ("v1", "Event", "events"),
}
_LOADED: dict[tuple[str, str, str], View] = {}


def find(group: str, version: str, plural: str) -> View | None:
    key = (group, version, plural)
    if key not in _VIEWS:
        return None
    if key not in _LOADED:
        api_version, kind_name, name = _VIEWS[key]
        module: Any = importlib.import_module(f"{__name__}.{name}")
        own = kinds.by_resource(group, version, plural)
        assert own is not None
        primary = kinds.by_name(api_version, kind_name)
        _LOADED[key] = View(
            own, primary, module.to_primary, module.from_primary, module.FIELD_NAMES, module.check
        )  # fmt: skip
    return _LOADED[key]


def of(kind: Kind) -> View | None:
    return find(kind.group, kind.version, kind.plural)


def everything() -> Sequence[Kind]:
    """For discovery."""
    return [view.kind for key in _VIEWS if (view := find(*key)) is not None]
