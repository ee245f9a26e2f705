"""The image of the container that holds a node's network namespace (`kubelet.runtime.docker_node`): busybox, and this machine's
own nft (and conntrack, where it is installed) with the libraries that they need; and the pause program, since pods' sandboxes
are of it, too. Built on the spot, like the demo image, so no registry is needed. Called by `wherry up --runtime docker`.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from kubelet.runtime.archives import ImageError, Layer, docker_archive
from kubelet.runtime.docker_bridge import NODE_IMAGE
from kubelet.runtime.pause import machines, pause_program
from kubelet.runtime.processes import SBIN
from wherry.cli.cluster.images import find_busybox

_TIMEOUT_S = 30
_WORDS = ("sh", "ip", "sleep", "rm", "nc")
# "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)", "/lib64/ld-linux-x86-64.so.2 (0x...)"
_LIBRARY = re.compile(r"(?:=>\s+)?(/\S+)\s+\(0x[0-9a-f]+\)")


def node_archive() -> bytes:
    """Raises ImageError that names what is missing."""
    busybox = find_busybox()
    files: dict[str, tuple[bytes, int]] = {"bin/busybox": (busybox.read_bytes(), 0o755)}
    machine = platform.machine()
    if machine not in machines():
        raise ImageError(f"no pause program for this machine ({machine}); there is one for {', '.join(machines())}")
    files["pause"] = (pause_program(machine), 0o755)
    libraries: set[str] = set()
    for name, needed in (("nft", True), ("conntrack", False)):
        program = shutil.which(name, path=os.pathsep.join(SBIN))
        if program is None:
            if needed:
                raise ImageError(f"{name} is not installed (on Debian and Ubuntu: apt-get install nftables)")
            continue
        files[f"bin/{name}"] = (Path(program).read_bytes(), 0o755)
        libraries |= libraries_of(program)
    for path in sorted(libraries):
        files[path.lstrip("/")] = (Path(path).read_bytes(), 0o755)
    # The loader has its own list of directories, which is another one in each distribution.
    places = ":".join(sorted({os.path.dirname(path) for path in libraries}))
    layer = Layer(
        files=files,
        links={f"bin/{word}": "busybox" for word in _WORDS},
        directories={"bin": 0o755, "etc": 0o755, "tmp": 0o1777},
    )
    return docker_archive(
        NODE_IMAGE, layer, cmd=["/bin/sh"], env=["PATH=/bin", *([f"LD_LIBRARY_PATH={places}"] if places else [])]
    )


def libraries_of(program: str) -> set[str]:
    """The files that the loader maps for it; none for a static program."""
    ldd = shutil.which("ldd", path=os.pathsep.join(SBIN))
    if ldd is None:
        raise ImageError(
            "ldd is not installed, by which the libraries of nft are found (on Debian: apt-get install libc-bin)"
        )
    try:
        done = subprocess.run([ldd, program], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"ldd {program}: no answer within {_TIMEOUT_S} s") from error
    if done.returncode and "not a dynamic executable" not in done.stdout + done.stderr:
        raise ImageError(f"ldd {program}: {(done.stdout + done.stderr).strip()}")
    return set(_LIBRARY.findall(done.stdout))
