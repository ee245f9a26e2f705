"""Volumes that are directories: emptyDir on disk or in memory, hostPath, and giving them to an fsGroup. Blocking.
Used by `manager`."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import stat
from pathlib import Path

from kubelet.pods.services import VolumeError
from wherry.api import quantity
from wherry.pb import core_v1_pb2

MS_NOSUID, MS_NODEV = 2, 4
SHARED_MEMORY = Path("/dev/shm")  # a tmpfs, in which everybody may write


def make_empty_dir(path: Path, source: core_v1_pb2.EmptyDirVolumeSource, memory_limit_bytes: int) -> None:
    """Idempotent. `memory_limit_bytes`: how large a tmpfs without a limit of its own may become."""
    path.mkdir(parents=True, exist_ok=True)
    if source.medium == "Memory":
        if not os.path.ismount(path):
            limit = quantity.value(source.size_limit) if source.HasField("size_limit") else 0
            size = min(limit, memory_limit_bytes) if limit and memory_limit_bytes else limit or memory_limit_bytes
            mount_tmpfs(path, size)
    elif source.medium not in ("",):
        raise VolumeError(f'emptyDir.medium "{source.medium}": only "" and "Memory" are supported on this node')
    path.chmod(0o777)


def memory_root(root: Path) -> Path | None:
    """Where an agent without root, which can't mount anything, has its volumes in memory; None for one that can. `root`: the
    agent's directory."""
    if os.geteuid() == 0:
        return None
    return SHARED_MEMORY / f"wherry-{hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:16]}"


def foreign(root: Path) -> str:
    """What is wrong with what stands at a `memory_root`, whose name everybody can guess and take first; "" for ours."""
    facts = os.lstat(root)
    if not stat.S_ISDIR(facts.st_mode):
        return f"is no directory (owner {facts.st_uid}, mode {stat.filemode(facts.st_mode)})"
    mode = stat.S_IMODE(facts.st_mode)
    if facts.st_uid != os.geteuid() or mode & 0o077:
        return f"is not ours alone (owner {facts.st_uid}, mode {mode:04o})"
    return ""


def link_memory(path: Path, place: Path) -> None:
    """Makes the volume a link to a directory below `memory_root`, which a reboot empties. Idempotent. Nothing but the look
    at what is over its limit holds it to its size. Raises VolumeError when somebody else was there first."""
    root = place.parent.parent
    with contextlib.suppress(FileExistsError):
        root.mkdir(mode=0o700)
    if problem := foreign(root):
        raise VolumeError(
            f"{root} {problem}: remove it; a directory of user {os.geteuid()} with mode 0700 is made there"
        )
    place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o777)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink():
        path.symlink_to(place)


def mount_tmpfs(path: Path, size_bytes: int = 0, *, mode: int = 0o777) -> None:
    """`size_bytes` 0: the kernel's limit, half of the memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size_bytes},mode={mode:04o}" if size_bytes else f"mode={mode:04o}"
    if libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", MS_NOSUID | MS_NODEV, options.encode()) != 0:
        code = ctypes.get_errno()
        raise VolumeError(f"mounting a tmpfs at {path}: {os.strerror(code)}")


_TYPES = {
    "Directory": (stat.S_ISDIR, "directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "directory"),
    "File": (stat.S_ISREG, "file"),
    "FileOrCreate": (stat.S_ISREG, "file"),
    "Socket": (stat.S_ISSOCK, "socket file"),
    "CharDevice": (stat.S_ISCHR, "character device"),
    "BlockDevice": (stat.S_ISBLK, "block device"),
}


def check_host_path(source: core_v1_pb2.HostPathVolumeSource) -> Path:
    """The path, of the type that the volume names; made where the type says so."""
    path = Path(source.path)
    kind = source.type
    if not kind:
        return path
    if kind not in _TYPES:
        raise VolumeError(f'hostPath.type "{kind}": must be one of {", ".join(sorted(_TYPES))}')
    if kind == "DirectoryOrCreate":
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    elif kind == "FileOrCreate" and not path.exists():
        try:
            path.touch(mode=0o644)
        except OSError as error:
            raise VolumeError(f"hostPath type check failed: cannot create {path}: {error.strerror}") from error
    fits, name = _TYPES[kind]
    try:
        right = fits(path.stat().st_mode)
    except OSError:
        right = False
    if not right:
        raise VolumeError(f"hostPath type check failed: {path} is not a {name}")
    return path


def give_to_group(path: Path, group: int) -> None:
    """As fsGroup asks: owned by the group, group-writable, new files inherit it. Links are not followed. An agent without root
    may not give things away: then everybody may write, and nobody but the pod's containers comes near."""
    if not may_give(path, group):
        path.chmod(0o777)
        return
    for base, _, files in os.walk(path):
        os.chown(base, -1, group, follow_symlinks=False)
        os.chmod(base, stat.S_IMODE(os.stat(base).st_mode) | 0o2770)
        for name in files:
            file = os.path.join(base, name)
            os.chown(file, -1, group, follow_symlinks=False)
            if not os.path.islink(file):
                os.chmod(file, stat.S_IMODE(os.stat(file).st_mode) | 0o660)


def may_give(path: Path, group: int) -> bool:
    """Whether we have given it to the group. Raises OSError for a root that was refused."""
    try:
        os.chown(path, -1, group, follow_symlinks=False)
    except PermissionError:
        if os.geteuid() == 0:
            raise
        return False
    return True


def used_bytes(path: Path) -> int:
    """On disk, hard links once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for base, _, files in os.walk(path):
        for name in files:
            try:
                facts = os.lstat(os.path.join(base, name))
            except OSError:
                continue
            if (facts.st_dev, facts.st_ino) not in seen:
                seen.add((facts.st_dev, facts.st_ino))
                total += facts.st_blocks * 512
    return total
