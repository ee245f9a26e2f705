"""Resident memory, idle, with two nodes: the whole control plane in its one process, and each agent.

    python -m bench memory [--settle SECONDS]

A real cluster as `wherry up` makes it, without its first workload; containerd is counted apart. The floor of each is a Python
process that imports the same packages and waits.
"""

from __future__ import annotations

import argparse
import time

from bench._measure import AGENT_IMPORTS, SCHEMA, SERVER_IMPORTS, closing, import_rss_mib, rss_mib
from kubelet.runtime.containerd import find_running
from wherry.testing.local import LocalCluster

NODES = 2


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench memory", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--settle", type=float, default=15.0, metavar="SECONDS", help="before it is measured")
    arguments = parser.parse_args(argv)
    cluster = LocalCluster(NODES, "b")
    try:
        cluster.up()
        cluster.ok("delete", "-f", "manifests/hello.yaml")
        time.sleep(arguments.settle)
        server = rss_mib(cluster.server_pid())
        own = rss_mib(cluster.server_pid(), "RssAnon")
        agents = [rss_mib(cluster.agent_pid(number)) for number in range(1, NODES + 1)]
        runtimes = [find_running(node.containerd) for node in cluster.description.nodes]
        containerds = [rss_mib(process.pid) for process in runtimes if process is not None]
    finally:
        cluster.down()
    floor, agent_floor = import_rss_mib(f"{SERVER_IMPORTS}, {SCHEMA}"), import_rss_mib(f"{AGENT_IMPORTS}, {SCHEMA}")
    print(
        f"agents: {', '.join(f'{size:.1f}' for size in agents)} MiB (ratio {max(agents) / agent_floor:.2f} to {agent_floor:.1f})"
    )
    print(f"control plane without the pages of files (program code): {own:.1f} MiB")
    print(f"containerds: {', '.join(f'{size:.1f}' for size in containerds)} MiB")
    closing("memory", server, "MiB", floor, f"a process that only imports the same packages, {floor:.1f} MiB")
