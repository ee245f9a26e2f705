"""Runs CNI's plugins for a sandbox, as a CRI runtime does: for runtimes that do not (`kubelet.runtime.docker`).

The result of each ADD is kept in a file until its DEL, which plugins want to see again; that file is also what tells a sandbox's
address to an agent that starts anew. Blocking; called in threads.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubelet.network import NetworkError, cni

TIMEOUT_S = 60
INTERFACE = "eth0"


@dataclass(frozen=True, slots=True)
class Plugins:
    """`results` is a directory of ours."""

    conf_dir: Path
    bin_dirs: tuple[str, ...]
    results: Path

    def ready(self) -> str:
        """Empty when there is a configuration, else what is missing."""
        return "" if (self.conf_dir / cni.CONFIG_NAME).exists() else "NetworkReady is false: no CNI configuration yet"

    def add(
        self, sandbox_id: str, netns: str, arguments: Mapping[str, str], capabilities: Mapping[str, Any]
    ) -> tuple[str, ...]:
        """The sandbox's addresses. Raises NetworkError; then nothing is left."""
        directory = self.conf_dir / cni.HOST_PORTS_DIR if capabilities else self.conf_dir
        try:
            document = json.loads((directory / cni.CONFIG_NAME).read_text())
        except (OSError, ValueError) as error:
            raise NetworkError(f"no network for pods yet: {error}") from error
        record: dict[str, Any] = {"conf": document, "args": dict(arguments), "capabilities": dict(capabilities)}
        self.results.mkdir(parents=True, exist_ok=True)
        self._save(sandbox_id, record)
        try:
            result = None
            for plugin in document["plugins"]:
                result = self._run("ADD", plugin, record, sandbox_id, netns, result) or result
        except NetworkError:
            self.delete(sandbox_id, netns)
            raise
        record["result"] = result
        self._save(sandbox_id, record)
        return _addresses(result)

    def delete(self, sandbox_id: str, netns: str) -> None:
        """Idempotent; `netns` may be gone (""). Raises NetworkError."""
        record = self._load(sandbox_id)
        if record is None:
            return
        for plugin in reversed(record["conf"]["plugins"]):
            self._run("DEL", plugin, record, sandbox_id, netns, record.get("result"))
        (self.results / f"{sandbox_id}.json").unlink(missing_ok=True)

    def addresses(self, sandbox_id: str) -> tuple[str, ...]:
        record = self._load(sandbox_id)
        return _addresses(record.get("result")) if record is not None else ()

    def _run(
        self,
        command: str,
        plugin: Mapping[str, Any],
        record: Mapping[str, Any],
        sandbox_id: str,
        netns: str,
        previous: Any,
    ) -> Any:
        conf = {**plugin, "name": record["conf"]["name"], "cniVersion": record["conf"]["cniVersion"]}
        wanted = plugin.get("capabilities") or {}
        runtime = {name: value for name, value in record["capabilities"].items() if wanted.get(name)}
        conf.pop("capabilities", None)
        if runtime:
            conf["runtimeConfig"] = runtime
        if previous is not None:
            conf["prevResult"] = previous
        environment = {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "CNI_COMMAND": command, "CNI_CONTAINERID": sandbox_id,
            "CNI_NETNS": netns, "CNI_IFNAME": INTERFACE, "CNI_PATH": os.pathsep.join(self.bin_dirs),
            "CNI_ARGS": ";".join(f"{name}={value}" for name, value in sorted(record["args"].items())),
        }  # fmt: skip
        try:
            done = subprocess.run(
                [self._binary(str(plugin["type"]))], input=json.dumps(conf).encode(), capture_output=True,
                env=environment, timeout=TIMEOUT_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NetworkError(f"CNI plugin {plugin['type']} ({command}): {error}") from error
        if done.returncode:
            raise NetworkError(f"CNI plugin {plugin['type']} ({command}): {_message(done.stdout, done.stderr)}")
        return json.loads(done.stdout) if command == "ADD" and done.stdout.strip() else None

    def _binary(self, name: str) -> str:
        for directory in self.bin_dirs:
            if os.path.exists(os.path.join(directory, name)):
                return os.path.join(directory, name)
        raise NetworkError(f"the CNI plugin {name} is in none of {', '.join(self.bin_dirs)}")

    def _save(self, sandbox_id: str, record: Mapping[str, Any]) -> None:
        temporary = self.results / f".{sandbox_id}.tmp"
        temporary.write_text(json.dumps(record))
        temporary.replace(self.results / f"{sandbox_id}.json")

    def _load(self, sandbox_id: str) -> dict[str, Any] | None:
        try:
            document = json.loads((self.results / f"{sandbox_id}.json").read_text())
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) else None


def _addresses(result: Any) -> tuple[str, ...]:
    ips: Sequence[Mapping[str, Any]] = (result or {}).get("ips") or ()
    return tuple(str(item["address"]).partition("/")[0] for item in ips)


def _message(stdout: bytes, stderr: bytes) -> str:
    try:
        return str(json.loads(stdout)["msg"])
    except (ValueError, LookupError, TypeError):
        return (stdout + stderr).decode(errors="replace").strip()[-500:]
