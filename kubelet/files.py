"""The agent's own files for pods: log directories, /etc/hosts, termination messages. It is the
`kubelet.pods.services.Files` of real pods."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from kubelet.pods.naming import hosts_text
from kubelet.runtime.base import Mount
from wherry.pb import core_v1_pb2

NODE_HOSTS = Path("/etc/hosts")
TERMINATION_LIMIT = 4096
TERMINATION_LOG_LINES = 80
TERMINATION_LOG_BYTES = 2048


class PodFiles:
    """Below ROOT/pods/UID and ROOT/logs/NAMESPACE_NAME_UID."""

    def __init__(self, root: Path) -> None:
        self._pods = root / "pods"
        self._logs = root / "logs"

    def log_directory(self, pod: core_v1_pb2.Pod) -> str:
        metadata = pod.metadata
        return str(self._logs / f"{metadata.namespace}_{metadata.name}_{metadata.uid}")

    def hosts_mount(self, pod: core_v1_pb2.Pod, ips: Sequence[str], names: Sequence[str]) -> Mount | None:
        """None where what the runtime gives to pods on the node's network will do."""
        node_file = ""
        if pod.spec.host_network:
            if not pod.spec.host_aliases:
                return None
            node_file = NODE_HOSTS.read_text()
        path = self._pods / pod.metadata.uid / "etc-hosts"
        path.parent.mkdir(parents=True, exist_ok=True)
        # In place, not by renaming: running containers have this very file mounted.
        path.write_text(hosts_text(pod, ips, names, node_file))
        path.chmod(0o644)
        return Mount(str(path), "/etc/hosts")

    def termination_file(self, pod: core_v1_pb2.Pod, container: str, attempt: int) -> str:
        path = self._pods / pod.metadata.uid / "containers" / container / str(attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        path.chmod(0o666)  # whoever the container runs as may write it
        return str(path)

    def read_termination(self, path: str, log_path: str) -> str:
        try:
            with open(path, "rb") as file:
                text = file.read(TERMINATION_LIMIT).decode("utf-8", "replace")
        except OSError:
            text = ""
        if text or not log_path:
            return text
        from kubelet.streams.logs import tail_text

        return tail_text(Path(log_path), TERMINATION_LOG_LINES, TERMINATION_LOG_BYTES)

    def remove_log(self, log_path: str) -> None:
        if not log_path:
            return
        path = Path(log_path)
        for file in path.parent.glob(path.name + "*"):
            file.unlink(missing_ok=True)

    def remove_pod(self, pod: core_v1_pb2.Pod) -> None:
        shutil.rmtree(self.log_directory(pod), ignore_errors=True)
        base = self._pods / pod.metadata.uid
        for part in ("containers", "etc-hosts"):
            target = base / part
            if target.is_dir():
                shutil.rmtree(target, ignore_errors=True)
            else:
                target.unlink(missing_ok=True)
        try:
            base.rmdir()  # not with volumes in it: those have a teardown of their own
        except OSError:
            pass
