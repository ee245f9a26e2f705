"""A directory of files that changes as a whole, as Kubernetes lays it out: each visible name is a link into `..data`, which is
itself a link to a dated directory; an update makes a new one and renames one link. Used by `manager`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from kubelet.volumes import directories

DATA = "..data"
_NEXT = "..data_tmp"
_DATED = "..2000_"
Payload = Mapping[str, tuple[bytes, int]]  # relative path -> (content, mode)


def write(directory: Path, payload: Payload, *, group: int | None = None) -> bool:
    """Makes the directory hold exactly `payload`; False when it did already. Killed half-way, the old contents stay (or the new
    ones are there, not all under their names yet) and the next call tidies up."""
    os.makedirs(directory, exist_ok=True)
    if group is not None and not directories.may_give(directory, group):
        # What the group may, everybody has to: an agent without root can't give files away.
        payload = {path: (content, mode | (mode | 0o440) >> 3 & 0o007) for path, (content, mode) in payload.items()}
        group = None
    names = {path.partition("/")[0] for path in payload}
    there = sorted(os.listdir(directory))
    # Kubernetes dates it; a counter serves as well and needs no clock.
    number = 1 + max((int(name.removeprefix(_DATED) or 0) for name in there if name.startswith(_DATED)), default=0)
    there = _without_leftovers(directory, there)
    if DATA in there and current(directory) == dict(payload):
        _link_names(directory, there, names)
        return False
    name = f"{_DATED}{number}"
    try:
        _fill(f"{directory}/{name}", payload, group)
    except BaseException:
        # It may be memory, and whoever tries again does so with another number.
        shutil.rmtree(f"{directory}/{name}", ignore_errors=True)
        raise
    os.symlink(name, f"{directory}/{_NEXT}")
    os.replace(f"{directory}/{_NEXT}", f"{directory}/{DATA}")
    _link_names(directory, there, names)
    _without_leftovers(directory, there)
    return True


def _without_leftovers(directory: Path, there: Sequence[str]) -> list[str]:
    """Removes, of the names that are `there`, what `..data` does not lead to. The names that are left."""
    live = os.readlink(f"{directory}/{DATA}") if DATA in there else ""
    left = []
    for name in there:
        if name == _NEXT:
            os.unlink(f"{directory}/{name}")
        elif name.startswith(_DATED) and name != live:
            shutil.rmtree(f"{directory}/{name}", ignore_errors=True)
        else:
            left.append(name)
    return left


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


def _fill(fresh: str, payload: Payload, group: int | None) -> None:
    """System calls and no `pathlib`: every start of a pod goes through here."""
    made: set[str] = set()

    def make(path: str) -> None:
        if path not in made:
            if path != fresh:
                make(os.path.dirname(path))
            os.mkdir(path)
            made.add(path)
            os.chmod(path, 0o755)
            if group is not None:
                os.chown(path, -1, group)

    make(fresh)
    for path, (content, mode) in sorted(payload.items()):
        file = f"{fresh}/{path}"
        make(os.path.dirname(file))
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(handle, left) :]
            if group is not None:
                os.fchown(handle, -1, group)
                mode |= 0o440
            os.fchmod(handle, mode)
        finally:
            os.close(handle)


def _link_names(directory: Path, there: Sequence[str], names: set[str]) -> None:
    for name in sorted(names):
        link = f"{directory}/{name}"
        if not (name in there and os.path.islink(link)):
            os.symlink(f"{DATA}/{name}", link)
    for name in there:
        if not name.startswith("..") and name not in names:
            os.unlink(f"{directory}/{name}")
