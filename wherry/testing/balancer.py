"""The balancer of the compose cluster (deploy/entrypoint) before servers on loopback. For tests of several replicas."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from wherry.testing.require import require_binary
from wherry.testing.server import free_port

ENTRYPOINT = Path(__file__).parents[2] / "deploy" / "entrypoint"


def configuration(replicas: Sequence[str], bind: str) -> str:
    """As the entrypoint writes it, for replicas as HOST:PORT."""
    function = re.search(r"^balance\(\) \{.*?^\}$", ENTRYPOINT.read_text(), re.MULTILINE | re.DOTALL)
    assert function is not None
    done = subprocess.run(
        ["bash", "-c", f'{function[0]}\nbalance "$1"', "balance", " ".join(replicas)],
        capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    assert "bind :6443" in done.stdout
    return done.stdout.replace("bind :6443", f"bind {bind}")


class Balancer:
    """`start`, then clients go to `address`; `stop` ends it."""

    def __init__(self, folder: Path, replicas: Sequence[str]) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._file = folder / "balancer.cfg"
        self._log = folder / "balancer.log"
        self._replicas = list(replicas)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = require_binary("haproxy", "haproxy")
        self._file.write_text(configuration(self._replicas, self.address))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "-db", "-f", str(self._file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(15)
            self._process = None
