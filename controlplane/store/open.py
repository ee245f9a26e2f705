"""From a URL to a store. Called by the server's start-up and by the CLI's backup verbs.

`sqlite:///PATH` (an absolute path; `sqlite://PATH` and `sqlite:PATH` for a relative one), `sqlite::memory:`, and
`etcd://HOST:PORT[,HOST:PORT...]`. Only the backend that is asked for is imported.
"""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.store.base import Store, StoreError
from wherry.api.context import Env


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """PEM files: the CA that signed the servers' certificates, and our certificate with its key (mutual TLS)."""

    ca: str
    certificate: str = ""
    key: str = ""


async def open_store(url: str, env: Env, *, inline: bool = False, tls: TLSFiles | None = None) -> Store:
    """The store at `url`. `inline` (SQLite only) runs without threads, for virtual time. Raises StoreError."""
    scheme, colon, rest = url.partition(":")
    if colon and scheme == "sqlite":
        from controlplane.store.sqlite import SqliteStore

        path = rest.removeprefix("//") or ""
        if not path or path == "/":
            raise StoreError(f"{url}: no file is named: use sqlite:///PATH or sqlite::memory:")
        return await SqliteStore.open(path, inline=inline)
    if colon and scheme == "etcd":
        if inline:
            raise StoreError(f"{url}: etcd cannot run inline: use sqlite::memory:")
        from controlplane.store.etcd import EtcdStore

        endpoints = [endpoint for endpoint in rest.strip("/").split(",") if endpoint]
        if not endpoints:
            raise StoreError(f"{url}: no endpoint is named: use etcd://HOST:PORT,HOST:PORT")
        return await EtcdStore.open(endpoints, env, tls=tls)
    raise StoreError(f"{url}: unknown kind of store: use sqlite:///PATH, sqlite::memory: or etcd://HOST:PORT")
