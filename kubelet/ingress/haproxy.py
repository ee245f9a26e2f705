"""Routes as haproxy's configuration, and changes of endpoints as commands to a running one. Pure; called by `controller`.

Hosts and paths stand in map files, which haproxy looks up in trees: a request costs the same with one Ingress and with
thousands. Each backend has some more server slots than it needs, so that endpoints come and go without a reload; only what else
changes takes one, and that drops no connection either (haproxy hands its sockets on).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kubelet.ingress.routes import ANY_HOST, Backend, Routes, Target

MIN_SLOTS = 4
# The challenge of an ACME server comes by HTTP, also where all else is sent to HTTPS.
ACME = "/.well-known/acme-challenge/"
OLD_WORKER_S = 300  # what a worker that was replaced still has, for the connections that it carries


@dataclass(frozen=True, slots=True)
class Options:
    """Where haproxy listens and what it may be: `user` is the account its workers run as ("" for ours)."""

    addresses: tuple[str, ...]
    http_port: int
    https_port: int
    socket: Path
    user: str = ""


@dataclass(slots=True)
class Slots:
    """Which server of each backend stands for which endpoint; None is a free one. Kept from one change to the next, so that
    an endpoint keeps its server."""

    servers: dict[str, list[Target | None]] = field(default_factory=dict)

    def level(self, backends: Mapping[str, Backend]) -> dict[str, list[int]] | None:
        """Takes over the backends' endpoints. The slots that changed, by backend; None when haproxy has to be configured
        anew, since a backend is new, gone, or has too few slots."""
        again = set(self.servers) != set(backends)
        changed: dict[str, list[int]] = {}
        for name in [name for name in self.servers if name not in backends]:
            del self.servers[name]
        for name, backend in backends.items():
            slots = self.servers.get(name, [])
            wanted = set(backend.targets)
            touched = [number for number, target in enumerate(slots) if target is not None and target not in wanted]
            for number in touched:
                slots[number] = None
            coming = [target for target in backend.targets if target not in slots]
            free = [number for number, target in enumerate(slots) if target is None]
            if len(coming) > len(free):
                size = _slots_for(len(wanted))
                slots += [None] * (size - len(slots))
                free = [number for number, target in enumerate(slots) if target is None]
                again = True
            for number, target in zip(free, coming, strict=False):
                slots[number] = target
            self.servers[name] = slots
            if found := sorted({*touched, *free[: len(coming)]}):
                changed[name] = found
        return None if again else changed


def _slots_for(targets: int) -> int:
    size = MIN_SLOTS
    while size < targets + targets // 4:
        size *= 2
    return size


def commands(slots: Slots, changed: Mapping[str, Iterable[int]]) -> list[str]:
    """For the runtime socket. An endpoint that goes takes no new connection; those that it has may end."""
    lines = []
    for name, numbers in changed.items():
        for number in numbers:
            server, target = f"{name}/s{number + 1}", slots.servers[name][number]
            if target is None:
                lines.append(f"set server {server} state maint")
            else:
                lines.append(f"set server {server} addr {target[0]} port {target[1]}")
                lines.append(f"set server {server} state ready")
    return lines


def needs_names(routes: Routes) -> bool:
    return any(_is_name(target) for backend in routes.backends.values() for target in backend.targets)


def structure(routes: Routes, certificates: Mapping[str, Path]) -> object:
    """What only a reload can change: compare it to the last one."""
    plain = {
        name: (item.protocol, tuple(t for t in item.targets if _is_name(t))) for name, item in routes.backends.items()
    }
    return (
        sorted(routes.hosts), routes.exact, routes.prefixes, plain, routes.default, sorted(routes.redirects),
        {name: (path, sorted(routes.secrets.get(name, ()))) for name, path in certificates.items()},
    )  # fmt: skip


def files(
    routes: Routes, slots: Slots, options: Options, folder: Path, certificates: Mapping[str, Path], fallback: Path
) -> dict[str, str]:
    """Name of a file in `folder` -> its content. `certificates`: Secret -> PEM file, of those that are sound; `fallback` is
    shown to whom none of them fits."""
    site = {host: host for host in routes.hosts if host != ANY_HOST}
    bound = [f"{fallback}"]
    for name, path in sorted(certificates.items()):
        hosts = sorted(routes.secrets.get(name, ()))
        bound.append(f"{path} {' '.join(hosts)}".rstrip())
    return {
        "hosts.map": _map(site),
        "exact.map": _map({f"{host}{path}": backend for (host, path), backend in routes.exact.items()}),
        "prefix.map": _map({f"{host}{path}/": backend for (host, path), backend in routes.prefixes.items()}),
        "redirect.map": _map(dict.fromkeys(routes.redirects, "1")),
        "certificates.list": "".join(f"{line}\n" for line in bound),
        "haproxy.cfg": _configuration(routes, slots, options, folder),
    }


def _map(entries: Mapping[str, str]) -> str:
    return "".join(f"{key} {value}\n" for key, value in sorted(entries.items()))


def _configuration(routes: Routes, slots: Slots, options: Options, folder: Path) -> str:
    http = [f"  bind {address}:{options.http_port}" for address in options.addresses]
    https = [
        f"  bind {address}:{options.https_port} ssl crt-list {folder}/certificates.list alpn h2,http/1.1"
        for address in options.addresses
    ]
    user = [f"  user {options.user}", f"  group {options.user}"] if options.user else []
    lines = [
        "# Written by wherry ingress. What is changed here by hand is lost at the next change of an Ingress.",
        "global",
        f"  stats socket {options.socket} mode 600 level admin expose-fd listeners",
        f"  hard-stop-after {OLD_WORKER_S}s",
        "  log stderr format raw local0 notice",
        "  ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets",
        "  tune.ssl.default-dh-param 2048",
        *user,
        "defaults",
        "  mode http",
        # A worker that is replaced answers what comes on connections that clients keep, and ends them with the answer: ended
        # while they wait, the request that a client has just sent would be lost.
        "  option idle-close-on-response",
        "  option redispatch 1",
        "  retries 3",
        "  retry-on conn-failure",
        "  timeout connect 5s",
        "  timeout client 60s",
        "  timeout server 60s",
        "  timeout queue 10s",
        "  timeout http-request 10s",
        "  timeout http-keep-alive 60s",
        "  timeout tunnel 1h",
        "frontend http",
        *http,
        *_routing(folder, "http", options.http_port),
        f"  http-request redirect {_to_https(options)} code 308 if {{ var(txn.site),map_str({folder}/redirect.map) -m found }} "
        f"!{{ path_beg {ACME} }}",
        *_choice(routes),
        "frontend https",
        *https,
        *_routing(folder, "https", options.https_port),
        *_choice(routes),
        "backend no-route",
        '  http-request return status 404 content-type "text/plain; charset=utf-8" string '
        '"default backend - 404: no Ingress has a rule for this host and path\\n"',
    ]
    if needs_names(routes):
        lines += ["resolvers host", "  parse-resolv-conf", "  hold valid 10s"]
    for name, backend in sorted(routes.backends.items()):
        lines += _backend(backend, slots.servers[name])
    return "\n".join(lines) + "\n"


def _to_https(options: Options) -> str:
    if options.https_port == 443:
        return "scheme https"
    return f"prefix https://%[var(txn.host)]:{options.https_port}"


def _routing(folder: Path, scheme: str, port: int) -> list[str]:
    """Sets txn.site (the rule's host) and txn.backend. With a slash behind it, a path begins with a prefix's entry only
    where Kubernetes' element-wise comparison says so, and a tree of prefixes gives the longest one."""
    unknown = "!{ var(txn.site) -m found }"
    return [
        "  option forwardfor",
        "  http-request set-header X-Real-IP %[src]",
        "  http-request set-header X-Forwarded-Host %[req.hdr(host)]",
        f"  http-request set-header X-Forwarded-Proto {scheme}",
        f"  http-request set-header X-Forwarded-Port {port}",
        "  http-request set-var(txn.host) req.hdr(host),field(1,:),lower",
        f"  http-request set-var(txn.site) var(txn.host),map_str({folder}/hosts.map)",
        rf"  http-request set-var(txn.site) 'var(txn.host),regsub(^[^.]+,*),map_str({folder}/hosts.map)' if {unknown}",
        f"  http-request set-var(txn.site) str({ANY_HOST}) if {unknown}",
        "  http-request set-var(txn.path) path",
        f"  http-request set-var(txn.backend) var(txn.site),concat(,txn.path),map_str({folder}/exact.map)",
        f"  http-request set-var(txn.backend) var(txn.site),concat(,txn.path,/),map_beg({folder}/prefix.map) "
        "if !{ var(txn.backend) -m found }",
    ]  # fmt: skip


def _choice(routes: Routes) -> list[str]:
    return [
        "  use_backend %[var(txn.backend)] if { var(txn.backend) -m found }",
        f"  default_backend {routes.default or 'no-route'}",
    ]


def _backend(backend: Backend, slots: list[Target | None]) -> list[str]:
    extra = {"h2c": " proto h2", "https": " ssl verify none alpn h2,http/1.1"}.get(backend.protocol, "")
    lines = [f"backend {backend.name}", "  balance roundrobin"]
    for number, target in enumerate(slots, 1):
        if target is None:
            lines.append(f"  server s{number} 127.0.0.1:1{extra} disabled")
        elif _is_name(target):
            lines.append(f"  server s{number} {target[0]}:{target[1]}{extra} resolvers host init-addr libc,none")
        else:
            lines.append(f"  server s{number} {target[0]}:{target[1]}{extra}")
    return lines


def _is_name(target: Target) -> bool:
    return not target[0][-1:].isdigit()
