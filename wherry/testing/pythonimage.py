"""An image with the distribution's Python, openssl and busybox, for workloads that speak TLS: the operator of manifests/.

Made on the spot of the files of this machine, as `wherry up` makes the demo image. A person gets it into a local cluster by
`python -m wherry.testing.pythonimage python.tar && wherry image load python.tar`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from wherry.cli.cluster.images import Layer, docker_archive, find_busybox
from wherry.testing.require import require_binary

IMAGE = "wherry.local/python:1"
# Nothing of a server's: these are most of the library's size.
_LEFT_OUT = {
    "__pycache__",
    "test",
    "dist-packages",
    "idlelib",
    "lib2to3",
    "ensurepip",
    "pydoc_data",
    "tkinter",
    "unittest",
}
_LEFT_OUT_PREFIXES = ("config-", "_test")
# A library that a program is linked to: "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)", or the loader's bare path.
_LINKED = re.compile(r"(?:=> )?(/\S+) \(0x")


def python_archive() -> bytes:
    python = Path(os.path.realpath(require_binary("/usr/bin/python3", "python3")))
    openssl = Path(require_binary("/usr/bin/openssl", "openssl"))
    files = {f"usr/bin/{python.name}": python, "usr/bin/openssl": openssl, "bin/busybox": find_busybox()}
    library = Path("/usr/lib") / python.name
    for path in sorted(library.rglob("*")):
        parts = path.relative_to(library).parts
        if path.is_file() and not any(part in _LEFT_OUT or part.startswith(_LEFT_OUT_PREFIXES) for part in parts):
            files[str(path)[1:]] = path
    programs = [python, openssl, *(path for path in files.values() if path.suffix == ".so")]
    files |= {library[1:]: Path(library) for library in _linked(programs)}
    content = {name: (path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644) for name, path in files.items()}
    content["etc/passwd"] = (b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644)
    content["etc/ssl/openssl.cnf"] = (b"[req]\ndistinguished_name = dn\n[dn]\n", 0o644)
    listed = subprocess.run(
        [str(files["bin/busybox"]), "--list"], capture_output=True, text=True, check=True, timeout=30
    )
    links = {f"bin/{name}": "busybox" for name in listed.stdout.split() if name != "busybox"}
    links |= {"usr/bin/python3": python.name, "usr/lib/ssl/openssl.cnf": "/etc/ssl/openssl.cnf"}
    folders = {"tmp": 0o1777, "root": 0o700}
    folders |= {
        str(parent): 0o755 for name in (*content, *links) for parent in Path(name).parents if str(parent) != "."
    }
    layer = Layer(files=content, links=links, directories=folders)
    return docker_archive(IMAGE, layer, cmd=["python3"], env=["PATH=/usr/bin:/bin", "PYTHONUNBUFFERED=1"])


def _linked(programs: list[Path]) -> set[str]:
    said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=True, timeout=60).stdout
    return set(_LINKED.findall(said))


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(python_archive())
