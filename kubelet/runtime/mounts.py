"""Mounts: what is mounted below a directory, taking it all off, and whether overlayfs works there. Linux calls through ctypes.
Used by `kubelet.runtime.containerd`, `kubelet.runtime.cleanup` and `wherry.cli.cluster`; volumes may use it too."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from pathlib import Path

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8


def below(*roots: Path) -> list[Path]:
    """Mount points at or below the given directories, deepest and latest first."""
    real = [os.path.realpath(root) for root in roots]
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = _unescape(line.split(" ")[4])
        if any(point == root or point.startswith(root + "/") for root in real):
            found.append(point)
    # Later mounts cover earlier ones: undo in reverse order.
    return [Path(point) for point in reversed(found)]


def unmount_below(*roots: Path) -> list[Path]:
    """Detaches every mount at or below the directories; returns the points it took off. Busy ones vanish when let go."""
    libc = ctypes.CDLL(None, use_errno=True)
    done = []
    for point in below(*roots):
        if libc.umount2(os.fsencode(point), MNT_DETACH | UMOUNT_NOFOLLOW) == 0:
            done.append(point)
    return done


def overlay_works(directory: Path) -> bool:
    """Tries a real overlay mount there (it fails on some file systems, in nested containers and without privilege)."""
    libc = ctypes.CDLL(None, use_errno=True)
    work = Path(tempfile.mkdtemp(prefix=".overlay-", dir=directory))
    try:
        for name in ("lower", "upper", "work", "merged"):
            (work / name).mkdir()
        options = f"lowerdir={work}/lower,upperdir={work}/upper,workdir={work}/work"
        target = os.fsencode(work / "merged")
        if libc.mount(b"overlay", target, b"overlay", 0, os.fsencode(options)) != 0:
            return False
        libc.umount2(target, MNT_DETACH)
        return True
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _unescape(text: str) -> str:
    """mountinfo writes space, tab, newline and backslash as three octal digits."""
    if "\\" not in text:
        return text
    out, position = bytearray(), 0
    raw = os.fsencode(text)
    while position < len(raw):
        if raw[position : position + 1] == b"\\" and raw[position + 1 : position + 4].isdigit():
            out.append(int(raw[position + 1 : position + 4], 8))
            position += 4
        else:
            out += raw[position : position + 1]
            position += 1
    return os.fsdecode(bytes(out))
