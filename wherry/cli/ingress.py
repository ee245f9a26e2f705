"""`wherry ingress`: the ingress controller as a process of its own, on a host that reaches the pods. Called by `wherry.cli.main`
before the command line's libraries would be imported, since this process stays.

At SIGTERM it ends and leaves haproxy at work; with --stop-haproxy it takes it along.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wherry.api.context import Env
    from wherry.client.config import ClientConfig

log = logging.getLogger("wherry.ingress")

DEFAULT_DATA_DIR = Path("/var/lib/wherry-ingress")
CHECK_S = 5.0


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="wherry ingress", description="Serves Ingresses on this host with haproxy, which must be installed."
    )
    add = result.add_argument
    add(
        "--config", required=True, type=Path, metavar="FILE",
        help="client config; `wherry server` writes ingress.conf beside its data",
    )  # fmt: skip
    add(
        "--server",
        default="",
        metavar="HOST:PORT[,...]",
        help="the control planes; default: the one that --config names",
    )
    add("--data-dir", type=Path, default=DEFAULT_DATA_DIR, help="default %(default)s")
    add("--address", default="0.0.0.0", metavar="IP[,...]", help="where to listen (default %(default)s)")
    add("--http-port", type=_port, default=80, help="default %(default)s")
    add("--https-port", type=_port, default=443, help="default %(default)s")
    add(
        "--publish-address", default="", metavar="IP-OR-NAME[,...]",
        help="what the Ingresses' status names; default: --address, unless that is any address",
    )  # fmt: skip
    add("--stop-haproxy", action="store_true", help="end haproxy at SIGTERM too")
    add("--log-level", default=os.environ.get("WHERRY_LOG", "info"), choices=("debug", "info", "warning", "error"))
    return result


def main(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(list(argv))
    logging.basicConfig(
        stream=sys.stderr, level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    from kubelet.runtime.base import RuntimeFailure
    from wherry.client.config import ConfigError

    try:
        asyncio.run(_run(arguments))
        return 0
    except (ConfigError, RuntimeFailure, ValueError, OSError) as error:
        print(f"wherry ingress: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


async def _run(arguments: argparse.Namespace) -> None:
    from kubelet.ingress import process
    from kubelet.ingress.controller import IngressController
    from kubelet.ingress.haproxy import Options
    from kubelet.runtime.processes import find_binary
    from wherry.api.context import Env
    from wherry.client.grpc import connect

    find_binary("haproxy")
    data = arguments.data_dir.absolute()
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    addresses = tuple(part.strip() for part in arguments.address.split(",") if part.strip())
    options = Options(addresses, arguments.http_port, arguments.https_port, data / "haproxy.sock", process.account())
    publish = [part.strip() for part in arguments.publish_address.split(",") if part.strip()]
    if not publish and "0.0.0.0" in addresses:
        from wherry.cli.agent_flags import own_address

        publish = [own_address(_settings(arguments).server)]
    env = Env()
    name = _name(data / "name", env)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ending = asyncio.create_task(stop.wait())
    while not stop.is_set():
        settings = _settings(arguments)
        client = connect(settings)
        log.info("control plane %s, listening on %s", settings.server, ", ".join(addresses))
        controller = IngressController(client, client.transport, env, name, data, options, publish=publish)
        working = asyncio.create_task(controller.run())
        renewed = asyncio.create_task(_changed(arguments.config))
        try:
            await asyncio.wait((working, renewed, ending), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            for task in (working, renewed):
                task.cancel()
            await asyncio.gather(working, renewed, return_exceptions=True)
            if stop.is_set() and arguments.stop_haproxy:
                await controller.presence.leave()
            await client.close()
    if arguments.stop_haproxy:
        await process.Haproxy(data, options.socket).stop()


def _settings(arguments: argparse.Namespace) -> ClientConfig:
    from wherry.client.config import load_config

    settings = load_config(arguments.config)
    return settings.with_server(arguments.server) if arguments.server else settings


def _name(path: Path, env: Env) -> str:
    """Of this ingress among all of them, the same after each start."""
    try:
        found = path.read_text().strip()
    except OSError:
        found = ""
    if not found:
        found = env.uuid()[:8]
        temporary = path.with_suffix(".tmp")
        temporary.write_text(f"{found}\n")
        temporary.replace(path)
    return found


async def _changed(path: Path) -> None:
    """Returns when the config is another one: the server renews its certificate long before it ends."""
    before = await asyncio.to_thread(path.read_bytes)
    while True:
        await asyncio.sleep(CHECK_S)
        try:
            if await asyncio.to_thread(path.read_bytes) != before:
                return
        except OSError:
            continue  # it is just being replaced, or its disk is away


def _port(text: str) -> int:
    number = int(text) if text.isdigit() else 0
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f'"{text}": want a port, 1 to 65535')
    return number
