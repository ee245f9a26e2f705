"""Prometheus metrics of a control plane: below /metrics of the Kubernetes API for whoever may read that, and without any
authentication on a port of its own when that was asked for (`wherry server --metrics`). The library is imported when needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from controlplane.fronts.flow import Flow
from controlplane.nodelink.heartbeats import Heartbeats
from controlplane.stalls import LIMITS_S, Stalls


def serve_metrics(address: str, stalls: Stalls, heartbeats: Heartbeats, flow: Flow) -> None:
    """Starts a thread that answers HTTP. Raises ValueError, OSError."""
    from prometheus_client import REGISTRY, start_http_server

    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f'--metrics: "{address}" is no address; wanted HOST:PORT')
    REGISTRY.register(_Collector(stalls, heartbeats, flow))
    start_http_server(int(port), addr=host.strip("[]") or "127.0.0.1")


def exposition(stalls: Stalls, heartbeats: Heartbeats, flow: Flow) -> bytes:
    """All of it, in the text format."""
    from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(_Collector(stalls, heartbeats, flow))
    return generate_latest(registry)


class _Collector:
    """Reads plain numbers when it is asked: the loop itself never pays for metrics."""

    def __init__(self, stalls: Stalls, heartbeats: Heartbeats, flow: Flow) -> None:
        self._flow = flow
        self._stalls = stalls
        self._heartbeats = heartbeats

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        counts = list(self._stalls.buckets)
        buckets = []
        total = 0
        for limit, count in zip([*(str(limit) for limit in LIMITS_S), "+Inf"], counts, strict=True):
            total += count
            buckets.append((limit, float(total)))
        yield HistogramMetricFamily(
            "wherry_loop_late_seconds",
            "How late the event loop was, probed every 50 ms",
            buckets=buckets,
            sum_value=self._stalls.total_s,
        )
        yield GaugeMetricFamily("wherry_loop_late_worst_seconds", "The worst so far", value=self._stalls.worst_s)
        connected = float(len(self._heartbeats.connected_nodes()))
        yield GaugeMetricFamily("wherry_nodes_connected", "Nodes that hold a control stream here", value=connected)
        labels = ("priority_level", "request_kind")
        inflight = GaugeMetricFamily(
            "apiserver_flowcontrol_current_executing_requests", "Requests that are worked on", labels=labels
        )
        refused = CounterMetricFamily(
            "apiserver_flowcontrol_rejected_requests", "Requests that were refused with 429", labels=labels
        )
        for (level, writes), seats in sorted(self._flow.levels.items()):
            names = (level, "mutating" if writes else "readOnly")
            inflight.add_metric(names, float(seats.taken))
            refused.add_metric(names, float(seats.refused))
        yield inflight
        yield refused
