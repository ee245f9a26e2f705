"""The cluster's picture under whatever order of changes: the rows always add up."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.scheduler import cycle
from controlplane.scheduler.classes import Classes
from controlplane.scheduler.cluster import Cluster, PodInfo
from controlplane.scheduler.needs import NeedsCache
from wherry.testing.builders import make_node, make_pod

NAMES = st.sampled_from(["n0", "n1", "n2"])
PODS = st.sampled_from([f"p{number}" for number in range(6)])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_rows_add_up(data: st.DataObject) -> None:
    cluster, cache, classes = Cluster(), NeedsCache(), Classes()
    for _ in range(data.draw(st.integers(1, 30))):
        match data.draw(st.sampled_from(["node", "no node", "bound", "place", "forget", "gone"])):
            case "node":
                cpu, labels = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([{}, {"zone": "a"}]))
                cluster.put_node(make_node(data.draw(NAMES)).cpu(cpu).labels(labels).build())
            case "no node":
                cluster.remove_node(data.draw(NAMES))
            case "bound":
                pod = make_pod(data.draw(PODS)).cpu(data.draw(st.integers(0, 3))).priority(data.draw(st.integers(0, 2)))
                if data.draw(st.booleans()):
                    pod.host_port(80).request("x.io/gpu", 1)
                node = data.draw(NAMES)
                cluster.put_assigned(PodInfo.of(pod.on(node).build(), cache), node)
            case "place":
                pod = make_pod(data.draw(PODS)).cpu(data.draw(st.integers(0, 2)))
                info = PodInfo.of(pod.build(), cache)
                if not cluster.node_of(info.key):
                    done = cycle.schedule(cluster.table, classes, cycle.group([info]))
                    for _, row in done.placements:
                        cluster.assume(info, row)
            case "forget":
                cluster.forget(f"default/{data.draw(PODS)}")
            case "gone":
                cluster.remove_pod(f"default/{data.draw(PODS)}")
        cluster.check_invariants()


def test_what_a_node_update_says() -> None:
    cluster = Cluster()
    assert cluster.put_node(make_node("n").build()) == {"NodeAdd"}
    assert cluster.put_node(make_node("n").version(7).build()) == frozenset()
    assert cluster.put_node(make_node("n").labels(a="b").build()) == {"NodeLabel"}
    assert cluster.put_node(make_node("n").labels(a="b").cpu(8).not_ready().build()) == {"NodeAllocatable", "NodeTaint"}
    assert cluster.put_node(make_node("n").labels(a="b").cpu(8).unschedulable().build()) == {"NodeTaint"}


def test_confirming_frees_nothing_and_moving_does() -> None:
    cluster, cache = Cluster(), NeedsCache()
    for name in ("a", "b"):
        cluster.put_node(make_node(name).build())
    info = PodInfo.of(make_pod("p").cpu(1).build(), cache)
    [(_, row)] = cycle.schedule(cluster.table, Classes(), cycle.group([info])).placements
    assert cluster.assume(info, row) == "a"
    bound = PodInfo.of(make_pod("p").cpu(1).on("a").build(), cache)
    assert cluster.put_assigned(bound, "a") == frozenset()
    assert not cluster.is_assumed("default/p")
    assert cluster.forget("default/p") == frozenset()  # it is no assumption any more
    assert cluster.put_assigned(PodInfo.of(make_pod("p").cpu(1).on("b").build(), cache), "b") == {"PodGone"}
    cluster.check_invariants()
    assert cluster.remove_pod("default/p") == {"PodGone"}
    cluster.check_invariants()


def test_pods_of_a_node_that_is_not_known_yet_count_when_it_comes() -> None:
    cluster, cache = Cluster(), NeedsCache()
    cluster.put_assigned(PodInfo.of(make_pod("p").cpu(3).on("n").build(), cache), "n")
    cluster.put_node(make_node("n").cpu(4).build())
    cluster.check_invariants()
    done = cycle.schedule(cluster.table, Classes(), cycle.group([PodInfo.of(make_pod("q").cpu(2).build(), cache)]))
    assert not done.placements
