"""The cgroups of a local cluster (/wherry/NAME/node-N/...), in every hierarchy of version 1 or in the one of version 2. The
runtime makes them; `wherry down` takes them away, with whatever still runs in them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from time import monotonic, sleep

from kubelet.runtime.processes import ProcessRef, reap

ROOT = "wherry"
_CGROUPS = Path("/sys/fs/cgroup")
REMOVE_TIMEOUT_S = 10.0


def hierarchies() -> list[Path]:
    """The mount point of each hierarchy."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.split(" ", 1)[0] in ("cgroup", "cgroup2"):
            found.append(Path(fields.split(" ")[4]))
    return sorted(set(found))


def existing(name: str) -> list[Path]:
    """The cluster's top cgroup in each hierarchy that has it."""
    return [path for mount in hierarchies() if (path := mount / ROOT / name).is_dir()]


def remove_empty(path: str) -> None:
    """The tree at this path in every hierarchy, as far as nothing runs in it. For a node that leaves, on a machine where
    somebody else's pods may have the same parent."""
    for mount in hierarchies():
        for directory, _, _ in os.walk(mount / path.strip("/"), topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                pass


def remove(name: str) -> bool:
    """Kills what is inside and removes the tree. False when there was none."""
    tops = existing(name)
    deadline = monotonic() + REMOVE_TIMEOUT_S
    for top in tops:
        while top.exists() and monotonic() < deadline:
            for directory, _, _ in os.walk(top, topdown=False):
                _kill(Path(directory))
                try:
                    os.rmdir(directory)
                except OSError:
                    pass  # its processes are still on their way out
            if top.exists():
                sleep(0.02)
    for mount in hierarchies():
        try:
            (mount / ROOT).rmdir()  # only when no other cluster uses it
        except OSError:
            pass
    return bool(tops)


def _kill(directory: Path) -> None:
    try:
        pids = [int(line) for line in (directory / "cgroup.procs").read_text().split()]
    except OSError:
        return
    for pid in pids:
        if pid > 1 and (ref := ProcessRef.of(pid)) is not None:
            ref.signal(signal.SIGKILL)
            reap(pid)
