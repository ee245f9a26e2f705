"""Memory that a process holds and does not use, given back to the system. Run by `wherry server` and `wherry agent`; part of
no data path.

Most of the code of the libraries that we load is touched while they load, and hardly again. Its pages are those of files: they
are unmapped here, stay in the system's page cache, and come back with a fault of a microsecond where they are wanted after all.
What malloc holds free at the end of its heap goes back too.

Only on 64-bit Linux with glibc; elsewhere nothing happens.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import mmap
import sys
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

SETTLED_S = 5.0  # after the start
PERIOD_S = 10.0  # a check costs nothing, and giving back some ms of a thread
WORTH_BYTES = 16 << 20  # of mapped files; less is what is really in use

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of malloc.h
_MADV_DONTNEED = 4
_PT_LOAD, _PF_W = 1, 2


class _Segment(ctypes.Structure):
    """Elf64_Phdr."""

    _fields_ = (
        ("type", ctypes.c_uint32), ("flags", ctypes.c_uint32), ("offset", ctypes.c_uint64), ("address", ctypes.c_uint64),
        ("physical", ctypes.c_uint64), ("file_bytes", ctypes.c_uint64), ("memory_bytes", ctypes.c_uint64),
        ("alignment", ctypes.c_uint64),
    )  # fmt: skip


class _Loaded(ctypes.Structure):
    """The head of dl_phdr_info."""

    _fields_ = (
        ("base", ctypes.c_uint64), ("name", ctypes.c_char_p), ("segments", ctypes.POINTER(_Segment)),
        ("count", ctypes.c_uint16),
    )  # fmt: skip


def bound_malloc() -> None:
    """Before threads are started. glibc would give each of gRPC's an arena of its own, which costs some MiB of what is never
    used again; and once a large piece has been freed it would take such pieces from the heap, which then hardly shrinks."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, 512 << 10)
    except (OSError, AttributeError):
        pass  # another libc


async def give_back_while_idle() -> None:
    """From time to time, until cancelled."""
    await asyncio.sleep(SETTLED_S)
    while supported():
        if mapped_bytes() >= WORTH_BYTES:
            await asyncio.to_thread(give_back)
        await asyncio.sleep(PERIOD_S)


def supported() -> bool:
    return sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8 and hasattr(ctypes.CDLL(None), "malloc_trim")


def mapped_bytes() -> int:
    """Resident pages of files."""
    return int(Path("/proc/self/statm").read_text().split()[2]) * mmap.PAGESIZE


def give_back() -> None:
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, length in _code():
        libc.madvise(start, length, _MADV_DONTNEED)
    libc.malloc_trim(0)


def _code() -> list[tuple[int, int]]:
    """What is mapped of libraries and never written to, by address and length. Such a segment holds what the file has, so it can
    be read from there again; what the loader relocates lies in the others. Python unloads no library."""
    found: list[tuple[int, int]] = []

    def visit(loaded: Any, _size: int, _data: Any) -> int:
        name = loaded.contents.name or b""
        if name.startswith(b"linux-vdso"):
            return 0
        for number in range(loaded.contents.count):
            segment = loaded.contents.segments[number]
            if segment.type == _PT_LOAD and not segment.flags & _PF_W:
                start = (loaded.contents.base + segment.address) // mmap.PAGESIZE * mmap.PAGESIZE
                end = (loaded.contents.base + segment.address + segment.file_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
                if end > start:
                    found.append((start, end - start))
        return 0

    # With the GIL held throughout: an import in another thread waits for the loader's lock while it holds the GIL.
    prototype = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Loaded), ctypes.c_size_t, ctypes.c_void_p)
    ctypes.PyDLL(None).dl_iterate_phdr(prototype(visit), None)
    return found
