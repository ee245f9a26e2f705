"""A real image registry (the distribution's `docker-registry`) for tests, with and without a password, and images pushed to it
over its own HTTP API.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

USER, PASSWORD = "user", "secret"
# bcrypt, the one form that the registry takes
_HTPASSWD = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


class Registry:
    """`address` is HOST:PORT. Whoever starts it stops it."""

    def __init__(self, binary: str, folder: Path, host: str, *, password: bool = False) -> None:
        self._binary, self._folder, self._password = binary, folder, password
        with socket.socket() as probe:
            probe.bind((host, 0))
            self.address = f"{host}:{probe.getsockname()[1]}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        config: dict[str, object] = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(self._folder / "data")}},
            "http": {"addr": self.address},
            "log": {"level": "warn", "accesslog": {"disabled": True}},
        }
        if self._password:
            (self._folder / "htpasswd").write_text(_HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(self._folder / "htpasswd")}}
        file = self._folder / "config.yml"
        file.write_text(json.dumps(config))
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, "serve", str(file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 30
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the registry does not serve:\n{(self._folder / 'log').read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def push(self, repository: str, tag: str, layers: list[bytes], config: dict[str, object]) -> str:
        """The manifest's digest. `config` is that of an OCI image, without its rootfs."""
        digests = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
        whole = config | {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": digests}}
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
        path = where.partition(self.address)[2] if "://" in where else where
        digest = hashlib.sha256(blob).hexdigest()
        self._ask("PUT", f"{path}{'&' if '?' in path else '?'}digest=sha256:{digest}", blob, "application/octet-stream")

    def _ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> str:
        """The answer's Location."""
        request = urllib.request.Request(f"http://{self.address}{path}", data=body, method=method)
        if kind:
            request.add_header("Content-Type", kind)
        if self._password:
            token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
            return str(answer.headers.get("Location", ""))

    def _answers(self) -> bool:
        try:
            self._ask("GET", "/v2/")
            return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False


class SlowLine:
    """A TCP proxy in front of `target` that lets `bytes_per_s` through to whoever asks."""

    def __init__(self, target: str, host: str, bytes_per_s: int) -> None:
        self._target, self._rate = target, bytes_per_s
        self._server = socket.create_server((host, 0))
        self.address = f"{host}:{self._server.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def stop(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join(20)

    def _accept(self) -> None:
        while True:
            try:
                asking, _ = self._server.accept()
            except OSError:
                return
            host, _, port = self._target.partition(":")
            answering = socket.create_connection((host, int(port)), 10)
            asking.settimeout(60)
            answering.settimeout(60)
            for source, sink, rate in ((asking, answering, 0), (answering, asking, self._rate)):
                thread = threading.Thread(target=self._copy, args=(source, sink, rate), daemon=True)
                self._threads.append(thread)
                thread.start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket, rate: int) -> None:
        try:
            while data := source.recv(64 << 10):
                sink.sendall(data)
                if rate:
                    time.sleep(len(data) / rate)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            source.close()
