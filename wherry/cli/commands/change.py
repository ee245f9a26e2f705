"""`label`, `annotate`, `delete`, `wait`: small changes to objects named on the command line, and waiting for theirs."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from wherry.api import codec, jsonpath
from wherry.api.errors import APIError, Expired, NotFound
from wherry.cli.commands.get import list_all
from wherry.cli.commands.streams import seconds_of
from wherry.cli.completion import complete_words
from wherry.cli.manifests import read_manifests
from wherry.cli.options import (
    AllNamespaces,
    DryRun,
    FieldSelector,
    Filename,
    Namespace,
    Recursive,
    Selector,
    Timeout,
    check_dry_run,
)
from wherry.cli.resources import Target, UsageError, full_name, message_class
from wherry.cli.session import Session, describe_error, run
from wherry.cli.watching import watching
from wherry.client.base import DeleteOptions, Selection

# (target with its name, namespace, uid or "")
Found = tuple[Target, str, str]


async def find_objects(
    session: Session, words: Sequence[str], filename: Sequence[str], *, recursive: bool, namespace: str,
    all_namespaces: bool, selector: str, field_selector: str = "", everything: bool = False,
) -> list[Found]:  # fmt: skip
    """The objects that files, names or selectors mean; named ones are not looked up."""
    catalogue = await session.catalogue()
    scope = session.namespace(namespace, all_namespaces=all_namespaces)
    if filename:
        if words:
            raise UsageError("when files are given (-f), names are not")
        found = []
        for item in read_manifests(filename, recursive=recursive):
            resource = catalogue.find_kind(item.api_version, item.kind)
            place = (item.namespace or session.namespace(namespace)) if resource.namespaced else ""
            found.append((Target(resource, item.name), place, ""))
        return found
    targets = catalogue.targets(words)
    named = all(target.name for target in targets)
    if named:
        if selector or field_selector or everything:
            raise UsageError("name cannot be provided when a selector is specified")
        return [(target, session.namespace(namespace) if target.resource.namespaced else "", "") for target in targets]
    if not (selector or field_selector or everything):
        raise UsageError("resource(s) were provided, but no name was specified: name them, or use -l or --all")
    found = []
    for target in targets:
        selection = Selection(scope if target.resource.namespaced else "", selector, field_selector)
        items, _ = await list_all(session.client, message_class(target.resource), selection)
        for item in items:
            found.append((Target(target.resource, item.metadata.name), item.metadata.namespace, item.metadata.uid))
    return found


def parse_changes(
    words: Sequence[str], what: str, *, may_be_none: bool = False
) -> tuple[list[str], dict[str, str | None]]:
    """Splits `pods web a=b c-` into the names and the changes (None removes)."""
    names = list(words)
    changes: dict[str, str | None] = {}
    while names:
        word = names[-1]
        key, equals, value = word.partition("=")
        if equals and key:
            changes.setdefault(key, value)
        elif word.endswith("-") and "/" not in word.split("/")[0] and len(word) > 1 and not equals and len(names) > 1:
            changes.setdefault(word[:-1], None)
        else:
            break
        names.pop()
    if not changes and not may_be_none:
        raise UsageError(f"at least one {what} update is required: KEY=VALUE to set, KEY- to remove")
    return names, changes


def _metadata_command(field: str, what: str) -> Callable[..., None]:
    past = {"labels": "labeled", "annotations": "annotated"}[field]

    def command(
        words: Annotated[
            list[str],
            typer.Argument(metavar="TYPE NAME | TYPE/NAME KEY=VALUE... KEY-...", autocompletion=complete_words),
        ],
        filename: Filename = [],  # noqa: B006
        recursive: Recursive = False,
        namespace: Namespace = "",
        all_namespaces: AllNamespaces = False,
        selector: Selector = "",
        everything: Annotated[bool, typer.Option("--all", help="Every object of the type.")] = False,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Also change a value that is there.")] = False,
        dry_run: DryRun = "none",
        show: Annotated[bool, typer.Option("--list", help="Show them, after the changes if there are any.")] = False,
    ) -> None:
        async def work(session: Session) -> int:
            mark = check_dry_run(dry_run)
            names, changes = parse_changes(words, what, may_be_none=show)
            found = await find_objects(
                session, names, filename, recursive=recursive, namespace=namespace, all_namespaces=all_namespaces,
                selector=selector, everything=everything,
            )  # fmt: skip
            for target, place, _ in found:
                cls: type[Any] = message_class(target.resource)
                current = await session.client.get(cls, target.name, place)
                there = dict(getattr(current.metadata, field))
                label = f"{full_name(target.resource)}/{target.name}"
                for key, value in changes.items():
                    if value is not None and key in there and there[key] != value and not overwrite:
                        raise UsageError(f"'{key}' already has a value ({there[key]}), and --overwrite is false")
                wanted = {key: value for key, value in changes.items() if there.get(key) != value}
                missing = [key for key, value in changes.items() if value is None and key not in there]
                for key in missing:
                    print(f'{what} "{key}" not found.', file=sys.stderr)
                if wanted and dry_run != "client":
                    patch = {"metadata": {field: wanted, "resourceVersion": current.metadata.resource_version}}
                    current = await session.client.patch(
                        cls, target.name, place, patch, dry_run=dry_run == "server", field_manager=f"wherry-{what}"
                    )
                removed = all(value is None for value in wanted.values())
                done = {"labels": "unlabeled"}.get(field, past) if wanted and removed else past
                if changes:
                    print(f"{label} {done if wanted else 'not ' + past}{mark}")
                if show:
                    if not changes:
                        print(f"Listing {field} for {label}:")
                    for key, value in sorted(getattr(current.metadata, field).items()):
                        print(f"  {key}={value}")
            return 0

        run(work)

    command.__doc__ = f"Set or remove {field} of objects."
    return command


label = _metadata_command("labels", "label")
annotate = _metadata_command("annotations", "annotation")


def delete(
    words: Annotated[
        list[str], typer.Argument(metavar="TYPE NAME... | TYPE/NAME...", autocompletion=complete_words)
    ] = [],  # noqa: B006
    filename: Filename = [],  # noqa: B006
    recursive: Recursive = False,
    namespace: Namespace = "",
    all_namespaces: AllNamespaces = False,
    selector: Selector = "",
    field_selector: FieldSelector = "",
    everything: Annotated[bool, typer.Option("--all", help="Every object of the type.")] = False,
    cascade: Annotated[str, typer.Option("--cascade", help="background, foreground or orphan.")] = "background",
    grace_period: Annotated[int, typer.Option("--grace-period", help="Seconds; -1 is the object's own.")] = -1,
    force: Annotated[
        bool, typer.Option("--force", help="With --grace-period=0: without waiting for the node.")
    ] = False,
    now: Annotated[bool, typer.Option("--now", help="The same as --grace-period=1.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until they are gone.")] = True,
    ignore_not_found: Annotated[bool, typer.Option("--ignore-not-found", help="Nothing there is no error.")] = False,
    dry_run: DryRun = "none",
    output: Annotated[str, typer.Option("--output", "-o", help='"name" for short lines.')] = "",
    timeout: Timeout = "0",
) -> None:
    """Delete objects."""

    async def work(session: Session) -> int:
        mark = check_dry_run(dry_run)
        policies = {"background": "Background", "foreground": "Foreground", "orphan": "Orphan"}
        if cascade not in policies:
            raise UsageError(f'invalid cascade value ({cascade}): must be "background", "foreground", or "orphan"')
        grace = 1 if now else grace_period
        if force and grace < 0:
            grace = 0
        if grace == 0 and not force:
            grace = 1  # as kubectl: immediate deletion must be asked for with --force
        if force and grace == 0:
            print(
                "Warning: Immediate deletion does not wait for confirmation that the running resource has been "
                "terminated. The resource may continue to run on the cluster indefinitely.",
                file=sys.stderr,
            )
        found = await find_objects(
            session, words, filename, recursive=recursive, namespace=namespace, all_namespaces=all_namespaces,
            selector=selector, field_selector=field_selector, everything=everything,
        )  # fmt: skip
        if not found and not ignore_not_found:
            print("No resources found", file=sys.stderr)
        going: list[Found] = []
        code = 0
        absent_is_fine = ignore_not_found or bool(selector or field_selector or everything)
        for target, place, uid in found:
            options = DeleteOptions(
                grace_period_s=grace if grace >= 0 else None, propagation_policy=policies[cascade], uid=uid,
                dry_run=dry_run == "server",
            )  # fmt: skip
            cls: type[Any] = message_class(target.resource)
            try:
                if dry_run != "client":
                    left = await session.client.delete(cls, target.name, place, options)
                    if left is not None:
                        going.append((target, place, left.metadata.uid))
            except APIError as error:
                if isinstance(error, NotFound) and absent_is_fine:
                    continue
                print(describe_error(error, session.server), file=sys.stderr)
                code = 1
                continue
            if output == "name":
                print(f"{full_name(target.resource)}/{target.name}", flush=True)
                continue
            how = " force deleted" if force and grace == 0 else " deleted"
            where = f" from {place} namespace" if place else ""
            print(f'{full_name(target.resource)} "{target.name}"{how}{where}{mark}', flush=True)
        if wait and going and dry_run == "none" and not (force and grace == 0):
            limit = seconds_of(timeout, "--timeout") or None
            try:
                await asyncio.wait_for(asyncio.gather(*(until_gone(session, *item) for item in going)), limit)
            except TimeoutError:
                print("error: timed out waiting for the condition on the deleted objects", file=sys.stderr)
                return 1
        return code

    run(work)


async def until_gone(session: Session, target: Target, namespace: str, uid: str) -> None:
    """Until no object of this name and uid is there. Watches, so that it costs the server one event."""
    cls: type[Any] = message_class(target.resource)
    selection = Selection(namespace, field_selector=f"metadata.name={target.name}")
    while True:
        # Its own version may be older than what the server can begin at: the list's is of now.
        try:
            items, since = await list_all(session.client, cls, selection)
        except NotFound:
            return  # its kind has gone
        if not any(uid in ("", item.metadata.uid) for item in items):
            return
        with contextlib.suppress(Expired):  # away for long: look anew
            async with contextlib.aclosing(watching(session, cls, selection, since)) as batches:
                async for batch in batches:
                    if any(event.type == "DELETED" for event in batch.events):
                        return


def condition_met(wanted: str) -> tuple[str, Callable[[dict[str, Any]], bool]]:
    """What `--for` means: (how it is told, predicate over the JSON form). `delete` has the predicate never."""
    if wanted in ("delete", "create"):
        return wanted, lambda value: wanted == "create"
    form, _, rest = wanted.partition("=")
    if form == "condition":
        name, _, state = rest.partition("=")
        state = state or "True"

        def holds(value: dict[str, Any]) -> bool:
            status = value.get("status", {})
            generation = value.get("metadata", {}).get("generation", 0)
            if status.get("observedGeneration", generation) < generation:
                return False
            return any(
                condition.get("type", "").lower() == name.lower()
                and condition.get("status", "").lower() == state.lower()
                for condition in status.get("conditions", [])
            )

        return f"condition {name}={state}", holds
    if form == "jsonpath":
        match = re.match(r"^['\"]?(\{.*\})['\"]?(?:=(.*))?$", rest)
        if match is None:
            raise UsageError(f"--for={wanted}: write jsonpath='{{.status.phase}}'=Running")
        path, expected = match[1][1:-1], match[2]

        def equal(value: dict[str, Any]) -> bool:
            found = jsonpath.find(path, value)
            return bool(found) and (expected is None or jsonpath.text_of(found[0]) == expected.strip("'\""))

        return f"jsonpath {path}", equal
    raise UsageError(f'unrecognized condition: "{wanted}" (use condition=NAME, jsonpath=..., delete or create)')


def wait(
    words: Annotated[
        list[str], typer.Argument(metavar="TYPE NAME... | TYPE/NAME...", autocompletion=complete_words)
    ] = [],  # noqa: B006
    for_: Annotated[
        str, typer.Option("--for", help="condition=Ready, jsonpath='{.status.phase}'=Running, delete, create")
    ] = "",
    filename: Filename = [],  # noqa: B006
    recursive: Recursive = False,
    namespace: Namespace = "",
    all_namespaces: AllNamespaces = False,
    selector: Selector = "",
    field_selector: FieldSelector = "",
    everything: Annotated[bool, typer.Option("--all", help="Every object of the type.")] = False,
    timeout: Timeout = "30s",
) -> None:
    """Wait until objects have a condition, or are gone."""

    async def work(session: Session) -> int:
        if not for_:
            raise UsageError("--for is required: condition=NAME, jsonpath=..., delete or create")
        told, predicate = condition_met(for_)
        found = await find_objects(
            session, words, filename, recursive=recursive, namespace=namespace, all_namespaces=all_namespaces,
            selector=selector, field_selector=field_selector, everything=everything,
        )  # fmt: skip
        if not found:
            if told == "delete":
                return 0
            raise UsageError("no matching resources found")
        limit = seconds_of(timeout, "--timeout") or None
        results = await asyncio.gather(*(_wait_one(session, item, told, predicate, limit) for item in found))
        return max(results)

    run(work)


async def _wait_one(
    session: Session, item: Found, told: str, predicate: Callable[[dict[str, Any]], bool], limit: float | None
) -> int:
    target, place, uid = item
    name = f"{full_name(target.resource)}/{target.name}"
    try:
        if told == "delete":
            await asyncio.wait_for(until_gone(session, target, place, uid), limit)
        else:
            await asyncio.wait_for(_until(session, target, place, predicate, may_be_absent=told == "create"), limit)
    except TimeoutError:
        print(f"error: timed out waiting for the condition on {name}", file=sys.stderr)
        return 1
    print(f"{name} condition met", flush=True)
    return 0


async def _until(
    session: Session,
    target: Target,
    namespace: str,
    predicate: Callable[[dict[str, Any]], bool],
    *,
    may_be_absent: bool,
) -> None:
    cls: type[Any] = message_class(target.resource)
    if not may_be_absent:
        await session.client.get(cls, target.name, namespace)  # NotFound is the answer, not a reason to wait
    selection = Selection(namespace, field_selector=f"metadata.name={target.name}")
    deleted = UsageError(f"{full_name(target.resource)}/{target.name} was deleted while it was waited for")
    while True:
        # Listed, not watched from the start: also where nothing is there yet, there is a version to go on from.
        items, since = await list_all(session.client, cls, selection)
        if any(predicate(codec.to_dict(item)) for item in items):
            return
        if not items and not may_be_absent:
            raise deleted
        with contextlib.suppress(Expired):  # away for long: look anew
            async with contextlib.aclosing(watching(session, cls, selection, since)) as batches:
                async for batch in batches:
                    for event in batch.events:
                        if event.type == "DELETED" and not may_be_absent:
                            raise deleted
                        if event.type in ("ADDED", "MODIFIED") and predicate(codec.to_dict(event.object)):
                            return
