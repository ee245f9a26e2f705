"""What the process benchmarks share: the floor (a Python process that imports the same packages and nothing else), resident
memory, medians, and the closing line."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# The third-party packages of a control plane, and of an agent, as they are imported when they run.
SERVER_IMPORTS = "grpc.aio, google.protobuf, cryptography.x509, numpy, uvloop, sqlite3, asyncio, ssl"
AGENT_IMPORTS = "grpc.aio, google.protobuf, cryptography.x509, uvloop, asyncio, ssl"
SCHEMA = (
    "wherry.pb.core_v1_pb2, wherry.pb.apps_v1_pb2, wherry.pb.resources_pb2_grpc, "
    "wherry.pb.pods_pb2_grpc, wherry.pb.nodelink_pb2_grpc"
)


def rss_mib(pid: int, field: str = "VmRSS") -> float:
    """Resident memory; `RssAnon` is the part that is no page of a file."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used: what a busy machine does not change."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def import_seconds(imports: str, runs: int = 5) -> float:
    """Median seconds of a process that imports and exits."""
    return median(lambda: _spawn_and_wait(f"import {imports}"), runs)


def _spawn_and_wait(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def import_rss_mib(imports: str) -> float:
    """Resident memory of a process that has imported, and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import {imports}, sys; print('ready', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdout.readline()
        return rss_mib(process.pid)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


def median(measure: Callable[[], float], runs: int) -> float:
    return statistics.median(measure() for _ in range(runs))


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def closing(name: str, figure: float, unit: str, floor: float, what: str) -> None:
    """The last line of every benchmark."""
    ratio = figure / floor if floor else float("inf")
    print(f"{name}: {figure:.3g} {unit} (ratio {ratio:.2f} to {what})")
