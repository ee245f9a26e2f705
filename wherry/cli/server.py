"""`wherry server`: the control plane as a process of its own.

Called by `wherry.cli.main` before the command line's own libraries would be imported, since this process stays and its memory
counts. It opens the store, starts the control plane, puts the gRPC server in front of it, writes the administrator's config into
the data directory, says that it is ready, and ends in order at SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from controlplane.audit.recorder import Options as AuditOptions
    from controlplane.auth.keyfiles import KeyFiles
    from controlplane.server import ControlPlane
    from controlplane.store.base import Store
    from wherry.api.context import Env
    from wherry.api.tasks import TaskGroup

log = logging.getLogger("wherry.server")

DEFAULT_LISTEN = "127.0.0.1:6440"
MAX_SERVICE_PREFIX = 24
MIN_CERTIFICATE_S = 20.0  # below it renewing would be all that happens
# From the port of gRPC to that of HTTPS: 6440 and 6443.
HTTP_PORT_OFFSET = 3
# A thread that wants the GIL gets it after this long: with Python's 5 ms the store's acknowledgements waited for the loop.
SWITCH_INTERVAL_S = 0.0005
# Requests make many objects and hardly any cycles: looked for as often as by default, they cost a twentieth of the time.
COLLECT_AFTER = (10_000, 20, 20)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="wherry server", description="Runs the control plane.")
    result.add_argument(
        "--data-dir", required=True, type=Path, help="where state, CA certificate and admin.conf are kept"
    )
    result.add_argument("--listen", default=DEFAULT_LISTEN, metavar="HOST:PORT", help="default %(default)s")
    result.add_argument(
        "--join-listen", default="", metavar="HOST:PORT",
        help="where new nodes join by token; default: the port above that of --listen",
    )  # fmt: skip
    result.add_argument(
        "--http-listen", default=None, metavar="HOST:PORT",
        help='where the Kubernetes API is served over HTTPS, for kubectl; default: three ports above that of --listen; '
        '"" turns it off',
    )  # fmt: skip
    result.add_argument("--advertise", default="", metavar="HOST[:PORT]", help="the address that clients and nodes use")
    result.add_argument("--san", action="append", default=[], metavar="NAME", help="a further name in the certificate")
    result.add_argument(
        "--store",
        default="",
        metavar="URL",
        help="sqlite:///PATH or etcd://HOST:PORT[,...]; default: state.db in --data-dir",
    )
    result.add_argument("--store-ca", default="", metavar="FILE", help="CA of the etcd servers (mutual TLS)")
    result.add_argument("--store-cert", default="", metavar="FILE", help="our certificate for etcd")
    result.add_argument("--store-key", default="", metavar="FILE", help="its key")
    result.add_argument(
        "--default-not-ready-toleration-seconds", type=int, default=10, metavar="N",
        help="how long pods stay on a node that is not ready or unreachable (default %(default)s; Kubernetes: 300)",
    )  # fmt: skip
    result.add_argument(
        "--max-requests-inflight", type=int, default=400, metavar="N",
        help="reads that are worked on at a time (default %(default)s); nodes and components have half as many besides",
    )  # fmt: skip
    result.add_argument(
        "--max-mutating-requests-inflight", type=int, default=200, metavar="N", help="and writes (default %(default)s)"
    )
    result.add_argument(
        "--audit-policy-file", default=None, type=Path, metavar="FILE",
        help="what the audit log holds: a Policy of audit.k8s.io/v1; without it nothing is written",
    )  # fmt: skip
    result.add_argument(
        "--audit-log-path", default="", metavar="FILE", help='where it is written; "-" is standard output'
    )
    for flag, number, text in (
        ("maxsize", 100, "megabytes after which the file is rotated"),
        ("maxage", 366, "days for which rotated files are kept"),
        ("maxbackup", 100, "how many rotated files are kept"),
    ):
        result.add_argument(
            f"--audit-log-{flag}",
            type=int,
            default=number,
            metavar="N",
            help=f"{text} (default %(default)s; 0: no limit)",
        )
    result.add_argument(
        "--audit-log-mode", default="batch", choices=("batch", "blocking"),
        help="blocking: a request is answered when its event is written; batch: events may be lost (default %(default)s)",
    )  # fmt: skip
    result.add_argument(
        "--service-account-signing-key-file", default=None, type=Path, metavar="FILE",
        help="the private key, in PEM, that signs service account tokens; default: one of the cluster's own",
    )  # fmt: skip
    result.add_argument(
        "--service-account-key-file", action="append", default=[], type=Path, metavar="FILE",
        help="with that: further keys, public or private, whose tokens are good",
    )  # fmt: skip
    result.add_argument("--cluster-cidr", default="10.244.0.0/16", help="addresses of pods (default %(default)s)")
    result.add_argument(
        "--service-cluster-ip-range", default="10.96.0.0/16", metavar="CIDR",
        help="addresses of Services, the same for the cluster's whole life (default %(default)s)",
    )  # fmt: skip
    result.add_argument(
        "--cluster-dns",
        default=None,
        help='where every node answers its pods\' DNS questions (default: the tenth address of Services, 10.96.0.10); "": '
        "they ask the node's resolvers",
    )
    result.add_argument("--cluster-domain", default="cluster.local", help="DNS domain (default %(default)s)")
    result.add_argument(
        "--certificate-lifetime", default="", metavar="DURATION",
        help="of all certificates that are issued, such as 24h; default: 90 days for the server, 30 for nodes, a year for users",
    )  # fmt: skip
    result.add_argument("--no-scheduler", action="store_true", help="serve only; another process schedules")
    result.add_argument("--no-controllers", action="store_true", help="serve only; another process runs them")
    result.add_argument(
        "--replica", default="", metavar="NAME", help="of several on one etcd; default: the advertised address"
    )
    result.add_argument(
        "--ingress-config", default=None, type=Path, metavar="FILE",
        help="where the client config for `wherry ingress` is written; default: ingress.conf in --data-dir",
    )  # fmt: skip
    result.add_argument("--ready-file", default=None, type=Path, help="written when the server is ready")
    result.add_argument(
        "--ready-fd", default=None, type=int, help="gets a line, and is closed, when the server is ready"
    )
    result.add_argument("--metrics", default="", metavar="HOST:PORT", help="serves Prometheus metrics over plain HTTP")
    result.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning", "error"), help="default %(default)s"
    )
    result.add_argument("--log-format", default="text", choices=("text", "json"), help="default %(default)s")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    from wherry.api import resident
    from wherry.api.logs import set_up

    set_up(arguments.log_level, form=arguments.log_format)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # A connection is a file; the soft limit is often 1024, for the sake of programs that use select().
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.set_threshold(*COLLECT_AFTER)
    resident.bound_malloc()
    import uvloop

    from controlplane.store.base import StoreError
    from wherry.api.errors import APIError

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(arguments))
    except (OSError, ValueError, StoreError, APIError) as error:
        log.error("%s", error)
        return 1


async def _serve(arguments: argparse.Namespace) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    from controlplane.fronts.flow import Limits as FlowLimits
    from controlplane.nodelink.monitor import LinkSettings
    from controlplane.registry.allocation import Ranges
    from controlplane.server import ControlPlane, Options
    from wherry.api.context import Env

    env = Env()
    host, port = split_address(arguments.listen, "--listen")
    advertised = _advertised(arguments.advertise, host, port)
    services = _service_range(arguments.service_cluster_ip_range)
    cluster_dns = str(services[10]) if arguments.cluster_dns is None else arguments.cluster_dns
    arguments.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    store = await _open_store(arguments, env)
    try:
        options = Options(
            default_toleration_s=arguments.default_not_ready_toleration_seconds,
            scheduler=not arguments.no_scheduler,
            controllers=not arguments.no_controllers,
            elect=arguments.store.startswith("etcd:"),
            replica=arguments.replica or advertised,
            address=advertised if arguments.store.startswith("etcd:") else "",
            flow=FlowLimits(arguments.max_requests_inflight, arguments.max_mutating_requests_inflight),
            audit=_audit(arguments),
            account_keys=_account_keys(arguments),
            certificate_lifetime_s=_lifetime_s(arguments.certificate_lifetime),
            link=LinkSettings(arguments.cluster_cidr, cluster_dns, arguments.cluster_domain),
            ranges=Ranges(cidr=str(services)),
        )
        plane = ControlPlane(env, store, options, load=lambda name: asyncio.to_thread(importlib.import_module, name))
        await plane.start()
        try:
            return await _listen(arguments, env, plane, host, port, advertised, stopped)
        finally:
            await plane.stop()
    finally:
        await store.close()


def _audit(arguments: argparse.Namespace) -> AuditOptions | None:
    """Raises ValueError, OSError."""
    if arguments.audit_policy_file is None or not arguments.audit_log_path:
        if arguments.audit_policy_file is not None or arguments.audit_log_path:
            raise ValueError("the audit log needs both --audit-policy-file and --audit-log-path")
        return None
    from controlplane.audit.recorder import Options as AuditOptions
    from controlplane.audit.sink import FileOptions

    file = FileOptions(
        arguments.audit_log_path,
        arguments.audit_log_maxsize << 20,
        arguments.audit_log_maxage,
        arguments.audit_log_maxbackup,
        arguments.audit_log_mode == "blocking",
    )
    return AuditOptions(arguments.audit_policy_file.read_text(), file)


def _account_keys(arguments: argparse.Namespace) -> KeyFiles | None:
    """Raises ValueError, OSError."""
    signing, verifying = arguments.service_account_signing_key_file, arguments.service_account_key_file
    if signing is None:
        if verifying:
            raise ValueError("--service-account-key-file needs --service-account-signing-key-file")
        return None
    from controlplane.auth.keyfiles import KeyFiles

    return KeyFiles(signing.read_bytes(), [path.read_bytes() for path in verifying])


def _service_range(text: str) -> ipaddress.IPv4Network:
    """Raises ValueError, naming the flag."""
    try:
        found = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise ValueError(f"--service-cluster-ip-range: {error}") from error
    if found.prefixlen > MAX_SERVICE_PREFIX:
        raise ValueError(f'--service-cluster-ip-range: "{text}" is too small; wanted a /{MAX_SERVICE_PREFIX} or larger')
    return found


def _lifetime_s(text: str) -> float:
    """Raises ValueError, naming the flag."""
    from wherry.api.times import parse_duration

    if not text:
        return 0.0
    try:
        seconds = parse_duration(text) / 1e9
    except ValueError as error:
        raise ValueError(f"--certificate-lifetime: {error}") from error
    if seconds < MIN_CERTIFICATE_S:
        raise ValueError(f'--certificate-lifetime: "{text}"; wanted at least {MIN_CERTIFICATE_S:g}s')
    return seconds


async def _listen(
    arguments: argparse.Namespace,
    env: Env,
    plane: ControlPlane,
    host: str,
    port: int,
    advertised: str,
    stopped: asyncio.Event,
) -> int:
    """Serves until `stopped`, or until the control plane fails."""
    from controlplane.auth.admin import ADMIN, accounts, ensure_configs, keep_configs
    from controlplane.auth.serving import ServingCertificate
    from controlplane.fronts.grpc.server import JOIN_METHODS, MAX_TOKEN_RPCS, GrpcServer
    from wherry.api import resident
    from wherry.api.tasks import TaskGroup
    from wherry.client.config import write_private

    assert plane.ca is not None
    serving = ServingCertificate(
        plane.ca, env, _names(arguments, host, advertised), lifetime_s=plane.lifetimes().serving_s
    )
    server = GrpcServer(
        plane.services,
        env,
        credentials=serving.credentials(require_client_certificate=True),
        flow=plane.flow,
        auditor=plane.auditor,
    )
    joining = GrpcServer(
        plane.services,
        env,
        credentials=serving.credentials(require_client_certificate=False),
        only=JOIN_METHODS,
        reflection=False,
        max_rpcs=MAX_TOKEN_RPCS,
        flow=plane.flow,
        auditor=plane.auditor,
        tokens=plane.token_review,
    )
    bound = await server.start(join_host_port(host, port))
    join_address = arguments.join_listen or join_host_port(host, bound + 1)
    await joining.start(join_address)
    if port == 0:
        advertised = join_host_port(split_address(advertised, "--advertise")[0], bound)
    admin_config = arguments.data_dir / ADMIN.file
    write_private(arguments.data_dir / "ca.crt", plane.ca.certificate_pem)
    user_s = plane.lifetimes().user_s
    configs = accounts(arguments.ingress_config)
    ensure_configs(plane.ca, env, arguments.data_dir, advertised, configs, lifetime_s=user_s)
    kubernetes = _http_socket(arguments.http_listen, host, bound)
    if arguments.metrics:
        from controlplane.metrics import serve_metrics

        serve_metrics(arguments.metrics, plane.stalls, plane.heartbeats, plane.flow)
    try:
        async with TaskGroup() as group:
            ending = group.create_task(stopped.wait(), name="signals")
            failing = group.create_task(plane.wait(), name="control-plane-ends")
            background = [
                group.keep(serving.run, name="serving-certificate"),
                group.keep(
                    partial(keep_configs, plane.ca, env, arguments.data_dir, advertised, configs, lifetime_s=user_s),
                    name="client-configs",
                ),
                group.keep(plane.stalls.run, name="stalls"),
                group.keep(resident.give_back_while_idle, name="memory"),
            ]
            if kubernetes is not None:
                from controlplane.fronts.http.start import serve

                background.append(group.create_task(serve(plane, serving, kubernetes), name="http"))
                background += _announce_to_pods(arguments, plane, group, advertised, kubernetes)
            gc.collect()
            gc.freeze()  # what start-up made lives for ever: the collector need not look at it again and again
            _announce(arguments, join_host_port(host, bound), join_address, admin_config)
            await asyncio.wait((ending, failing), return_when=asyncio.FIRST_COMPLETED)
            for task in (ending, failing, *background):
                task.cancel()
    finally:
        log.info("stopping")
        plane.health.set_serving(False)
        await asyncio.gather(server.stop(), joining.stop())
    log.info("stopped")
    return 0


def _announce_to_pods(
    arguments: argparse.Namespace, plane: ControlPlane, group: TaskGroup, advertised: str, listening: socket.socket
) -> list[asyncio.Task[None]]:
    """The Service `kubernetes`, where pods can reach us at all."""
    from controlplane.apiservice import is_routable, keep
    from controlplane.auth.deciders import API_SERVER
    from wherry.client.client import Client

    listens_on, port = listening.getsockname()[:2]
    host = split_address(advertised, "--advertise")[0]
    if not is_routable(host) or listens_on.startswith("127."):
        return []
    client = Client(plane.local_transport(API_SERVER), field_manager="wherry-server")
    return [
        group.keep(
            partial(keep, client, arguments.service_cluster_ip_range, host, port, plane.replicas),
            name="kubernetes-service",
        )
    ]


def _http_socket(text: str | None, host: str, grpc_port: int) -> socket.socket | None:
    """None when it is turned off, or when nobody asked for it and its port is taken: a Kubernetes may run on this machine."""
    if text == "":
        return None
    from controlplane.fronts.http.start import open_socket

    if text is not None:
        return open_socket(*split_address(text, "--http-listen"))
    try:
        return open_socket(host, grpc_port + HTTP_PORT_OFFSET)
    except (OSError, OverflowError) as error:
        log.warning("the Kubernetes API is not served over HTTPS: %s; name another port with --http-listen", error)
        return None


def _announce(arguments: argparse.Namespace, address: str, join_address: str, admin_config: Path) -> None:
    log.info("ready: serving on %s, nodes join on %s; client config %s", address, join_address, admin_config)
    if arguments.ready_file is not None:
        arguments.ready_file.write_text(f"{address}\n")
    if arguments.ready_fd is not None:
        os.write(arguments.ready_fd, f"{address}\n".encode())
        os.close(arguments.ready_fd)


async def _open_store(arguments: argparse.Namespace, env: Env) -> Store:
    from controlplane.store.open import TLSFiles, open_store

    url = arguments.store or f"sqlite://{(arguments.data_dir / 'state.db').absolute()}"
    tls = None
    if arguments.store_ca or arguments.store_cert:
        tls = TLSFiles(arguments.store_ca, arguments.store_cert, arguments.store_key)
    return await open_store(url, env, tls=tls)


# By which pods know the API, besides the address of the Service `kubernetes`.
API_NAMES = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


def split_address(text: str, flag: str) -> tuple[str, int]:
    """Raises ValueError, naming the flag."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f'{flag}: "{text}" is no address; wanted HOST:PORT')
    return host.strip("[]"), int(port)


def join_host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _advertised(text: str, host: str, port: int) -> str:
    """What clients are told: the flag, or the address listened on, or this machine's own when that is every address."""
    if text:
        if text.rpartition(":")[2].isdigit() and text.count(":") == 1:
            return text
        return join_host_port(text.strip("[]"), port)
    if host in ("0.0.0.0", "::", ""):
        return join_host_port(_own_address(), port)
    return join_host_port(host, port)


def _own_address() -> str:
    """The source address of the default route; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _names(arguments: argparse.Namespace, host: str, advertised: str) -> list[str]:
    from controlplane.apiservice import cluster_ip

    names = ["localhost", "127.0.0.1", "::1", socket.gethostname(), *API_NAMES]
    names.append(cluster_ip(arguments.service_cluster_ip_range))
    if host not in ("0.0.0.0", "::"):
        names.append(host)
    else:
        names.append(_own_address())
    names.append(split_address(advertised, "--advertise")[0])
    return [*names, *arguments.san]
