"""A real image registry (the distribution's docker-registry) on loopback, with one user, for tests of pulling."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from wherry.testing.require import require_binary
from wherry.testing.server import free_port

USER, PASSWORD = "tester", "secret"
# bcrypt, with the least work.
_HTPASSWD = f"{USER}:$2b$04$CoSVmDNOFWxy8D8saO/AmelsOXc8y5HQzUkrJ1ATyisXMOEGI.ja2\n"
START_TIMEOUT_S = 30.0


class ImageRegistry:
    """`start`, then `stop`. `prefix` runs it somewhere else, such as in a network namespace; `private` asks for a
    password."""

    def __init__(self, folder: Path, *, private: bool, prefix: Sequence[str] = ()) -> None:
        self.folder = folder
        self.host = f"127.0.0.1:{free_port()}"
        self._private = private
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = require_binary("docker-registry", "docker-registry")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "htpasswd").write_text(_HTPASSWD)
        document = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "data")}, "delete": {"enabled": True}},
            "http": {"addr": self.host},
        }
        if self._private:
            document["auth"] = {"htpasswd": {"realm": "test", "path": str(self.folder / "htpasswd")}}
        config = self.folder / "config.yml"
        config.write_text(json.dumps(document))  # JSON is YAML
        with (self.folder / "registry.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._prefix, binary, "serve", str(config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "registry.log").read_text(errors="replace")[-2000:]
                self.stop()
                raise AssertionError(f"docker-registry does not answer:\n{said}")
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

    def _answers(self) -> bool:
        if self._prefix:
            # Not ours to reach: the port is in the kernel's table of that namespace.
            port = f":{int(self.host.rpartition(':')[2]):04X}"
            table = subprocess.run(
                [*self._prefix, "cat", "/proc/net/tcp", "/proc/net/tcp6"], capture_output=True, text=True, check=False
            ).stdout
            return any(line.split()[1].endswith(port) and line.split()[3] == "0A" for line in table.splitlines()[1:])
        connection = http.client.HTTPConnection(self.host, timeout=2)
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status in (200, 401)
        except OSError:
            return False
        finally:
            connection.close()
