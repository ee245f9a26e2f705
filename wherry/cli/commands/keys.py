"""`keys`: those that sign tokens of service accounts. To rotate is to add one; the old ones stay good until they are removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from wherry.api.times import format_seconds
from wherry.cli.output import layout
from wherry.cli.session import Session, run

if TYPE_CHECKING:
    from wherry.pb import keys_pb2

keys = typer.Typer(help="Keys that sign service account tokens.", no_args_is_help=True)


@keys.command("list")
def list_() -> None:
    """Show the keys, the oldest first. SECRETS counts the Secrets whose token, which has no end, a key has signed."""

    async def work(session: Session) -> None:
        from wherry.client.keys import list_keys

        _show(await list_keys(session.client), session)

    run(work)


@keys.command()
def rotate() -> None:
    """Let a new key sign. Tokens that were signed before stay good."""

    async def work(session: Session) -> None:
        from wherry.client.keys import rotate_keys

        _show(await rotate_keys(session.client), session)

    run(work)


@keys.command()
def remove(
    key: Annotated[str, typer.Argument(metavar="ID", help="Of `wherry keys list`, or its beginning.")],
    force: Annotated[bool, typer.Option("--force", help="Although tokens that it has signed are still good.")] = False,
) -> None:
    """Take a key away: tokens that it has signed are refused from then on."""

    async def work(session: Session) -> None:
        from wherry.client.keys import remove_key

        _show(await remove_key(session.client, key, force=force), session)

    run(work)


def _show(found: keys_pb2.KeyList, session: Session) -> None:
    now = session.env.now()
    rows = [["ID", "ADDED", "STATE", "SECRETS"]]
    for key in found.keys:
        added = format_seconds(int(key.added_at)) if key.added_at else "<first>"
        waiting = f"signs from {format_seconds(int(key.signs_from))}"
        state = "signs" if key.signs else waiting if key.signs_from > now else "verifies"
        rows.append([key.id, added, state, str(key.secrets)])
    print("\n".join(layout(rows)))
