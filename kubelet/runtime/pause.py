"""The pause program: the first process of every sandbox, which holds its namespaces and reaps orphans in a shared PID namespace.

It is a static ELF file of under 300 bytes, written here byte by byte, so that building images needs no compiler. Used by
`kubelet.runtime.archives`.
"""

from __future__ import annotations

import struct

# Both programs do this, with system calls only:
#   block SIGINT, SIGTERM and SIGCHLD                 rt_sigprocmask(SIG_BLOCK, {2, 15, 17}, NULL, 8)
#   again: wait for one of them                       rt_sigtimedwait(set, NULL, NULL, 8)
#     SIGCHLD: reap until nobody is left              wait4(-1, NULL, WNOHANG, NULL) > 0
#     SIGINT, SIGTERM: leave                          exit(0)
_X86_64 = bytes.fromhex(
    "6802400100"  # push 0x14002            the set, on the stack
    "6a0e58" "31ff" "4889e6" "31d2" "6a08415a" "0f05"  # rax=14 rdi=0 rsi=rsp rdx=0 r10=8 syscall
    "b880000000" "4889e7" "31f6" "31d2" "0f05"  # again: rax=128 rdi=rsp rsi=0 rdx=0 syscall
    "83f811" "7411" "83f802" "7405" "83f80f" "75e3"  # 17: children; 2: done; not 15: again
    "6a3c58" "31ff" "0f05"  # done: rax=60 rdi=0 syscall
    "6a3d58" "83cfff" "31f6" "6a015a" "4152" "4531d2" "0f05" "415a"  # children: rax=61 edi=-1 rsi=0 rdx=1 r10=0 syscall
    "85c0" "7fe8" "ebc2"  # > 0: children; again
)  # fmt: skip
_AARCH64 = bytes.fromhex(
    "490088d2" "2900a0f2" "e90f1ff8"  # x9=0x14002; str x9, [sp, #-16]!
    "e81080d2" "000080d2" "e1030091" "020080d2" "030180d2" "010000d4"  # x8=135 x0=0 x1=sp x2=0 x3=8 svc
    "281180d2" "e0030091" "010080d2" "020080d2" "030180d2" "010000d4"  # again: x8=137 x0=sp x1=0 x2=0 x3=8 svc
    "1f440071" "00010054" "1f080071" "60000054" "1f3c0071" "a1feff54"  # 17: children; 2: done; not 15: again
    "a80b80d2" "000080d2" "010000d4"  # done: x8=93 x0=0 svc
    "882080d2" "00008092" "010080d2" "220080d2" "030080d2" "010000d4"  # children: x8=260 x0=-1 x1=0 x2=1 x3=0 svc
    "1f000071" "2cffff54" "e9ffff17"  # > 0: children; again
)  # fmt: skip

# Machine (as uname gives it): ELF's number for it, and the code.
_PROGRAMS = {"x86_64": (62, _X86_64), "aarch64": (183, _AARCH64)}
_BASE_ADDRESS = 0x400000
_ELF_HEADER_BYTES, _PROGRAM_HEADER_BYTES = 64, 56
_READ_EXECUTE = 5


def pause_program(machine: str) -> bytes:
    """The ELF file for a machine such as "x86_64". Raises KeyError for one we have no code for."""
    number, code = _PROGRAMS[machine]
    offset = _ELF_HEADER_BYTES + _PROGRAM_HEADER_BYTES
    size = offset + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",  # 64 bits, little-endian, version 1
        2,  # an executable
        number,
        1,
        _BASE_ADDRESS + offset,
        _ELF_HEADER_BYTES,
        0,
        0,
        _ELF_HEADER_BYTES,
        _PROGRAM_HEADER_BYTES,
        1,
        0,
        0,
        0,
    )
    segment = struct.pack("<IIQQQQQQ", 1, _READ_EXECUTE, 0, _BASE_ADDRESS, _BASE_ADDRESS, size, size, 0x1000)
    return header + segment + code


def machines() -> tuple[str, ...]:
    return tuple(sorted(_PROGRAMS))
