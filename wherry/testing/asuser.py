"""Commands as another user, who is nobody on this machine but for a uid and a group: for what has to work without root.

The interpreter and the sources may lie below a directory that is root's alone: in a mount namespace of the command's own that
directory is covered, with nothing to be seen in it but them. Called by tests (root only).
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(uid: int, *argv: str, netns: str = "") -> list[str]:
    """`argv` as this user and the group of the same number, without any capability; in the named network namespace."""
    inside = ["nsenter", f"--net={netns}", "--"] if netns else []
    drop = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"]
    return [
        *inside,
        "unshare",
        "--mount",
        "--propagation",
        "slave",
        "sh",
        "-c",
        _uncover() + 'exec "$@"',
        "sh",
        *drop,
        *argv,
    ]


def _uncover() -> str:
    """Shell words that make what Python needs readable."""
    needed = sorted({os.path.realpath(place) for place in (sys.base_prefix, sys.prefix, ROOT)})
    closed: dict[Path, list[str]] = {}
    for place in needed:
        for parent in reversed(Path(place).parents):
            if not parent.stat().st_mode & stat.S_IXOTH:
                closed.setdefault(parent, []).append(place)
                break
    if not closed:
        return ""
    words = ["mount -t tmpfs -o mode=755 tmpfs /mnt"]
    held = {place: f"/mnt/{number}" for number, place in enumerate(needed)}
    for directory, places in sorted(closed.items()):
        words += [f"mkdir {held[place]} && mount --bind {shlex.quote(place)} {held[place]}" for place in places]
        words.append(f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(directory))}")
        words += [
            f"mkdir -p {shlex.quote(place)} && mount --move {held[place]} {shlex.quote(place)}" for place in places
        ]
    return "".join(f"{{ {word}; }} || exit 126; " for word in words)
