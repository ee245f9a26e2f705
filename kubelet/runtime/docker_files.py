"""/etc/resolv.conf of pods on Docker. With CNI Docker's own file is rewritten, once, when the sandbox has its network; on the
node's own network Docker would put a resolver of its own before ours, so the pod's containers get a file of ours. Blocking;
called by `kubelet.runtime.docker` in threads.
"""

from __future__ import annotations

from pathlib import Path

from kubelet.runtime.base import DNSConfig, Mount

RESOLV_CONF = "/etc/resolv.conf"


def write_resolver(path: str | Path, dns: DNSConfig) -> None:
    """In place, and only when it says something else: running containers may have this very file mounted."""
    lines = [f"nameserver {server}" for server in dns.servers]
    if dns.searches:
        lines.append(f"search {' '.join(dns.searches)}")
    if dns.options:
        lines.append(f"options {' '.join(dns.options)}")
    wanted, path = "\n".join(lines) + "\n", Path(path)
    if not path.exists() or path.read_text() != wanted:
        path.write_text(wanted)


class Resolvers:
    """A file for each pod, by its uid, in a directory of ours."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def mount(self, pod_uid: str, dns: DNSConfig) -> Mount:
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / pod_uid
        write_resolver(path, dns)
        path.chmod(0o644)
        return Mount(str(path), RESOLV_CONF)

    def forget(self, pod_uid: str) -> None:
        (self._directory / pod_uid).unlink(missing_ok=True)
