"""`apply` and `diff`: bring the cluster to what the manifests say.

Client-side apply is kubectl's three-way merge, with the same annotation, so both tools can be used on the same objects:
what was applied last, what the file says now and what is on the server give one patch. `--server-side` leaves the merge to the
server.
"""

from __future__ import annotations

import difflib
import json
import sys
from typing import Annotated, Any

import typer

from wherry.api import codec, kinds, labels, lastapplied, strategic, strategic_diff, yamlout
from wherry.api import patch as merging
from wherry.api.errors import APIError, Conflict, NotFound
from wherry.cli import output as printing
from wherry.cli.commands.get import list_all
from wherry.cli.manifests import Item, read_manifests
from wherry.cli.options import (
    DRY_RUN_MARKS,
    DryRun,
    FieldManager,
    Filename,
    Namespace,
    Output,
    Recursive,
    Selector,
    check_dry_run,
)
from wherry.cli.resources import Catalogue, Target, UsageError, full_name, message_class
from wherry.cli.session import Session, describe_error, run, try_get, warn
from wherry.client.base import DeleteOptions, Selection

LAST_APPLIED = lastapplied.ANNOTATION
STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
RETRIES = 5


class ApplyResult:
    """What became of one item: the word that is printed, and the object where there is one."""

    def __init__(self, target: Target, namespace: str, word: str, obj: Any) -> None:
        self.target = target
        self.namespace = namespace
        self.word = word
        self.obj = obj


def prepared(
    item: Item, catalogue: Catalogue, namespace: str, default_namespace: str
) -> tuple[Target, str, dict[str, Any]]:
    """The target, its namespace and the value to apply. Raises UsageError when the namespaces contradict each other."""
    resource = catalogue.find_kind(item.api_version, item.kind)
    value: dict[str, Any] = json.loads(json.dumps(item.value))
    metadata = value.setdefault("metadata", {})
    place = ""
    if resource.namespaced:
        if namespace and item.namespace and namespace != item.namespace:
            raise UsageError(
                f'the namespace from the provided object "{item.namespace}" does not match the namespace "{namespace}". '
                f"You must pass '--namespace={item.namespace}' to perform this operation."
            )
        place = item.namespace or namespace or default_namespace
        metadata["namespace"] = place
    if not item.name:
        raise UsageError(
            f"{item.source}: {item.kind} with metadata.generateName cannot be applied: give it a metadata.name"
        )
    return Target(resource, item.name), place, value


def with_annotation(value: dict[str, Any]) -> dict[str, Any]:
    """The value carrying itself (without that annotation) as what was applied last, as kubectl writes it."""
    result: dict[str, Any] = json.loads(json.dumps(value))
    annotations = result["metadata"].get("annotations") or {}
    annotations.pop(LAST_APPLIED, None)
    result["metadata"]["annotations"] = annotations
    annotations[LAST_APPLIED] = lastapplied.text_of(result)
    return result


def last_applied(obj: Any) -> dict[str, Any]:
    text = obj.metadata.annotations.get(LAST_APPLIED, "")
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


async def apply_one(
    session: Session, target: Target, namespace: str, value: dict[str, Any], *, dry_run: str, field_manager: str
) -> ApplyResult:
    cls: type[Any] = message_class(target.resource)
    modified = with_annotation(value)
    for attempt in range(RETRIES):
        current = await try_get(session.client, cls, target.name, namespace)
        try:
            if current is None:
                obj = codec.from_dict(modified, cls)
                if dry_run != "client":
                    obj = await session.client.create(obj, dry_run=dry_run == "server", field_manager=field_manager)
                return ApplyResult(target, namespace, "created", obj)
            if LAST_APPLIED not in current.metadata.annotations:
                warn(
                    f"resource {target.resource.plural}/{target.name} is missing the {LAST_APPLIED} annotation which is "
                    "required by apply. It will be patched automatically."
                )
            there = codec.to_dict(current)
            patch, patched, patch_type = three_way(cls, last_applied(current), modified, there)
            merged = codec.from_dict(patched, cls)
            # Compared as messages: a cpu of 0.5 is the 500m that the server has.
            if merged == current:
                return ApplyResult(target, namespace, "unchanged", current)
            if dry_run == "client":
                return ApplyResult(target, namespace, "configured", merged)
            obj = await session.client.patch(
                cls, target.name, namespace, patch, patch_type=patch_type, dry_run=dry_run == "server",
                field_manager=field_manager,
            )  # fmt: skip
            return ApplyResult(target, namespace, "configured", obj)
        except (Conflict, NotFound):
            # Changed or deleted between reading and writing: look again.
            if attempt == RETRIES - 1:
                raise
    raise AssertionError("unreachable")


def three_way(cls: type[Any], last: Any, modified: Any, current: Any) -> tuple[dict[str, Any], Any, str]:
    """The patch, what it makes of the object, and its type. How the lists of a custom resource merge only the server knows, so
    there they are replaced."""
    if isinstance(cls, kinds.DynamicClass):
        patch = merging.create_three_way_merge_patch(last, modified, current)
        return patch, merging.merge(current, patch), MERGE
    patch = strategic_diff.create_three_way(last, modified, current, cls.DESCRIPTOR)
    return patch, strategic.apply(current, patch, cls.DESCRIPTOR), STRATEGIC


def apply(
    filename: Filename = [],  # noqa: B006
    recursive: Recursive = False,
    namespace: Namespace = "",
    selector: Selector = "",
    output: Output = "",
    dry_run: DryRun = "none",
    server_side: Annotated[bool, typer.Option("--server-side", help="Let the server merge and track owners.")] = False,
    force_conflicts: Annotated[bool, typer.Option("--force-conflicts", help="Take fields from other owners.")] = False,
    field_manager: FieldManager = "",
    validate: Annotated[
        str, typer.Option("--validate", help="strict, warn or ignore what the schema does not know.")
    ] = "strict",
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete what was applied with this label and is not there now.")
    ] = False,
) -> None:
    """Create or change objects until they are as the manifests say."""

    async def work(session: Session) -> int:
        if not filename:
            raise UsageError("must specify one of -f FILE, -f DIRECTORY, -f URL or -f -")
        check_dry_run(dry_run)
        if prune and not selector:
            raise UsageError("--prune needs -l: it deletes what has this label and is not in the manifests")
        if server_side and dry_run == "client":
            raise UsageError(
                "--dry-run=client doesn't work with --server-side (did you mean --dry-run=server instead?)"
            )
        if output:
            printing.check_format(output)
        warnings: list[str] = []
        items = read_manifests(filename, recursive=recursive, strict=validate in ("strict", "true"), warnings=warnings)
        if validate not in ("ignore", "false"):
            for warning in warnings:
                warn(warning)
        catalogue = await session.catalogue()
        if selector:
            matches = labels.parse(selector).predicate()
            items = [item for item in items if matches(dict(item.value.get("metadata", {}).get("labels") or {}))]
        plan = [prepared(item, catalogue, namespace, session.default_namespace) for item in items]
        manager = field_manager or ("wherry" if server_side else "wherry-client-side-apply")
        code = 0
        results = []
        for target, place, value in plan:
            try:
                if server_side:
                    result = await _apply_server_side(session, target, place, value, manager, force_conflicts, dry_run)
                else:
                    result = await apply_one(session, target, place, value, dry_run=dry_run, field_manager=manager)
            except APIError as error:
                print(describe_error(error, session.server), file=sys.stderr)
                code = 1
                continue
            results.append(result)
            if not output:
                print(f"{full_name(target.resource)}/{target.name} {result.word}{DRY_RUN_MARKS[dry_run]}", flush=True)
            elif output == "name":
                print(f"{full_name(target.resource)}/{target.name}", flush=True)
        if output and output != "name" and results:
            printing.print_values([printing.plain(result.obj) for result in results], output)
        if prune and not code:
            code = await _prune(session, catalogue, plan, selector, namespace, dry_run)
        return code

    run(work)


async def _apply_server_side(
    session: Session, target: Target, namespace: str, value: dict[str, Any], manager: str, force: bool, dry_run: str
) -> ApplyResult:
    cls: type[Any] = message_class(target.resource)
    body = json.dumps(value).encode()
    obj = await session.client.apply(
        body, cls, target.name, namespace, field_manager=manager, force=force, dry_run=dry_run == "server"
    )
    return ApplyResult(target, namespace, "serverside-applied", obj)


async def _prune(
    session: Session, catalogue: Catalogue, plan: list[tuple[Target, str, dict[str, Any]]], selector: str, namespace: str,
    dry_run: str,
) -> int:  # fmt: skip
    """Deletes what apply made under this label in the namespaces at hand and what the manifests no longer hold."""
    kept = {(target.resource.plural, target.resource.group, place, target.name) for target, place, _ in plan}
    places = sorted({place for _, place, _ in plan if place} | {namespace or session.default_namespace})
    for resource in catalogue.resources:
        if "delete" not in resource.verbs or resource.plural in ("events", "nodes", "leases"):
            continue
        for place in places if resource.namespaced else [""]:
            found, _ = await list_all(session.client, message_class(resource), Selection(place, selector))
            for item in found:
                metadata: Any = item.metadata
                if LAST_APPLIED not in metadata.annotations:
                    continue
                if (resource.plural, resource.group, metadata.namespace, metadata.name) in kept:
                    continue
                if dry_run != "client":
                    options = DeleteOptions(
                        uid=metadata.uid, dry_run=dry_run == "server", propagation_policy="Background"
                    )
                    await session.client.delete(message_class(resource), metadata.name, metadata.namespace, options)
                print(f"{full_name(resource)}/{metadata.name} pruned{DRY_RUN_MARKS[dry_run]}", flush=True)
    return 0


def diff(
    filename: Filename,
    recursive: Recursive = False,
    namespace: Namespace = "",
) -> None:
    """Show what apply would change; exit code 1 when there is something."""

    async def work(session: Session) -> int:
        items = read_manifests(filename, recursive=recursive)
        catalogue = await session.catalogue()
        different = False
        for item in items:
            target, place, value = prepared(item, catalogue, namespace, session.default_namespace)
            cls: type[Any] = message_class(target.resource)
            current = await try_get(session.client, cls, target.name, place)
            result = await apply_one(
                session, target, place, value, dry_run="server", field_manager="wherry-client-side-apply"
            )
            before = [] if current is None else _lines(current)
            after = _lines(result.obj)
            name = f"{item.api_version}.{item.kind}.{place}.{target.name}".replace("/", ".")
            text = list(difflib.unified_diff(before, after, f"live/{name}", f"merged/{name}"))
            if text:
                different = True
                _print_diff(text)
        return 1 if different else 0

    run(work)


def _lines(obj: Any) -> list[str]:
    value = printing.plain(obj)
    metadata = value.get("metadata", {})
    metadata.get("annotations", {}).pop(LAST_APPLIED, None)
    if not metadata.get("annotations", True):
        metadata.pop("annotations")
    for key in ("resourceVersion", "generation"):
        metadata.pop(key, None)
    return yamlout.dump(value).splitlines(keepends=True)


def _print_diff(lines: list[str]) -> None:
    colours = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m"} if sys.stdout.isatty() else {}
    for line in lines:
        colour = colours.get(line[:1], "")
        text = line if line.endswith("\n") else line + "\n"
        sys.stdout.write(f"{colour}{text.rstrip()}\x1b[0m\n" if colour else text)
