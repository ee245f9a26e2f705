"""The buckets behind bounds of bandwidth, made as large as they were meant. containerd asks the bandwidth plugin for a burst of
2^32 bits, whatever the rate (and the kernel's count of it overflows): 10 Mbit a second were felt after 190 megabytes. Called by
`kubelet.runtime.cri` for each pod that has bounds, before its containers start, and by `kubelet.network.node` for those whose
agent was killed in between. Blocking. Pods on Docker have no need of it: their plugin is called by us.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kubelet.network import NetworkError, cni, links
from kubelet.runtime.base import RuntimeFailure

log = logging.getLogger(__name__)

_LATENCY = "25ms"  # as the plugin has it
_ATTEMPTS = 3
_TOLERANCE = 0.02  # the kernel counts in ticks


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    device: str
    rate_bytes_s: int
    burst_bytes: int


def tighten(bridge: str) -> None:
    """Mends the buckets at the bridge's ports. What can't be mended is logged: a bound felt late is better than no pod."""
    for attempt in range(_ATTEMPTS):
        try:
            _tighten(bridge)
            return
        except (NetworkError, RuntimeFailure) as error:
            # Ports go at any time, also between two questions about them.
            if attempt == _ATTEMPTS - 1:
                log.warning("bounds of bandwidth are felt late: %s", error)


def _tighten(bridge: str) -> None:
    shown = links.query("qdisc", "show", tool="tc")
    marked = {str(item["dev"]) for item in shown if item.get("kind") in ("tbf", "ingress")}
    if not marked or bridge not in links.names():
        return
    ports = sorted(marked & {str(link["ifname"]) for link in links.query("link", "show", "master", bridge)})
    # What a pod sends is led through a device of its own.
    led = [to for port in ports for to in led_to(links.query("filter", "show", "dev", port, "ingress", tool="tc"))]
    for bucket in buckets(shown, {*ports, *led}):
        if is_right(bucket):
            continue
        rate, burst = f"{bucket.rate_bytes_s * 8}bit", str(wanted_bytes(bucket.rate_bytes_s))
        links.ip(
            "qdisc",
            "change",
            "dev",
            bucket.device,
            "root",
            "tbf",
            "rate",
            rate,
            "burst",
            burst,
            "latency",
            _LATENCY,
            tool="tc",
        )


def wanted_bytes(rate_bytes_s: int) -> int:
    """A second's worth, in the limits of the plugin."""
    return min(max(rate_bytes_s * 8, cni.MIN_BURST), cni.MAX_BURST) // 8


def is_right(bucket: Bucket) -> bool:
    wanted = wanted_bytes(bucket.rate_bytes_s)
    return abs(bucket.burst_bytes - wanted) <= wanted * _TOLERANCE


def buckets(shown: Iterable[dict[str, Any]], devices: set[str]) -> list[Bucket]:
    """Of what `tc -json qdisc show` says."""
    return sorted(
        Bucket(str(item["dev"]), int(item["options"]["rate"]), int(item["options"]["burst"]))
        for item in shown
        if item.get("kind") == "tbf" and item.get("root") and item["dev"] in devices
    )


def led_to(filters: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The devices that `tc -json filter show` redirects to."""
    for item in filters:
        for action in item.get("options", {}).get("actions", ()):
            if action.get("kind") == "mirred" and "to_dev" in action:
                yield str(action["to_dev"])
