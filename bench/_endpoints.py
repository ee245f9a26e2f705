"""`python -m bench._endpoints SERVICES RUNS`: what one endpoint more costs a node that routes so many Services. Prints
milliseconds: the whole change, nft's part of it, and an nft process that changes one element of a small table; and the median
ratio of the first to the last, each taken right after the other. Run by `bench.network` inside an empty network namespace."""

from __future__ import annotations

import statistics
import sys
import time

from kubelet.network.services.kernel import Nftables
from kubelet.network.services.plan import Place, plan
from kubelet.network.services.ruleset import TABLE, Ruleset, skeleton
from wherry.pb import core_v1_pb2, discovery_v1_pb2

PLACE = Place("n1", "10.1.0.0/24")


def service(number: int) -> core_v1_pb2.Service:
    made = core_v1_pb2.Service()
    made.metadata.namespace, made.metadata.name = "default", f"s{number}"
    made.spec.type = "ClusterIP"
    made.spec.cluster_ip = f"10.96.{number >> 8}.{number & 255}"
    made.spec.ports.add(name="p", port=80, protocol="TCP")
    return made


def slices(number: int, endpoints: int) -> list[discovery_v1_pb2.EndpointSlice]:
    made = discovery_v1_pb2.EndpointSlice(address_type="IPv4")
    made.ports.add(name="p", port=8080, protocol="TCP")
    for each in range(endpoints):
        endpoint = made.endpoints.add(addresses=[f"10.{1 + each}.{number >> 8}.{number & 255}"])
        endpoint.conditions.ready = True
    return [made]


def main(count: int, runs: int) -> None:
    rules, kernel = Ruleset(TABLE, skeleton(TABLE)), Nftables()
    rules.change({f"default/s{n}": plan(service(n), slices(n, 2), PLACE) for n in range(count)})
    kernel.apply(rules.whole())
    kernel.apply("add table ip t\nadd set ip t s { type ipv4_addr; }\nadd element ip t s { 10.0.0.1 }\n")
    wholes, kernels, floors = [], [], []
    for run in range(runs):
        began = time.perf_counter()
        kernel.apply("delete element ip t s { 10.0.0.1 }\nadd element ip t s { 10.0.0.1 }\n")
        floors.append(time.perf_counter() - began)
        began = time.perf_counter()
        transaction = rules.change({"default/s1": plan(service(1), slices(1, 3 + run % 8), PLACE)})
        middle = time.perf_counter()
        kernel.apply(transaction)
        wholes.append(time.perf_counter() - began)
        kernels.append(time.perf_counter() - middle)
    ratio = statistics.median(whole / floor for whole, floor in zip(wholes, floors, strict=True))
    print(*(statistics.median(figures) * 1e3 for figures in (wholes, kernels, floors)), ratio)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
