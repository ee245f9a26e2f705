"""`token` (who may join), `backup` and `restore`: what an administrator does with the cluster's own state."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wherry.api.context import Env
from wherry.api.times import format_seconds
from wherry.cli.commands.streams import seconds_of
from wherry.cli.output import layout
from wherry.cli.resources import UsageError
from wherry.cli.session import Session, guarded, run

if TYPE_CHECKING:
    from controlplane.store.open import TLSFiles

token = typer.Typer(help="Tokens by which new nodes join.", no_args_is_help=True)

STATE_FILE = "state.db"  # in the data directory of `wherry server`
EVENT_TTL_S = 3600

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Data directory of a `wherry server` (SQLite).")]
StoreURL = Annotated[str, typer.Option("--store", help="Another store: sqlite:///PATH or etcd://HOST:PORT,...")]
CA = Annotated[str, typer.Option("--store-ca", help="CA of the etcd servers.")]
Cert = Annotated[str, typer.Option("--store-cert", help="Our certificate for etcd.")]
Key = Annotated[str, typer.Option("--store-key", help="Its key.")]


@token.command()
def create(
    ttl: Annotated[str, typer.Option("--ttl", help="How long it is good for: 30m, 24h.")] = "24h",
    description: Annotated[str, typer.Option("--description", help="What it is for.")] = "",
) -> None:
    """Make a token, with the hash of the cluster's CA behind it: all that an agent needs to join. It is printed once."""

    async def work(session: Session) -> None:
        from cryptography import x509

        from controlplane.auth.ca import public_key_hash
        from wherry.client.tokens import create_token

        # The last one is the root, should the configuration hold a chain.
        known = public_key_hash(x509.load_pem_x509_certificates(session.ca)[-1])
        made = await create_token(session.client, session.env, ttl_s=seconds_of(ttl, "--ttl"), description=description)
        print(f"{made}.{known}")

    run(work)


@token.command("list")
def list_() -> None:
    """Show the tokens that are still good."""

    async def work(session: Session) -> None:
        from wherry.client.tokens import list_tokens

        now = session.env.now()
        rows = [["ID", "EXPIRES", "DESCRIPTION"]]
        for item in await list_tokens(session.client):
            if not item.expires_at or item.expires_at > now:
                expires = format_seconds(int(item.expires_at)) if item.expires_at else "never"
                rows.append([item.id, expires, item.description or "<none>"])
        print("\n".join(layout(rows)))

    run(work)


@token.command()
def delete(name: Annotated[str, typer.Argument(metavar="ID | TOKEN")]) -> None:
    """Make a token worthless."""

    async def work(session: Session) -> None:
        from wherry.client.tokens import delete_token

        await delete_token(session.client, name)
        print(f"token {name.partition('.')[0]} deleted")

    run(work)


def backup(
    file: Annotated[Path, typer.Argument(help="The backup to write.")],
    data_dir: DataDir = None,
    store: StoreURL = "",
    store_ca: CA = "",
    store_cert: Cert = "",
    store_key: Key = "",
) -> None:
    """Write the cluster's whole state to a file, while it runs or not."""

    async def work() -> int:
        from controlplane.store.backup import backup as write
        from controlplane.store.base import StoreError
        from controlplane.store.open import open_store

        env = Env()
        with tempfile.TemporaryDirectory(prefix="wherry-backup-") as folder:
            if store.startswith("etcd"):
                url = store
            else:
                # A running server holds the store's lock, but SQLite copies a database that is in use consistently.
                copy = Path(folder) / STATE_FILE
                _copy_database(_sqlite_file(data_dir, store), copy)
                url = f"sqlite://{copy}"
            try:
                opened = await open_store(url, env, tls=_tls(store_ca, store_cert, store_key))
                try:
                    info = await write(opened, file)
                finally:
                    await opened.close()
            except StoreError as error:
                raise UsageError(str(error)) from error
        print(f"{file}: {info.keys} objects at revision {info.revision}")
        return 0

    guarded(lambda: asyncio.run(work()))


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `wherry backup` wrote.")],
    data_dir: DataDir = None,
    store: StoreURL = "",
    store_ca: CA = "",
    store_cert: Cert = "",
    store_key: Key = "",
) -> None:
    """Fill an empty store from a backup; the server must not be running."""

    async def work() -> int:
        from controlplane.store.backup import restore as fill
        from controlplane.store.base import StoreError
        from controlplane.store.open import open_store

        if store.startswith("etcd"):
            url = store
        else:
            path = _sqlite_file(data_dir, store, must_exist=False)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            url = f"sqlite://{path}"
        try:
            opened = await open_store(url, Env(), tls=_tls(store_ca, store_cert, store_key))
            try:
                info = await fill(file, opened, ttl_s=_ttl_s)
            finally:
                await opened.close()
        except StoreError as error:
            raise UsageError(str(error)) from error
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror}") from error
        print(f"restored {info.keys} objects from {file}")
        return 0

    guarded(lambda: asyncio.run(work()))


def _ttl_s(key: str) -> int:
    from controlplane.replicas import PREFIX, TTL_S

    if key.startswith(PREFIX):
        return TTL_S  # those that lived when the backup was made
    return EVENT_TTL_S if "/events/" in key else 0


def _sqlite_file(data_dir: Path | None, url: str, *, must_exist: bool = True) -> Path:
    if bool(data_dir) == bool(url):
        raise UsageError("say where the state is: --data-dir DIR of the server, or --store URL (one of the two)")
    path = (data_dir / STATE_FILE) if data_dir else Path(url.removeprefix("sqlite:").removeprefix("//"))
    if must_exist and not path.exists():
        raise UsageError(f"{path} is not there: is it the --data-dir of a `wherry server`?")
    return path.absolute()


def _copy_database(source: Path, target: Path) -> None:
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=30)) as opened,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            opened.backup(copy)
    except sqlite3.Error as error:
        raise UsageError(f"{source} cannot be read: {error}") from error


def _tls(ca: str, certificate: str, key: str) -> TLSFiles | None:
    from controlplane.store.open import TLSFiles

    return TLSFiles(ca, certificate, key) if ca else None
