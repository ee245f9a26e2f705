"""`rollout` (status, history, undo, pause, resume, restart) and `scale`: what is done to a Deployment as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Annotated, Any

import typer

from wherry.api import codec, labels, yamlout
from wherry.api.errors import Conflict, Expired, NotFound
from wherry.api.times import to_time
from wherry.cli import output as printing
from wherry.cli.commands.get import list_all
from wherry.cli.commands.streams import seconds_of
from wherry.cli.completion import complete_words
from wherry.cli.manifests import read_manifests
from wherry.cli.options import DryRun, Filename, Namespace, Output, Timeout, check_dry_run
from wherry.cli.resources import Target, UsageError, full_name, message_class
from wherry.cli.session import Session, run
from wherry.cli.watching import watching
from wherry.client.base import Selection
from wherry.pb import apps_v1_pb2

REVISION = "deployment.kubernetes.io/revision"
CHANGE_CAUSE = "kubernetes.io/change-cause"
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"

app = typer.Typer(help="Follow, undo, pause and restart rollouts.", no_args_is_help=True)

Words = Annotated[
    list[str], typer.Argument(metavar="TYPE NAME | TYPE/NAME", help="deployment/web", autocompletion=complete_words)
]


async def _deployment(session: Session, words: list[str], namespace: str) -> tuple[Target, apps_v1_pb2.Deployment]:
    target = (await session.catalogue()).one(words)
    if target.resource.kind != "Deployment":
        raise UsageError(f"rollout works on deployments, not on {target.resource.plural}")
    return target, await session.client.get(apps_v1_pb2.Deployment, target.name, namespace)


async def _history(session: Session, deployment: apps_v1_pb2.Deployment) -> dict[int, apps_v1_pb2.ReplicaSet]:
    """The ReplicaSets that the Deployment owns, by revision."""
    selection = Selection(deployment.metadata.namespace, str(labels.from_message(deployment.spec.selector)))
    owned, _ = await list_all(session.client, apps_v1_pb2.ReplicaSet, selection)
    revisions = {}
    for item in owned:
        if any(owner.uid == deployment.metadata.uid and owner.controller for owner in item.metadata.owner_references):
            with contextlib.suppress(ValueError):
                revisions[int(item.metadata.annotations.get(REVISION, "0"))] = item
    revisions.pop(0, None)
    return dict(sorted(revisions.items()))


def progress(deployment: apps_v1_pb2.Deployment) -> tuple[str, bool]:
    """What `rollout status` says, and whether the rollout is done. Raises UsageError when it has failed.

    The rule is that of kubectl's DeploymentStatusViewer.
    """
    name, status = deployment.metadata.name, deployment.status
    if deployment.metadata.generation > status.observed_generation:
        return "Waiting for deployment spec update to be observed...", False
    for condition in status.conditions:
        if condition.type == "Progressing" and condition.reason == "ProgressDeadlineExceeded":
            raise UsageError(f'deployment "{name}" exceeded its progress deadline')
    replicas = deployment.spec.replicas if deployment.spec.HasField("replicas") else 1
    start = f'Waiting for deployment "{name}" rollout to finish: '
    if status.updated_replicas < replicas:
        return f"{start}{status.updated_replicas} out of {replicas} new replicas have been updated...", False
    if status.replicas > status.updated_replicas:
        return f"{start}{status.replicas - status.updated_replicas} old replicas are pending termination...", False
    if status.available_replicas < status.updated_replicas:
        return (
            f"{start}{status.available_replicas} of {status.updated_replicas} updated replicas are available...",
            False,
        )
    return f'deployment "{name}" successfully rolled out', True


@app.command()
def status(
    words: Words,
    namespace: Namespace = "",
    watch: Annotated[bool, typer.Option("--watch/--no-watch", "-w", help="Until it is done.")] = True,
    timeout: Timeout = "0",
) -> None:
    """Follow a rollout to its end."""

    async def work(session: Session) -> int:
        scope = session.namespace(namespace)
        target, deployment = await _deployment(session, words, scope)
        said, done = "", False

        def say(current: apps_v1_pb2.Deployment) -> bool:
            nonlocal said
            text, finished = progress(current)
            if text != said:
                print(text, flush=True)
                said = text
            return finished

        done = say(deployment)
        if done or not watch:
            return 0
        limit = seconds_of(timeout, "--timeout") or None

        async def follow() -> int:
            selection = Selection(scope, field_selector=f"metadata.name={target.name}")
            since = deployment.metadata.resource_version
            while True:
                with contextlib.suppress(Expired):
                    async with contextlib.aclosing(
                        watching(session, apps_v1_pb2.Deployment, selection, since)
                    ) as batches:
                        async for batch in batches:
                            for event in batch.events:
                                if event.type == "DELETED":
                                    raise UsageError("object has been deleted")
                                if event.type != "BOOKMARK" and say(event.object):
                                    return 0
                # The server was away for long, or nothing had changed for long: on from the list's version, which is of now.
                items, since = await list_all(session.client, apps_v1_pb2.Deployment, selection)
                if not items:
                    raise UsageError("object has been deleted")
                if say(items[0]):
                    return 0

        try:
            return await asyncio.wait_for(follow(), limit)
        except TimeoutError:
            print(f"error: timed out waiting for the condition after {timeout}", file=sys.stderr)
            return 1

    run(work)


@app.command()
def history(
    words: Words,
    namespace: Namespace = "",
    revision: Annotated[int, typer.Option("--revision", help="Show the pod template of this revision.")] = 0,
    output: Output = "",
) -> None:
    """Show the revisions of a Deployment."""

    async def work(session: Session) -> int:
        target, deployment = await _deployment(session, words, session.namespace(namespace))
        revisions = await _history(session, deployment)
        if revision:
            if revision not in revisions:
                raise UsageError(f"unable to find the specified revision {revision} (there are: {_listed(revisions)})")
            chosen = revisions[revision]
            if output:
                printing.print_values([printing.plain(chosen)], output)
                return 0
            print(f"{full_name(target.resource)}/{target.name} with revision #{revision}")
            print("Pod Template:")
            template = codec.to_dict(chosen.spec.template)
            print("".join(f"  {line}\n" for line in yamlout.dump(template).splitlines()), end="")
            return 0
        if output:
            printing.print_values([printing.plain(item) for item in revisions.values()], output, as_list_always=True)
            return 0
        print(f"{full_name(target.resource)}/{target.name} ")
        rows = [["REVISION", "CHANGE-CAUSE"]]
        rows += [
            [str(number), item.metadata.annotations.get(CHANGE_CAUSE, "<none>")] for number, item in revisions.items()
        ]
        for line in printing.layout(rows):
            print(line)
        return 0

    run(work)


def _listed(revisions: dict[int, Any]) -> str:
    return ", ".join(str(number) for number in revisions) or "none"


@app.command()
def undo(
    words: Words,
    namespace: Namespace = "",
    to_revision: Annotated[int, typer.Option("--to-revision", help="Which one; 0 is the one before the last.")] = 0,
    dry_run: DryRun = "none",
) -> None:
    """Go back to an earlier revision."""

    async def work(session: Session) -> int:
        mark = check_dry_run(dry_run)
        for _ in range(5):
            target, deployment = await _deployment(session, words, session.namespace(namespace))
            label = f"{full_name(target.resource)}/{target.name}"
            if deployment.spec.paused:
                raise UsageError(
                    f"you cannot rollback a paused deployment; resume it first with: wherry rollout resume {label}"
                )
            revisions = await _history(session, deployment)
            number = to_revision or ([0, *revisions][-2] if len(revisions) > 1 else 0)
            if number not in revisions:
                if to_revision:
                    raise UsageError(
                        f"unable to find specified revision {to_revision} in history ({_listed(revisions)})"
                    )
                raise UsageError(f"no rollout history found for {label}: there is no earlier revision to go back to")
            template = type(deployment.spec.template)()
            template.CopyFrom(revisions[number].spec.template)
            template.metadata.labels.pop("pod-template-hash", None)
            if template == deployment.spec.template:
                print(f"{label} skipped rollback (current template already matches revision {number})")
                return 0
            if dry_run == "client":
                print("Pod Template:")
                text = yamlout.dump(codec.to_dict(template))
                print("".join(f"  {line}\n" for line in text.splitlines()), end="")
                return 0
            deployment.spec.template.CopyFrom(template)
            cause = revisions[number].metadata.annotations.get(CHANGE_CAUSE)
            if cause:
                deployment.metadata.annotations[CHANGE_CAUSE] = cause
            try:
                await session.client.update(deployment, dry_run=dry_run == "server", field_manager="wherry-rollout")
            except Conflict:
                continue
            print(f"{label} rolled back{mark}")
            return 0
        raise UsageError("the deployment kept changing; try again")

    run(work)


async def _patch(session: Session, words: list[str], namespace: str, patch: Any, done: str) -> int:
    target, _ = await _deployment(session, words, namespace)
    patch_type = "application/strategic-merge-patch+json"
    await session.client.patch(
        apps_v1_pb2.Deployment, target.name, namespace, patch, patch_type=patch_type, field_manager="wherry-rollout"
    )
    print(f"{full_name(target.resource)}/{target.name} {done}")
    return 0


@app.command()
def pause(words: Words, namespace: Namespace = "") -> None:
    """Stop rolling out until resumed."""

    async def work(session: Session) -> int:
        _, deployment = await _deployment(session, words, session.namespace(namespace))
        if deployment.spec.paused:
            raise UsageError(f'deployments.apps "{deployment.metadata.name}" is already paused')
        return await _patch(session, words, session.namespace(namespace), {"spec": {"paused": True}}, "paused")

    run(work)


@app.command()
def resume(words: Words, namespace: Namespace = "") -> None:
    """Go on with a paused rollout."""

    async def work(session: Session) -> int:
        _, deployment = await _deployment(session, words, session.namespace(namespace))
        if not deployment.spec.paused:
            raise UsageError(f'deployments.apps "{deployment.metadata.name}" is not paused')
        return await _patch(session, words, session.namespace(namespace), {"spec": {"paused": None}}, "resumed")

    run(work)


@app.command()
def restart(words: Words, namespace: Namespace = "") -> None:
    """Replace every pod, within the limits of the rollout strategy."""

    async def work(session: Session) -> int:
        from wherry.api.times import format_seconds

        _, deployment = await _deployment(session, words, session.namespace(namespace))
        if deployment.spec.paused:
            raise UsageError("can't restart paused deployment (run rollout resume first)")
        stamp = format_seconds(to_time(session.env.now()).seconds)
        patch = {"spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: stamp}}}}}
        return await _patch(session, words, session.namespace(namespace), patch, "restarted")

    run(work)


def scale(
    words: Annotated[list[str], typer.Argument(metavar="TYPE NAME | TYPE/NAME...", autocompletion=complete_words)] = [],  # noqa: B006
    replicas: Annotated[int | None, typer.Option("--replicas", help="How many; required.")] = None,
    filename: Filename = [],  # noqa: B006
    namespace: Namespace = "",
    current_replicas: Annotated[
        int | None, typer.Option("--current-replicas", help="Only if it has so many now.")
    ] = None,
    resource_version: Annotated[str, typer.Option("--resource-version", help="Only at this version.")] = "",
    dry_run: DryRun = "none",
) -> None:
    """Set the number of replicas."""

    async def work(session: Session) -> int:
        mark = check_dry_run(dry_run)
        if replicas is None or replicas < 0:
            raise UsageError("the --replicas=COUNT flag is required, and COUNT must be 0 or more")
        catalogue = await session.catalogue()
        if filename:
            targets = [
                Target(catalogue.find_kind(item.api_version, item.kind), item.name) for item in read_manifests(filename)
            ]
        else:
            targets = catalogue.targets(words)
        scope = session.namespace(namespace)
        for target in targets:
            if not target.name:
                raise UsageError("resource names are required, for example: deployment/web")
            if "scale" not in target.resource.subresources:
                raise UsageError(f"{target.resource.plural} cannot be scaled")
            cls = message_class(target.resource)
            current: Any = await session.client.get(cls, target.name, scope)
            has = current.spec.replicas if current.spec.HasField("replicas") else 1
            if current_replicas is not None and has != current_replicas:
                raise UsageError(f"Expected replicas to be {current_replicas}, was {has}")
            if resource_version and current.metadata.resource_version != resource_version:
                raise UsageError(
                    f"Expected resourceVersion to be {resource_version}, was {current.metadata.resource_version}"
                )
            patch: dict[str, Any] = {"spec": {"replicas": replicas}}
            if resource_version or current_replicas is not None:
                patch["metadata"] = {"resourceVersion": current.metadata.resource_version}
            try:
                if dry_run != "client":
                    await session.client.patch(
                        cls, target.name, scope, patch, dry_run=dry_run == "server", field_manager="wherry-scale"
                    )
            except NotFound as error:
                raise UsageError(str(error)) from error
            print(f"{full_name(target.resource)}/{target.name} scaled{mark}")
        return 0

    run(work)
