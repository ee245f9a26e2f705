"""The patch and apply verbs: from a body to the object that is to be written. The writing is `writes`'. Called by `registry`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message

from controlplane.registry import violations
from controlplane.registry.base import RequestContext, Stored
from controlplane.registry.keys import key as key_of
from controlplane.registry.state import Served, State
from controlplane.registry.writes import Writer, not_found
from wherry.api import apply as server_apply
from wherry.api import codec, fieldsets, jsontext, lastapplied, patch, schema, strategic, yamltext
from wherry.api.errors import APIError, BadRequest, Conflict, UnsupportedMediaType
from wherry.api.kinds import CustomKind, Kind

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
_APPLY_TRIES = 5
_LARGE = ("spec", "status")  # the parts of an object that have most of it


def parse(patch_type: str, body: bytes, kind: Kind) -> Any:
    """The patch as plain values. Raises UnsupportedMediaType, BadRequest."""
    accepted = [JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH]
    if isinstance(kind, CustomKind):
        accepted.remove(STRATEGIC_PATCH)  # its rules are those of the built-in kinds' fields
    if patch_type not in accepted or patch_type == APPLY_PATCH:
        raise UnsupportedMediaType(
            f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
        )
    value, _ = jsontext.parse(body)
    if patch_type == JSON_PATCH:
        if not isinstance(value, list):
            raise BadRequest("a JSON patch is a list of operations")
    elif not isinstance(value, dict):
        raise BadRequest("a patch of an object is an object")
    return value


def patched(kind: Kind, cls: type[Message], obj: Any, patch_type: str, change: Any, ctx: RequestContext) -> Any:
    """The object after the patch. `obj` is not changed."""
    aside = _aside(cls, obj, patch_type, change)
    if aside:
        rest = cls()
        rest.CopyFrom(obj)
        for name in aside:
            rest.ClearField(name)
        out = _patched(kind, cls, rest, patch_type, change, ctx, aside)
        for name in aside:
            getattr(out, name).CopyFrom(getattr(obj, name))
        return out
    return _patched(kind, cls, obj, patch_type, change, ctx, ())


def _aside(cls: type[Message], obj: Any, patch_type: str, change: Any) -> list[str]:
    """The large parts of which the patch does not speak: it need not see them. Directives may speak of the whole."""
    if patch_type == JSON_PATCH or any(key.startswith("$") for key in change):
        return []
    fields = cls.DESCRIPTOR.fields_by_name
    return [
        name
        for name in _LARGE
        if name in fields and fields[name].message_type is not None and name not in change and obj.HasField(name)
    ]


def _patched(
    kind: Kind, cls: type[Message], obj: Any, patch_type: str, change: Any, ctx: RequestContext, without: Sequence[str]
) -> Any:
    """`without`: what has been taken out of `obj`, and is not as if it were empty."""
    value = codec.to_dict(obj)
    for name in without:
        value.pop(name, None)
    value.setdefault("apiVersion", kind.api_version)
    value.setdefault("kind", cls.DESCRIPTOR.name if cls is not kind.message else kind.kind)
    if patch_type == JSON_PATCH:
        out = patch.apply_json_patch(value, change)
    elif patch_type == MERGE_PATCH:
        out = patch.merge(value, change)
    else:
        out = strategic.apply(value, change, schema.descriptor_of(cls))
    try:
        return _decode_changed(out, value, obj, cls, ctx)
    except codec.DecodeError as error:
        if error.problems[0].code in ("unknown", "duplicate"):
            raise  # strict field validation, which is a matter of the request
        cause = violations.invalid("patch", change, error.message)
        name = value.get("metadata", {}).get("name", "")
        raise violations.invalid_object(kind.group, kind.kind, name, [cause]) from error


def _decode_changed(out: Any, before: dict[str, Any], obj: Any, cls: type[Message], ctx: RequestContext) -> Any:
    """As `decode`, but the large parts that the patch left alone are taken from `obj`, of which `before` was made."""
    same = []
    if isinstance(out, dict):
        fields = cls.DESCRIPTOR.fields_by_name
        same = [
            name
            for name in _LARGE
            if name in fields and fields[name].message_type is not None and obj.HasField(name) and name in out
            if patch.identical(out[name], before.get(name))
        ]
        out = {key: item for key, item in out.items() if key not in same}
    made = decode(out, cls, ctx)
    for name in same:
        getattr(made, name).CopyFrom(getattr(obj, name))
    return made


def decode(value: Any, cls: type[Message], ctx: RequestContext) -> Any:
    """A message of what a patch made, under the field validation that the client asked for."""
    if not isinstance(value, dict):
        raise BadRequest("the patched object is no object")
    strict = ctx.field_validation == "Strict"
    warnings: list[str] | None = ctx.warnings if ctx.field_validation == "Warn" else None
    if cls.DESCRIPTOR.name == "Scale":
        value = {key: item for key, item in value.items() if key not in ("apiVersion", "kind")}
    return codec.from_dict(value, cls, strict=strict, warnings=warnings)


class Patcher:
    def __init__(self, state: State, writer: Writer) -> None:
        self._state = state
        self._writer = writer

    async def patch(
        self,
        ctx: RequestContext,
        served: Served,
        namespace: str,
        name: str,
        patch_type: str,
        body: bytes,
        subresource: str,
    ) -> Stored:
        kind = served.kind
        change = parse(patch_type, body, kind)

        def apply_to(current: Any) -> Any:
            out = patched(kind, kind.message, current, patch_type, change, ctx)
            if out.metadata.resource_version == current.metadata.resource_version:
                # The patch does not speak of it: it goes on top of whatever is there.
                out.metadata.resource_version = (
                    "" if served.strategy.unconditional_update else current.metadata.resource_version
                )
            return out

        return await self._writer.change(ctx, served, namespace, name, apply_to, subresource)

    async def apply(
        self, ctx: RequestContext, served: Served, namespace: str, name: str, body: bytes, force: bool, subresource: str
    ) -> tuple[Stored, bool]:
        config = self._configuration(served, namespace, name, body)
        if not ctx.field_manager:
            cause = violations.required("fieldManager", "is required for apply patch")
            raise violations.invalid_object("meta.k8s.io", "PatchOptions", "", [cause])
        for _ in range(_APPLY_TRIES):
            entry = await self._state.current(served, key_of(served.kind, namespace, name))
            if entry is not None:
                return await self._apply_to(ctx, served, namespace, name, config, force, subresource), False
            wanted = config.get("metadata", {}).get("resourceVersion")
            if subresource or wanted not in (None, "", "0"):
                raise not_found(served.kind, name)
            obj = self._applied(ctx, served, None, config, force, subresource)
            try:
                return await self._writer.create(ctx, served, namespace, obj, applied=True), True
            except APIError as error:
                if error.reason != "AlreadyExists":
                    raise
        raise Conflict(f'{served.kind.group_resource} "{name}" comes and goes while it is being applied; try again')

    async def _apply_to(
        self, ctx: RequestContext, served: Served, namespace: str, name: str, config: Any, force: bool, subresource: str
    ) -> Stored:
        def apply_to(current: Any) -> Any:
            wanted = config.get("metadata", {}).get("resourceVersion") or ""
            out = self._applied(ctx, served, current, config, force, subresource)
            out.metadata.resource_version = wanted
            if not wanted and not served.strategy.unconditional_update:
                out.metadata.resource_version = current.metadata.resource_version
            return out

        return await self._writer.change(ctx, served, namespace, name, apply_to, subresource, applied=True)

    def _applied(
        self, ctx: RequestContext, served: Served, live: Any | None, config: Any, force: bool, subresource: str
    ) -> Any:
        ignore = fieldsets.EMPTY
        if not subresource and served.strategy.has_status:
            ignore = server_apply.IGNORE_STATUS
        undeclared = served.strategy.undeclared(config)
        if undeclared:
            meta = config.get("metadata", {})
            where = f"{meta.get('namespace', '')}/{meta.get('name', '')}; {config['apiVersion']}, Kind={config['kind']}"
            message = f"failed to create typed patch object ({where}): .{undeclared}: field not declared in schema"
            raise BadRequest(message)
        return lastapplied.apply(
            live,
            config,
            served.kind.message,
            manager=ctx.field_manager,
            now=self._state.env.now(),
            force=force,
            subresource=subresource,
            kind=served.strategy.merge_type,
            ignore=ignore,
            strict=ctx.field_validation != "Ignore",
            warnings=ctx.warnings,
        )

    def _configuration(self, served: Served, namespace: str, name: str, body: bytes) -> dict[str, Any]:
        text = jsontext.text_of(body)
        config = jsontext.parse(body)[0] if text.lstrip()[:1] == "{" else yamltext.parse(text).value
        if not isinstance(config, dict):
            raise BadRequest("error decoding YAML: an apply configuration is an object")
        api_version, kind_name = str(config.get("apiVersion") or ""), str(config.get("kind") or "")
        kind = served.kind
        if (api_version, kind_name) != (kind.api_version, kind.kind):
            group, _, version = api_version.rpartition("/")
            raise BadRequest(f"invalid object type: {group}/{version}, Kind={kind_name}")
        meta = config.get("metadata")
        if not isinstance(meta, dict):
            meta = {}
        for field, value, where in (("name", name, "name"), ("namespace", namespace, "namespace")):
            found = meta.get(field)
            if found and found != value:
                if where == "name":
                    raise BadRequest(f"the name of the object ({found}) does not match the name on the URL ({name})")
                raise BadRequest(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
        meta = {**meta, "name": name}
        if kind.namespaced:
            meta["namespace"] = namespace
        return {**config, "metadata": meta}
