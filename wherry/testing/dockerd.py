"""A Docker daemon of the tests' own: its data, its socket and its pid file in a temporary directory, its bridges and rules in a
network namespace, its mounts in a mount namespace and its containers below a cgroup of its own, so that nothing is left when it
has ended, and a Docker that the machine has is not touched. For tests/compose and the runtime contract.

"The host" of such a daemon is its network namespace: `host` runs a command there.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from kubelet.runtime.processes import ProcessRef, reap
from wherry.testing.require import require_binary, require_root

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


class Dockerd:
    """`start`, then `stop`, by whoever made it."""

    def __init__(self, *options: str, network: bool = True) -> None:
        """Without a `network` of its own it makes none for containers either: they have what somebody else makes for them."""
        self.name = "wd" + secrets.token_hex(3)
        self.cgroup = f"/wherry-{self.name}"
        self._network = network
        self._options = options
        if not network:
            # An idle bridge of its own: one that is to have none removes the docker0 of a Docker that the machine has.
            self._options += ("--bridge", self.name, "--iptables=false", "--ip-forward=false", "--ip-masq=false")
        # A short path: it holds unix sockets.
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir="/tmp"))
        self.socket = self.directory / "docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def netns(self) -> str:
        return f"/run/netns/{self.name}"

    @property
    def inside(self) -> list[str]:
        """What to put before a command that is to run on "the host"."""
        return ["nsenter", f"--net={self.netns}", "--"] if self._network else []

    @property
    def certificates(self) -> Path:
        """Where it looks for a registry's CA, in a folder of the registry's name."""
        assert self._process is not None
        return Path("/proc", str(self._process.pid), "root", "etc", "docker", "certs.d")

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": self.url, "WHERRY_CGROUP_PARENT": self.cgroup}

    def start(self) -> None:
        require_root()
        dockerd = require_binary("dockerd", "docker.io")
        require_binary("docker", "docker.io")
        if self._network:
            _run("ip", "netns", "add", self.name)
            _run("ip", "-n", self.name, "link", "set", "lo", "up")
        else:
            _run("ip", "link", "add", self.name, "type", "bridge")
            _run("ip", "address", "add", f"169.254.{secrets.randbelow(250) + 2}.1/24", "dev", self.name)
        # nsenter changes the network alone: `ip netns exec` would hide /sys and its cgroups. /etc/docker is where dockerd
        # leaves a key whatever it is told.
        script = 'mkdir -p /etc/docker && mount -t tmpfs tmpfs /etc/docker && exec "$@"'
        with (self.directory / "dockerd.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *self.inside, "unshare", "--mount", "--propagation", "private",
                    "sh", "-c", script, "sh", dockerd, "--data-root", str(self.directory / "data"),
                    "--exec-root", str(self.directory / "exec"), "--pidfile", str(self.directory / "docker.pid"),
                    "--host", self.url, "--cgroup-parent", self.cgroup, *self._options,
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.docker("version", check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self.directory / "dockerd.log").read_text(errors="replace")[-2000:]
                self.stop()
                raise AssertionError(f"dockerd does not answer:\n{said}")
            time.sleep(0.1)

    def docker(self, *words: str, check: bool = True, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
        return self.host("docker", *words, check=check)

    def host(
        self, *argv: str, check: bool = True, timeout_s: float = 120, env: dict[str, str] | None = None,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Runs a command on "the host"; with `check`, a failure fails the test with what was said."""
        done = subprocess.run(
            [*self.inside, *argv], capture_output=True, text=True, timeout=timeout_s,
            env={**self.environment, **(env or {})}, check=False, input=stdin,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def build_images(self, image: str = "wherry:dev", base: str = "") -> str:
        """What `make images` does, from what is cached where possible. What it said."""
        require_binary("mmdebstrap", "mmdebstrap")
        # Not on "the host", which has no network: pip and apt use this machine's.
        done = subprocess.run(
            [str(ROOT / "deploy" / "images")], capture_output=True, text=True, timeout=900, check=False,
            env={**self.environment, "WHERRY_IMAGE": image, "NO_REGISTRY": "1", "PYTHON": _python(), "BASE": base},
        )  # fmt: skip
        if done.returncode:
            raise AssertionError(f"deploy/images: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stderr

    # -- what it has of containers

    def links(self) -> list[str]:
        """Of "the host"."""
        return [line.split(":")[1].split("@")[0].strip() for line in self.host("ip", "-o", "link").stdout.splitlines()]

    def rules(self) -> list[str]:
        """Of nftables (and iptables on it), each with its table and chain, without counts."""
        found, where = [], ["", ""]
        for line in self.host("nft", "list", "ruleset").stdout.splitlines():
            depth = len(line) - len(line.lstrip("\t"))
            if depth < 2:
                where[depth:] = [line.strip(" \t{}")] + [""] * (1 - depth)
            found.append(" ".join([*where, re.sub(r"counter packets \d+ bytes \d+", "", line.strip(" \t{}"))]).strip())
        return sorted({line for line in found if line})

    def flows(self) -> list[str]:
        """The connections that the kernel knows of."""
        return self.host("conntrack", "-L").stdout.splitlines()

    def mounts(self) -> list[str]:
        """In its mount namespace."""
        assert self._process is not None
        lines = Path(f"/proc/{self._process.pid}/mounts").read_text().splitlines()
        return [place for place in (line.split()[1] for line in lines) if place.startswith(str(self.directory))]

    def container_processes(self) -> list[str]:
        """Their pids."""
        found = [
            pid
            for directory in _cgroup_directories(self.cgroup)
            for procs in directory.rglob("cgroup.procs")
            for pid in procs.read_text().split()
        ]
        return sorted(set(found))

    def stop(self) -> None:
        """Ends every container, the daemon and what belongs to it."""
        if self._process is not None and self._process.poll() is None:
            left = self.docker("ps", "--all", "--quiet", check=False).stdout.split()
            if left:
                self.docker("rm", "--force", "--volumes", *left, check=False)
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        _end_processes(self.cgroup)
        kind = "netns" if self._network else "link"
        subprocess.run(["ip", kind, "delete", self.name], capture_output=True, check=False)
        _remove_cgroups(self.cgroup)
        shutil.rmtree(self.directory, ignore_errors=True)


def _python() -> str:
    import sys

    return sys.executable


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def _cgroup_directories(name: str) -> Sequence[Path]:
    top = Path("/sys/fs/cgroup")
    return [path for path in (top / name.strip("/"), *top.glob(f"*/{name.strip('/')}")) if path.is_dir()]


def _end_processes(cgroup: str) -> None:
    """A daemon that was killed leaves its containers."""
    for directory in _cgroup_directories(cgroup):
        for procs in directory.rglob("cgroup.procs"):
            for pid in procs.read_text().split():
                reference = ProcessRef.of(int(pid))
                if reference is not None:
                    reference.signal(9)
                    reap(int(pid))


def _remove_cgroups(cgroup: str) -> None:
    for directory in _cgroup_directories(cgroup):
        for path, _, _ in os.walk(directory, topdown=False):
            try:
                os.rmdir(path)
            except OSError:
                pass  # the kernel has not let go yet; an empty cgroup does no harm
