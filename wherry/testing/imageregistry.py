"""A real image registry (the distribution's docker-registry) with one user, and a thin line before it, for tests of pulling.
Images are pushed over its own HTTP API.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import platform
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from controlplane.auth.ca import make_authority
from controlplane.auth.certificates import issue_serving
from wherry.api.context import Env
from wherry.testing.require import require_binary
from wherry.testing.server import free_port

USER, PASSWORD = "tester", "secret"
# bcrypt, with the least work.
_HTPASSWD = f"{USER}:$2b$04$CoSVmDNOFWxy8D8saO/AmelsOXc8y5HQzUkrJ1ATyisXMOEGI.ja2\n"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
START_TIMEOUT_S = 30.0
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


class ImageRegistry:
    """`start`, then `stop`. `prefix` runs it somewhere else, such as in a network namespace; `private` asks for a
    password, `tls` for HTTPS, with a certificate by `ca`. Several may have their `data` in one folder."""

    def __init__(
        self, folder: Path, *, private: bool = False, prefix: Sequence[str] = (), address: str = "127.0.0.1",
        tls: bool = False, data: Path | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.ca = folder / "ca.crt"
        self._data = data or folder / "data"
        self._address = address
        self._tls = tls
        self.host = f"{address}:{free_port()}"
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
            "storage": {"filesystem": {"rootdirectory": str(self._data)}, "delete": {"enabled": True}},
            "http": {"addr": self.host},
        }
        if self._private:
            document["auth"] = {"htpasswd": {"realm": "test", "path": str(self.folder / "htpasswd")}}
        if self._tls:
            document["http"] |= {"tls": self._make_certificate()}  # type: ignore[operator]
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

    def _make_certificate(self) -> dict[str, str]:
        env = Env()
        authority = make_authority(env, "registry")
        pair = issue_serving(authority, env, [self._address])
        self.ca.write_bytes(authority.certificate_pem)
        certificate, key = self.folder / "tls.crt", self.folder / "tls.key"
        certificate.write_bytes(pair.certificate_pem)
        key.write_bytes(pair.key_pem)
        return {"certificate": str(certificate), "key": str(key)}

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

    def push_index(self, repository: str, tag: str, images: Mapping[str, tuple[list[bytes], dict[str, object]]]) -> str:
        """One name for images of several architectures. The digest of the list."""
        entries = []
        for architecture, (layers, config) in sorted(images.items()):
            digest = self.push(repository, f"{tag}-{architecture}", layers, config, architecture)
            request = urllib.request.Request(f"http://{self.host}/v2/{repository}/manifests/{digest}")
            request.add_header("Accept", _MANIFEST)
            with urllib.request.urlopen(request, timeout=60) as answer:
                size = len(answer.read())
            entries.append(
                {
                    "mediaType": _MANIFEST, "digest": digest, "size": size,
                    "platform": {"os": "linux", "architecture": architecture},
                }
            )  # fmt: skip
        index = json.dumps({"schemaVersion": 2, "mediaType": _INDEX, "manifests": entries}).encode()
        self._ask("PUT", f"/v2/{repository}/manifests/{tag}", index, _INDEX)
        return f"sha256:{hashlib.sha256(index).hexdigest()}"

    def push(
        self, repository: str, tag: str, layers: list[bytes], config: dict[str, object], architecture: str = ""
    ) -> str:
        """The manifest's digest. `config` is that of an OCI image, without its rootfs; `architecture`: not this machine's."""
        digests = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
        whole = config | {
            "architecture": architecture or ARCHITECTURE, "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": digests},
        }  # fmt: skip
        encoded = json.dumps(whole, sort_keys=True).encode()
        blobs = [encoded, *layers]
        for blob in blobs:
            self._upload(repository, blob)
        descriptors = [
            {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(blob).hexdigest()}", "size": len(blob)}
            for kind, blob in zip([_CONFIG, *[_LAYER] * len(layers)], blobs, strict=True)
        ]
        manifest = json.dumps(
            {"schemaVersion": 2, "mediaType": _MANIFEST, "config": descriptors[0], "layers": descriptors[1:]}
        ).encode()
        self._ask("PUT", f"/v2/{repository}/manifests/{tag}", manifest, _MANIFEST)
        return f"sha256:{hashlib.sha256(manifest).hexdigest()}"

    def _upload(self, repository: str, blob: bytes) -> None:
        where = self._ask("POST", f"/v2/{repository}/blobs/uploads/")
        path = where.partition(self.host)[2] if "://" in where else where
        digest = hashlib.sha256(blob).hexdigest()
        self._ask("PUT", f"{path}{'&' if '?' in path else '?'}digest=sha256:{digest}", blob, "application/octet-stream")

    def _ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> str:
        """The answer's Location."""
        request = urllib.request.Request(f"http://{self.host}{path}", data=body, method=method)
        if kind:
            request.add_header("Content-Type", kind)
        if self._private:
            token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
            return str(answer.headers.get("Location", ""))

    def _answers(self) -> bool:
        if self._prefix:
            # Not ours to reach: the port is in the kernel's table of that namespace.
            port = f":{int(self.host.rpartition(':')[2]):04X}"
            table = subprocess.run(
                [*self._prefix, "cat", "/proc/net/tcp", "/proc/net/tcp6"], capture_output=True, text=True, check=False
            ).stdout
            return any(line.split()[1].endswith(port) and line.split()[3] == "0A" for line in table.splitlines()[1:])
        connection: http.client.HTTPConnection = http.client.HTTPConnection(self.host, timeout=2)
        if self._tls:
            context = ssl.create_default_context(cafile=str(self.ca))
            connection = http.client.HTTPSConnection(self.host, timeout=2, context=context)
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status in (200, 401)
        except OSError:
            return False
        finally:
            connection.close()


class SlowLine:
    """A TCP proxy in front of `target` that lets `bytes_per_s` through to whoever asks (0: all). Of the connections that carry
    more than `cut_after` bytes the first `cuts` break there; before all others `refusals` are answered with 503."""

    def __init__(
        self, target: str, host: str, bytes_per_s: int = 0, *, cuts: int = 0, cut_after: int = 0, refusals: int = 0
    ) -> None:
        self._target, self._rate = target, bytes_per_s
        self.cuts, self.cut_after, self.refusals = cuts, cut_after, refusals
        self._server = socket.create_server((host, 0))
        self._ends: list[socket.socket] = []
        self.address = f"{host}:{self._server.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def stop(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for end in self._ends:  # some that asked keep their connections for later
            _shut(end)
        for thread in self._threads:
            thread.join(20)

    def _accept(self) -> None:
        while True:
            try:
                asking, _ = self._server.accept()
            except OSError:
                return
            if self.refusals > 0:
                self.refusals -= 1
                asking.settimeout(10)
                asking.recv(64 << 10)
                asking.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                asking.close()
                continue
            host, _, port = self._target.partition(":")
            answering = socket.create_connection((host, int(port)), 10)
            asking.settimeout(60)
            answering.settimeout(60)
            self._ends += [asking, answering]
            for source, sink, rate, down in ((asking, answering, 0, False), (answering, asking, self._rate, True)):
                thread = threading.Thread(target=self._copy, args=(source, sink, rate, down), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _copy(self, source: socket.socket, sink: socket.socket, rate: int, downwards: bool) -> None:
        carried = 0
        try:
            while data := source.recv(64 << 10):
                carried += len(data)
                if downwards and self.cuts > 0 and carried > self.cut_after:
                    self.cuts -= 1
                    break
                sink.sendall(data)
                if rate:
                    time.sleep(len(data) / rate)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                _shut(end)
            source.close()


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
