"""`wherry get`, `wherry events`, `wherry api-resources`: reading lists and objects."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import typer
from google.protobuf.message import Message

from wherry.api import codec
from wherry.api.errors import APIError, Expired
from wherry.cli import output as printing
from wherry.cli.completion import complete_words
from wherry.cli.manifests import read_manifests
from wherry.cli.options import AllNamespaces, FieldSelector, Filename, Namespace, Output, Recursive, Selector
from wherry.cli.output import TablePrinter, check_format, is_table, layout
from wherry.cli.resources import Target, UsageError, full_name, message_class
from wherry.cli.session import Session, describe_error, guarded, run, try_get
from wherry.cli.watching import resuming, watching
from wherry.client.base import ClientAPI, Selection, TableBatch
from wherry.pb import core_v1_pb2, resources_pb2

PAGE = 500  # objects a request, as kubectl's --chunk-size


async def list_all(client: ClientAPI, cls: type[Any], selection: Selection) -> tuple[list[Any], str]:
    """Every object of a selection, page by page, and the list's resourceVersion. An expired page starts anew."""
    while True:
        items: list[Any] = []
        token = ""
        try:
            while True:
                page = await client.list(cls, selection, limit=PAGE, continue_token=token)
                items.extend(page.items)
                token = page.continue_token
                if not token:
                    return items, page.resource_version
        except Expired:
            if not token:
                raise


def get(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="TYPE[/NAME] [NAME...]", help="pods, deploy/web, pods,svc, all", autocompletion=complete_words
        ),
    ] = [],  # noqa: B006
    filename: Filename = [],  # noqa: B006
    recursive: Recursive = False,
    namespace: Namespace = "",
    all_namespaces: AllNamespaces = False,
    selector: Selector = "",
    field_selector: FieldSelector = "",
    output: Output = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on with what changes.")] = False,
    watch_only: Annotated[bool, typer.Option("--watch-only", help="Only what changes from now on.")] = False,
    output_watch_events: Annotated[
        bool, typer.Option("--output-watch-events", help="Name each event: ADDED, ...")
    ] = False,
    show_labels: Annotated[bool, typer.Option("--show-labels", help="Labels as the last column.")] = False,
    label_columns: Annotated[list[str], typer.Option("--label-columns", "-L", help="A column for this label.")] = [],  # noqa: B006
    no_headers: Annotated[bool, typer.Option("--no-headers", help="No header line.")] = False,
    sort_by: Annotated[str, typer.Option("--sort-by", help="JSONPath to sort by: .metadata.creationTimestamp")] = "",
    ignore_not_found: Annotated[bool, typer.Option("--ignore-not-found", help="Nothing there is no error.")] = False,
    show_managed_fields: Annotated[bool, typer.Option("--show-managed-fields", help="Keep managedFields.")] = False,
) -> None:
    """Show one or many objects."""

    async def work(session: Session) -> int:
        check_format(output)
        catalogue = await session.catalogue()
        scope = session.namespace(namespace, all_namespaces=all_namespaces)
        if filename:
            targets = [
                Target(catalogue.find_kind(item.api_version, item.kind), item.name)
                for item in read_manifests(filename, recursive=recursive)
            ]
        else:
            targets = catalogue.targets(words)
        named = any(target.name for target in targets)
        if named and (selector or field_selector):
            raise UsageError("name cannot be provided when a selector is specified")
        if named and all_namespaces and any(target.resource.namespaced for target in targets):
            raise UsageError("a resource cannot be retrieved by name across all namespaces")

        def selection(target: Target) -> Selection:
            fields = field_selector
            if target.name:
                fields = f"metadata.name={target.name}"
            return Selection(scope if target.resource.namespaced else "", selector, fields)

        if watch or watch_only:
            if len(targets) != 1:
                raise UsageError("you may only specify a single resource type (and one name) with --watch")
            target = targets[0]
            if is_table(output):
                printer = TablePrinter(
                    wide=output == "wide", with_namespace=all_namespaces and target.resource.namespaced,
                    no_headers=no_headers, show_labels=show_labels, label_columns=label_columns,
                )  # fmt: skip
                return await _watch_table(session, target, selection(target), printer, watch_only, output_watch_events)
            return await _watch_objects(session, target, selection(target), output, watch_only, show_managed_fields)
        if is_table(output):
            return await _tables(
                session, targets, selection, scope,
                lambda target, many: TablePrinter(
                    wide=output == "wide", with_namespace=all_namespaces and target.resource.namespaced,
                    no_headers=no_headers, show_labels=show_labels, label_columns=label_columns,
                    kind_prefix=full_name(target.resource) if many else "",
                ),
                sort_by, ignore_not_found,
            )  # fmt: skip
        return await _objects(
            session, targets, selection, scope, output, sort_by, ignore_not_found, show_managed_fields
        )

    run(work)


async def _tables(
    session: Session, targets: Sequence[Target], selection: Any, scope: str, printer_for: Any, sort_by: str,
    ignore_not_found: bool,
) -> int:  # fmt: skip
    many = len({target.resource.plural for target in targets}) > 1
    groups: dict[str, tuple[Target, list[str]]] = {}
    for target in targets:
        groups.setdefault(f"{target.resource.plural}.{target.resource.group}", (target, []))[1].append(target.name)
    code, printed = 0, False
    for target, names in groups.values():
        resource = target.resource
        table = resources_pb2.Table()
        for name in names:
            try:
                if name:
                    part = await session.client.table(
                        resource.group, resource.version, resource.plural, name=name,
                        selection=Selection(scope if resource.namespaced else ""),
                    )  # fmt: skip
                else:
                    part = await session.client.table(
                        resource.group, resource.version, resource.plural, selection=selection(target)
                    )
            except APIError as error:
                if error.code == 404 and name and ignore_not_found:
                    continue
                if len(names) == 1 and len(groups) == 1:
                    raise
                print(describe_error(error, session.server), file=sys.stderr)
                code = 1
                continue
            if not table.columns:
                table.columns.extend(part.columns)
            table.rows.extend(part.rows)
        if sort_by and table.rows:
            await _sort_rows(session, target, table, selection(Target(resource)), sort_by)
        if table.rows:
            if printed:
                print()
            printer_for(target, many).print(table)
            printed = True
    if not printed and not code and not ignore_not_found and not any(target.name for target in targets):
        namespaced = any(target.resource.namespaced for target in targets)
        where = f" in {scope} namespace." if scope and namespaced else ""
        print(f"No resources found{where}", file=sys.stderr)
    return code


async def _sort_rows(
    session: Session, target: Target, table: resources_pb2.Table, selection: Selection, path: str
) -> None:
    """Rows carry only metadata, so the order comes from the objects."""
    objects, _ = await list_all(session.client, message_class(target.resource), selection)
    values = printing.sort_values([codec.to_dict(item) for item in objects], path)
    order = {
        (value["metadata"].get("namespace", ""), value["metadata"]["name"]): index for index, value in enumerate(values)
    }
    rows = sorted(table.rows, key=lambda row: order.get((row.namespace, row.name), len(order)))
    copies = [resources_pb2.Table.Row.FromString(row.SerializeToString()) for row in rows]
    del table.rows[:]
    table.rows.extend(copies)


async def _objects(
    session: Session, targets: Sequence[Target], selection: Any, scope: str, output: str, sort_by: str,
    ignore_not_found: bool, show_managed_fields: bool,
) -> int:  # fmt: skip
    code = 0
    found: list[tuple[Target, Message]] = []
    for target in targets:
        cls = message_class(target.resource)
        try:
            if target.name:
                obj = await session.client.get(cls, target.name, scope if target.resource.namespaced else "")
                found.append((target, obj))
            else:
                items, _ = await list_all(session.client, cls, selection(target))
                found.extend((target, item) for item in items)
        except APIError as error:
            if error.code == 404 and ignore_not_found:
                continue
            if len(targets) == 1:
                raise
            print(describe_error(error, session.server), file=sys.stderr)
            code = 1
    if output == "name":
        for target, obj in found:
            print(printing.name_of(target.resource, obj.metadata.name))  # type: ignore[attr-defined]
        return code
    values = [printing.plain(obj, show_managed_fields=show_managed_fields) for _, obj in found]
    if sort_by:
        values = printing.sort_values(values, sort_by)
    single = len(targets) == 1 and bool(targets[0].name)
    if single and not values:
        return code
    printing.print_values(values, output, as_list_always=not single)
    return code


async def _watch_table(
    session: Session, target: Target, selection: Selection, printer: TablePrinter, only: bool, name_events: bool
) -> int:
    resource = target.resource
    version = ""
    if only:
        _, version = await list_all(session.client, message_class(resource), selection)

    def start(version: str) -> AsyncIterator[TableBatch]:
        return session.client.watch_table(
            resource.group, resource.version, resource.plural, selection=selection, resource_version=version
        )

    async with contextlib.aclosing(resuming(start, version)) as batches:
        async for batch in batches:
            if batch.table.rows:
                printer.print(batch.table, batch.types if name_events else ())
    return 0


async def _watch_objects(
    session: Session, target: Target, selection: Selection, output: str, only: bool, show_managed_fields: bool
) -> int:
    cls = message_class(target.resource)
    version = ""
    if only:
        _, version = await list_all(session.client, cls, selection)
    async with contextlib.aclosing(watching(session, cls, selection, version)) as batches:
        async for batch in batches:
            for event in batch.events:
                if event.type == "BOOKMARK":
                    continue
                if output == "name":
                    print(printing.name_of(target.resource, event.object.metadata.name), flush=True)
                    continue
                if output == "yaml":
                    print("---")
                printing.print_values([printing.plain(event.object, show_managed_fields=show_managed_fields)], output)
                sys.stdout.flush()
    return 0


def events(
    namespace: Namespace = "",
    all_namespaces: AllNamespaces = False,
    for_object: Annotated[str, typer.Option("--for", help="Only events of this object: pod/web")] = "",
    types: Annotated[str, typer.Option("--types", help="Only these types: Normal,Warning")] = "",
    output: Output = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on with new events.")] = False,
    no_headers: Annotated[bool, typer.Option("--no-headers", help="No header line.")] = False,
) -> None:
    """Show events, the oldest first."""

    async def work(session: Session) -> int:
        check_format(output)
        fields = []
        if for_object:
            target = (await session.catalogue()).one([for_object])
            fields = [f"involvedObject.kind={target.resource.kind}", f"involvedObject.name={target.name}"]
        scope = session.namespace(namespace, all_namespaces=all_namespaces)
        selection = Selection(scope, field_selector=",".join(fields))
        wanted = {word.strip().lower() for word in types.split(",") if word.strip()}
        items, version = await list_all(session.client, core_v1_pb2.Event, selection)
        chosen = [event for event in items if not wanted or event.type.lower() in wanted]
        chosen.sort(key=lambda event: (event_time(event), int(event.metadata.resource_version or 0)))
        if not is_table(output):
            printing.print_values([printing.plain(event) for event in chosen], output, as_list_always=True)
            return 0
        widths: list[int] = []
        header = ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
        rows = [event_row(event, session.env.now(), namespaced=all_namespaces) for event in chosen]
        if all_namespaces:
            header.insert(0, "NAMESPACE")
        if not rows and not watch:
            print(f"No events found{f' in {scope} namespace' if scope else ''}.", file=sys.stderr)
            return 0
        colour = sys.stdout.isatty()
        for line in layout(rows if no_headers else [header, *rows], colour=colour, widths=widths):
            print(line)
        if watch:
            sys.stdout.flush()
            async with contextlib.aclosing(watching(session, core_v1_pb2.Event, selection, version)) as batches:
                async for batch in batches:
                    for change in batch.events:
                        event = change.object
                        if change.type in ("BOOKMARK", "DELETED") or (wanted and event.type.lower() not in wanted):
                            continue
                        row = event_row(event, session.env.now(), namespaced=all_namespaces)
                        print(layout([row], colour=colour, widths=widths)[0], flush=True)
        return 0

    run(work)


def event_time(event: core_v1_pb2.Event) -> float:
    """When it was last seen, Unix seconds."""
    for when in (event.series.last_observed_time, event.last_timestamp, event.event_time, event.first_timestamp):
        if when.seconds:
            return float(when.seconds) + float(getattr(when, "nanos", 0)) / 1e9
    return float(event.metadata.creation_timestamp.seconds)


def event_row(event: core_v1_pb2.Event, now: float, *, namespaced: bool) -> list[str]:
    from wherry.api.times import human_duration

    seen = human_duration(max(0.0, now - event_time(event)))
    count = event.series.count or event.count
    if count > 1 and event.first_timestamp.seconds:
        seen = f"{seen} (x{count} over {human_duration(max(0.0, now - event.first_timestamp.seconds))})"
    involved = event.involved_object
    row = [seen, event.type, event.reason, f"{involved.kind}/{involved.name}", event.message.strip()]
    if namespaced:
        row.insert(0, event.metadata.namespace)
    return row


def api_resources(
    output: Annotated[str, typer.Option("--output", "-o", help="wide or name.")] = "",
    namespaced: Annotated[bool | None, typer.Option("--namespaced/--not-namespaced", help="Only these.")] = None,
    api_group: Annotated[str | None, typer.Option("--api-group", help="Only this group.")] = None,
    no_headers: Annotated[bool, typer.Option("--no-headers", help="No header line.")] = False,
) -> None:
    """Show the kinds that the server knows."""

    async def work(session: Session) -> int:
        if output not in ("", "wide", "name"):
            raise UsageError(f'--output "{output}" is not available; use wide or name')
        chosen = [
            resource
            for resource in (await session.catalogue()).resources
            if (namespaced is None or resource.namespaced == namespaced)
            and (api_group is None or resource.group == api_group)
        ]
        chosen.sort(key=lambda resource: (resource.group, resource.plural))
        if output == "name":
            for resource in chosen:
                print(f"{resource.plural}.{resource.group}" if resource.group else resource.plural)
            return 0
        header = ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"]
        rows = [
            [
                resource.plural, ",".join(resource.short_names),
                f"{resource.group}/{resource.version}" if resource.group else resource.version,
                str(resource.namespaced).lower(), resource.kind,
            ]
            for resource in chosen
        ]  # fmt: skip
        if output == "wide":
            header += ["VERBS", "CATEGORIES"]
            for row, resource in zip(rows, chosen, strict=True):
                row += [",".join(resource.verbs), ",".join(resource.categories)]
        for line in layout(rows if no_headers else [header, *rows]):
            print(line)
        return 0

    run(work)


def explain(
    path: Annotated[
        str, typer.Argument(metavar="TYPE[.FIELD...]", help="pods.spec.containers", autocompletion=complete_words)
    ],
    recursive: Annotated[bool, typer.Option("--recursive", help="Every field below.")] = False,
    api_version: Annotated[str, typer.Option("--api-version", help="Group and version: apps/v1")] = "",
) -> None:
    """Show what fields a kind has."""

    from wherry.api import explain as explaining
    from wherry.api import kinds

    head, _, rest = path.partition(".")
    for kind in kinds.all_kinds():
        names = (kind.plural, kind.singular, kind.kind.lower(), *kind.short_names)
        if head.lower() in names and api_version in ("", kind.api_version):
            break
    else:
        run(lambda session: _explain_custom(session, head, rest, api_version, recursive))
        return

    def work() -> int:
        try:
            print(explaining.explain(kind, rest, recursive=recursive), end="")
        except KeyError as error:
            raise UsageError(str(error.args[0])) from error
        return 0

    guarded(work)


async def _explain_custom(session: Session, head: str, rest: str, api_version: str, recursive: bool) -> int:
    """From the schema of its definition, in the version that discovery names first, or the one that was asked for."""
    from wherry.api import explain as explaining
    from wherry.pb import apiextensions_v1_pb2

    resource = (await session.catalogue()).find(head)
    name = f"{resource.plural}.{resource.group}"
    defined = await try_get(session.client, apiextensions_v1_pb2.CustomResourceDefinition, name, "")
    spec = codec.to_dict(defined)["spec"] if defined is not None else {}
    wanted = api_version or f"{resource.group}/{resource.version}"
    for version in spec.get("versions", ()):
        if wanted == f"{spec['group']}/{version['name']}" and version["served"]:
            schema = version.get("schema", {}).get("openAPIV3Schema", {})
            break
    else:
        raise UsageError(f'couldn\'t find resource for "{wanted}, Resource={resource.plural}"')
    try:
        text = explaining.explain_custom(
            resource.group, version["name"], resource.kind, resource.plural, schema, rest, recursive=recursive
        )
    except KeyError as error:
        raise UsageError(str(error.args[0])) from error
    print(text, end="")
    return 0
