"""A private containerd: its configuration, its start, its supervision and its end. Called by the agent (`wherry agent`) and, for
cleaning up, by `wherry down`.

Everything it touches lies below the two directories of its `Layout`, so it never meets the distribution's containerd. It runs
in a session of its own and is found again by its pid file or its socket: an agent that dies leaves it, and the containers,
running, and the next agent adopts it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kubelet.network import cni
from kubelet.runtime import mounts
from kubelet.runtime.archives import PAUSE_IMAGE
from kubelet.runtime.base import RuntimeFailure
from kubelet.runtime.cri import DEFAULT_HANDLER, CriRuntime
from kubelet.runtime.processes import SBIN, ProcessRef, find_binary, spawn, tail

log = logging.getLogger(__name__)

MINIMUM_VERSION = (1, 6)
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.2, 10.0
# A containerd that ran this long starts its back-off anew.
HEALTHY_AFTER_S = 60.0
# Linux: a unix socket's path, its closing zero included.
MAX_SOCKET_PATH_BYTES = 108

CNI_BIN_DIRS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
# A runtime of the same runc whose sandboxes may have host ports: CNI configurations are per runtime.
HOST_PORTS_HANDLER = "host-ports"
RUNC_SHIM = "io.containerd.runc.v2"
_CAP_SYS_RESOURCE = 24
# What a node of ours never uses; each costs a little memory and start-up time. (runtime.v1.linux has to stay: 1.6 loads no task
# service without it.)
_DISABLED_PLUGINS = (
    "io.containerd.internal.v1.restart",
    "io.containerd.internal.v1.tracing",
    "io.containerd.nri.v1.nri",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp",
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one containerd keeps things: `data` outlives a reboot, `run` does not. Both belong to this node alone."""

    data: Path
    run: Path

    @property
    def root(self) -> Path:
        return self.data / "containerd"

    @property
    def state(self) -> Path:
        return self.run / "containerd"

    @property
    def socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def config(self) -> Path:
        return self.run / "containerd.toml"

    @property
    def pid_file(self) -> Path:
        return self.run / "containerd.pid"

    @property
    def log(self) -> Path:
        return self.data / "containerd.log"

    @property
    def netns_dir(self) -> Path:
        """Where the sandboxes' namespaces are mounted (netns_mounts_under_state_dir)."""
        return self.state / "io.containerd.grpc.v1.cri" / "netns"

    @property
    def cni_conf_dir(self) -> Path:
        return self.data / "cni" / "net.d"

    @property
    def host_ports_conf_dir(self) -> Path:
        return self.cni_conf_dir / cni.HOST_PORTS_DIR

    @property
    def ipam_dir(self) -> Path:
        return self.data / "cni" / "ipam"


@dataclass(frozen=True, slots=True)
class ContainerdOptions:
    layout: Layout
    sandbox_image: str = PAUSE_IMAGE
    systemd_cgroup: bool = False
    snapshotter: str = ""  # "" chooses overlayfs where the kernel and the file system can, else native
    registry_config_dir: str = "/etc/containerd/certs.d"
    handlers: Mapping[str, str] = field(default_factory=dict)  # besides runc: what RuntimeClasses can name
    log_level: str = "info"
    cni_conf_dir: Path | None = None  # somebody else's; None: `Layout.cni_conf_dir`, which `kubelet.network` fills
    cni_bin_dir: Path | None = None


class Containerd:
    """Use: `await start()`, then run `supervise()` as a task for as long as containerd is to be kept alive. `stop` ends
    containerd alone (containers go on); `destroy` ends everything and removes what is left."""

    def __init__(self, options: ContainerdOptions) -> None:
        self.options = options
        self.layout = options.layout
        self.process: ProcessRef | None = None
        self._stopping = False

    @property
    def endpoint(self) -> str:
        return f"unix://{self.layout.socket}"

    async def start(self) -> None:
        """Adopts the one that runs, else starts one. Returns when it answers; raises RuntimeFailure with its last words."""
        layout = self.layout
        _check_socket_path(layout.socket)
        binary = find_binary("containerd")
        await check_version(binary)
        for directory in (layout.root, layout.state, layout.host_ports_conf_dir, layout.ipam_dir):
            directory.mkdir(parents=True, exist_ok=True)
        text = render_config(self.options, self.options.snapshotter or choose_snapshotter(layout.root))
        running = find_running(layout)
        if running is not None:
            if _read(layout.config) == text and await self._answers(running):
                self.process = running
                running.write(layout.pid_file)
                return
            # Another configuration, or it hangs. Its shims and containers do not notice that it is replaced.
            log.warning("restarting containerd (pid %d): it hangs or its configuration has changed", running.pid)
            await asyncio.to_thread(running.terminate, STOP_TIMEOUT_S)
        layout.config.write_text(text)
        layout.socket.unlink(missing_ok=True)
        env = {"PATH": os.pathsep.join(SBIN), "HOME": "/root", "LANG": "C.UTF-8"}
        env |= {
            key: value for key, value in os.environ.items() if key.lower() in ("http_proxy", "https_proxy", "no_proxy")
        }
        try:
            process = spawn([binary, "--config", str(layout.config)], log=layout.log, env=env)
        except OSError as error:
            raise RuntimeFailure(f"cannot run {binary}: {error}") from error
        process.write(layout.pid_file)
        if not await self._answers(process):
            process.signal(signal.SIGKILL)
            raise RuntimeFailure(f"containerd did not start; the end of {layout.log}:\n{tail(layout.log)}")
        self.process = process

    async def supervise(self) -> None:
        """Starts containerd again, with back-off, whenever it ends. Returns after `stop`; cancel it to leave containerd be."""
        loop = asyncio.get_running_loop()
        backoff_s = FIRST_BACKOFF_S
        while not self._stopping:
            since = loop.time()
            if self.process is not None:
                await self.process.wait()
            if self._stopping:
                return
            if loop.time() - since > HEALTHY_AFTER_S:
                backoff_s = FIRST_BACKOFF_S
            log.error("containerd has ended; starting it again in %.1f s", backoff_s)
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)
            self.process = None
            try:
                await self.start()
            except RuntimeFailure as error:
                log.error("%s", error)

    async def stop(self) -> None:
        """Ends containerd and nothing else: the containers run on under their shims."""
        self._stopping = True
        process = self.process or find_running(self.layout)
        if process is not None:
            await asyncio.to_thread(process.terminate, STOP_TIMEOUT_S)
        self.layout.pid_file.unlink(missing_ok=True)

    async def destroy(self) -> None:
        """Stops and removes every sandbox, then containerd, then whatever is left of either."""
        from kubelet.runtime import cleanup

        if find_running(self.layout) is not None:
            await cleanup.remove_all_sandboxes(self.endpoint)
        await self.stop()
        await asyncio.to_thread(cleanup.remove_leftovers, self.layout)

    async def _answers(self, process: ProcessRef) -> bool:
        """Waits until CRI answers; False when the process ends first or START_TIMEOUT_S pass."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_TIMEOUT_S
        while loop.time() < deadline and process.alive():
            if _accepts(self.layout.socket):
                cri = CriRuntime(self.endpoint)
                try:
                    async with asyncio.timeout(5.0):
                        await cri.version()
                    return True
                except RuntimeFailure as error:
                    if not error.retryable:
                        return False  # it runs, but its CRI part did not load: the log says why
                except TimeoutError:
                    pass  # the socket is there before its services are
                finally:
                    await cri.close()
            await asyncio.sleep(0.02)
        return False


# -- configuration


def _handler(cri: str, options: ContainerdOptions, name: str, runtime: str, *, host_ports: bool) -> str:
    """`runtime`: a binary that is used as runc is, or the type of another shim. Each has a second entry for pods with host ports,
    whose network is made in another way."""
    q, layout = json.dumps, options.layout
    entry = name
    if host_ports:
        entry = HOST_PORTS_HANDLER if name == DEFAULT_HANDLER else f"{name}-{HOST_PORTS_HANDLER}"
    binary = runtime.startswith("/")
    lines = [
        f"[{cri}.containerd.runtimes.{q(entry)}]",
        f"  runtime_type = {q(RUNC_SHIM if binary else runtime)}",
    ]
    if host_ports:
        lines += [f"  cni_conf_dir = {q(str(layout.host_ports_conf_dir))}", "  cni_max_conf_num = 1"]
    if binary:
        lines += [
            "",
            f"[{cri}.containerd.runtimes.{q(entry)}.options]",
            f"  BinaryName = {q(runtime)}",
            f"  Root = {q(str(layout.run / name))}",
            f"  SystemdCgroup = {str(options.systemd_cgroup).lower()}",
        ]
    return "\n".join([*lines, "", ""])


def render_config(options: ContainerdOptions, snapshotter: str) -> str:
    """containerd's configuration, version 2 (read by 1.6 and everything after it)."""
    layout = options.layout
    q = json.dumps  # a JSON string is a TOML basic string
    disabled = [*_DISABLED_PLUGINS, *(["io.containerd.snapshotter.v1.native"] if snapshotter != "native" else [])]
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    found = {DEFAULT_HANDLER: find_binary("runc"), **options.handlers}
    handlers = "".join(
        _handler(cri, options, name, found[name], host_ports=host_ports)
        for name in sorted(found)
        for host_ports in (False, True)
    )
    return f"""# Written by wherry at every start; changes are lost.
version = 2
root = {q(str(layout.root))}
state = {q(str(layout.state))}
disabled_plugins = {q(sorted(disabled))}

[grpc]
  address = {q(str(layout.socket))}
  max_recv_message_size = {64 << 20}
  max_send_message_size = {64 << 20}

[debug]
  level = {q(options.log_level)}

[{cri}]
  sandbox_image = {q(options.sandbox_image)}
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = {str(not may_lower_oom_score()).lower()}
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"

[{cri}.cni]
  bin_dir = {q(str(options.cni_bin_dir or find_cni_bin_dir()))}
  conf_dir = {q(str(options.cni_conf_dir or layout.cni_conf_dir))}

[{cri}.registry]
  config_path = {q(options.registry_config_dir)}

[{cri}.containerd]
  snapshotter = {q(snapshotter)}
  default_runtime_name = "runc"

{handlers}[plugins."io.containerd.internal.v1.opt"]
  path = {q(str(layout.root / "opt"))}
"""


def may_lower_oom_score() -> bool:
    """Whether we hold CAP_SYS_RESOURCE; without it a container's oom_score_adj may not be below our own."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
    return True


def find_cni_bin_dir() -> str:
    for directory in CNI_BIN_DIRS:
        if os.path.exists(os.path.join(directory, "bridge")):
            return directory
    raise RuntimeFailure(
        f"the CNI plugins are in none of {', '.join(CNI_BIN_DIRS)} "
        "(on Debian and Ubuntu: apt-get install containernetworking-plugins)"
    )


async def check_version(binary: str) -> None:
    """Raises RuntimeFailure when this containerd has no CRI v1."""
    process = await asyncio.create_subprocess_exec(binary, "--version", stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    text = output.decode("utf-8", "replace").strip()
    match = re.search(r"\bv?(\d+)\.(\d+)\.\d+", text)
    if match and (int(match[1]), int(match[2])) < MINIMUM_VERSION:
        wanted = ".".join(str(part) for part in MINIMUM_VERSION)
        raise RuntimeFailure(f'containerd is too old: "{text}"; CRI v1 needs {wanted} or later', retryable=False)


def choose_snapshotter(root: Path) -> str:
    """overlayfs where it works, else native (which copies whole layers)."""
    return "overlayfs" if mounts.overlay_works(root) else "native"


def _check_socket_path(path: Path) -> None:
    # containerd puts a second socket, PATH.ttrpc, beside it.
    longest = len(os.fsencode(path)) + len(".ttrpc") + 1
    if longest > MAX_SOCKET_PATH_BYTES:
        raise RuntimeFailure(
            f"socket path {path}: {longest} bytes with its companion's suffix, at most {MAX_SOCKET_PATH_BYTES} are "
            "possible; use a shorter run directory",
            retryable=False,
        )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


# -- finding it again


def find_running(layout: Layout) -> ProcessRef | None:
    """By the pid file, else by whoever listens on the socket."""
    return ProcessRef.read(layout.pid_file) or _listener(layout.socket)


def _listener(path: Path) -> ProcessRef | None:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(1.0)
            sock.connect(str(path))
            pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    except OSError:
        return None
    return ProcessRef.of(pid)


def _accepts(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(1.0)
            sock.connect(str(path))
    except OSError:
        return False
    return True
