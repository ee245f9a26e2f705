"""A directory of files that changes as a whole, as Kubernetes lays it out: each visible name is a link into `..data`, which is
itself a link to a dated directory; an update makes a new one and renames one link. Used by `manager`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from kubelet.volumes import directories

DATA = "..data"
_NEXT = "..data_tmp"
Payload = Mapping[str, tuple[bytes, int]]  # relative path -> (content, mode)


def write(directory: Path, payload: Payload, *, group: int | None = None) -> bool:
    """Makes the directory hold exactly `payload`; False when it did already. Killed half-way, the old contents stay and the
    next call tidies up."""
    directory.mkdir(parents=True, exist_ok=True)
    if group is not None and not directories.may_give(directory, group):
        # What the group may, everybody has to: an agent without root can't give files away.
        payload = {path: (content, mode | (mode | 0o440) >> 3 & 0o007) for path, (content, mode) in payload.items()}
        group = None
    if current(directory) == dict(payload):
        return False
    fresh = _new_directory(directory)
    for path, (content, mode) in sorted(payload.items()):
        file = fresh / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        if group is not None:
            os.chown(file, -1, group)
            mode |= 0o440
        file.chmod(mode)
    _set_directory_modes(fresh, group)
    temporary = directory / _NEXT
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(fresh.name)
    temporary.replace(directory / DATA)
    _link_names(directory, {path.partition("/")[0] for path in payload})
    for old in directory.glob("..2*"):
        if old.name != fresh.name:
            shutil.rmtree(old, ignore_errors=True)
    return True


def current(directory: Path) -> dict[str, tuple[bytes, int]] | None:
    """What is there now; None when nothing was ever written."""
    data = directory / DATA
    if not data.is_dir():
        return None
    found = {}
    for base, _, names in os.walk(data):
        for name in names:
            file = Path(base) / name
            found[str(file.relative_to(data))] = (file.read_bytes(), file.stat().st_mode & 0o777)
    return found


def _new_directory(directory: Path) -> Path:
    number = 1 + max((int(old.name[2:].partition("_")[2] or 0) for old in directory.glob("..2*")), default=0)
    # Kubernetes dates it; a counter serves as well and needs no clock.
    fresh = directory / f"..2000_{number}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    return fresh


def _set_directory_modes(fresh: Path, group: int | None) -> None:
    for base, _, _ in os.walk(fresh):
        os.chmod(base, 0o755)
        if group is not None:
            os.chown(base, -1, group)


def _link_names(directory: Path, names: set[str]) -> None:
    for name in sorted(names):
        link = directory / name
        if not link.is_symlink():
            link.symlink_to(f"{DATA}/{name}")
    for entry in directory.iterdir():
        if not entry.name.startswith("..") and entry.name not in names:
            entry.unlink(missing_ok=True)
