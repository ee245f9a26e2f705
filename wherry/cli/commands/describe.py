"""`describe`: one object and what happened to it, laid out for reading, in the manner of kubectl describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any

import typer
from google.protobuf.message import Message

from wherry.api import codec, labels, quantity, resources, yamlout
from wherry.api.times import age, from_time
from wherry.cli.commands import references
from wherry.cli.commands.get import event_row, event_time, list_all
from wherry.cli.completion import complete_words
from wherry.cli.options import AllNamespaces, Namespace, Selector
from wherry.cli.output import layout
from wherry.cli.resources import Target, message_class
from wherry.cli.session import Session, run
from wherry.client.base import Selection
from wherry.pb import core_v1_pb2, discovery_v1_pb2


class Page:
    """Lines with `Name:   value` columns, nested by indentation; printed at once."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, str, str | None]] = []

    def line(self, key: str, value: Any = None, depth: int = 0) -> None:
        self._rows.append((depth, key, None if value is None else str(value)))

    def mapping(self, key: str, values: Mapping[str, str], depth: int = 0) -> None:
        pairs = [f"{name}={values[name]}" for name in sorted(values)]
        self.line(f"{key}:", pairs[0] if pairs else "<none>", depth)
        for pair in pairs[1:]:
            self.line("", pair, depth)

    def table(self, rows: Sequence[Sequence[str]], depth: int = 1) -> None:
        for text in layout(rows):
            self.line(text, None, depth)

    def text(self) -> str:
        width: dict[int, int] = {}
        for depth, key, value in self._rows:
            if value is not None:
                width[depth] = max(width.get(depth, 0), len(key))
        lines = []
        for depth, key, value in self._rows:
            start = "  " * depth + key
            lines.append(start if value is None else f"{start:<{2 * depth + width[depth]}}  {value}".rstrip())
        return "\n".join(lines) + "\n"


def describe(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="TYPE[/NAME] [NAME...]", help="pod/web, deploy web, nodes", autocompletion=complete_words
        ),
    ],
    namespace: Namespace = "",
    all_namespaces: AllNamespaces = False,
    selector: Selector = "",
    show_events: Annotated[bool, typer.Option("--show-events/--no-show-events", help="With its events.")] = True,
) -> None:
    """Show one object in full, with its events."""

    async def work(session: Session) -> int:
        catalogue = await session.catalogue()
        scope = session.namespace(namespace, all_namespaces=all_namespaces)
        pages = []
        for target in catalogue.targets(words):
            cls: type[Any] = message_class(target.resource)
            place = scope if target.resource.namespaced else ""
            if target.name:
                objects = [await session.client.get(cls, target.name, place)]
            else:
                objects, _ = await list_all(session.client, cls, Selection(place, selector))
            for obj in objects:
                pages.append(await page_of(session, target, obj, show_events=show_events))
        if not pages:
            print(f"No resources found{f' in {scope} namespace' if scope else ''}.")
        print("\n\n".join(pages), end="")
        return 0

    run(work)


async def page_of(session: Session, target: Target, obj: Any, *, show_events: bool) -> str:
    page = Page()
    _head(page, target, obj, session.env.now())
    body = BODIES.get(target.resource.kind)
    if body is None:
        _generic(page, obj)
    else:
        body(page, obj, session.env.now())
    if target.resource.kind == "Node":
        pods, _ = await list_all(
            session.client, core_v1_pb2.Pod, Selection(field_selector=f"spec.nodeName={obj.metadata.name}")
        )
        _node_pods(page, obj, pods, session.env.now())
    if target.resource.kind == "Service":
        mine = Selection(obj.metadata.namespace, f"{references.SERVICE_NAME}={obj.metadata.name}")
        slices, _ = await list_all(session.client, discovery_v1_pb2.EndpointSlice, mine)
        for port in obj.spec.ports:
            page.line("Endpoints:", f"{port.name or '<unset>'}  {references.endpoints(slices, port)}")
    if show_events:
        await _events(page, session, target, obj)
    return page.text()


async def _events(page: Page, session: Session, target: Target, obj: Any) -> None:
    fields = [f"involvedObject.kind={target.resource.kind}", f"involvedObject.name={obj.metadata.name}"]
    # Events of nodes carry the node's name as uid upstream, so the uid only narrows namespaced objects.
    if obj.metadata.namespace:
        fields.append(f"involvedObject.uid={obj.metadata.uid}")
    selection = Selection(obj.metadata.namespace, field_selector=",".join(fields))
    events, _ = await list_all(session.client, core_v1_pb2.Event, selection)
    if not events:
        page.line("Events:", "<none>")
        return
    events.sort(key=lambda event: (event_time(event), int(event.metadata.resource_version or 0)))
    page.line("Events:")
    rows = [["Type", "Reason", "Age", "From", "Message"], ["----", "------", "----", "----", "-------"]]
    for event in events:
        seen, kind, reason, _, message = event_row(event, session.env.now(), namespaced=False)
        source = event.source.component or event.reporting_component
        rows.append([kind, reason, seen, source, message])
    page.table(rows)


def _head(page: Page, target: Target, obj: Any, now: float) -> None:
    metadata = obj.metadata
    page.line("Name:", metadata.name)
    if target.resource.namespaced:
        page.line("Namespace:", metadata.namespace)
    page.mapping("Labels", metadata.labels)
    hidden = "kubectl.kubernetes.io/last-applied-configuration"
    page.mapping("Annotations", {key: value for key, value in metadata.annotations.items() if key != hidden})
    if metadata.HasField("creation_timestamp"):
        page.line("Created:", f"{age(metadata.creation_timestamp, now)} ago")
    if metadata.HasField("deletion_timestamp"):
        page.line(
            "Deleted:", f"{age(metadata.deletion_timestamp, now)} ago, grace {metadata.deletion_grace_period_seconds}s"
        )
    if metadata.finalizers:
        page.line("Finalizers:", ", ".join(metadata.finalizers))
    for owner in metadata.owner_references:
        if owner.controller:
            page.line("Controlled By:", f"{owner.kind}/{owner.name}")


def _generic(page: Page, obj: Message) -> None:
    value = codec.to_dict(obj)
    for key in ("apiVersion", "kind", "metadata"):
        value.pop(key, None)
    for key, part in value.items():
        title = f"{key[0].upper()}{key[1:]}:"
        if isinstance(part, dict | list):
            page.line(title, None if part else "<none>")
            if part:
                for text in yamlout.dump(part).splitlines():
                    page.line(text, None, 1)
        else:
            page.line(title, part)


def _pod(page: Page, pod: core_v1_pb2.Pod, now: float) -> None:
    spec, status = pod.spec, pod.status
    if spec.HasField("priority"):
        page.line("Priority:", spec.priority)
    page.line("Service Account:", spec.service_account_name or "default")
    page.line("Node:", f"{spec.node_name}/{status.host_ip}" if spec.node_name else "<none>")
    if status.HasField("start_time"):
        page.line("Start Time:", f"{age(status.start_time, now)} ago")
    page.line("Status:", "Terminating" if pod.metadata.HasField("deletion_timestamp") else status.phase)
    for key, value in (("Reason", status.reason), ("Message", status.message)):
        if value:
            page.line(f"{key}:", value)
    page.line("IP:", status.pod_ip or "<none>")
    for title, containers, statuses in (
        ("Init Containers:", spec.init_containers, status.init_container_statuses),
        ("Containers:", spec.containers, status.container_statuses),
    ):
        if containers:
            page.line(title)
            by_name = {item.name: item for item in statuses}
            for container in containers:
                _container(page, container, by_name.get(container.name), now)
    _conditions(page, status.conditions, ("Type", "Status"), lambda item: [item.type, item.status])
    if spec.volumes:
        page.line("Volumes:")
        for volume in spec.volumes:
            page.line(f"{volume.name}:", None, 1)
            source = codec.to_dict(volume.volume_source)
            for kind, detail in source.items():
                text = ", ".join(
                    f"{key}: {value}" for key, value in (detail or {}).items() if not isinstance(value, list | dict)
                )
                page.line(f"{kind}:", text or "{}", 2)
    page.line("QoS Class:", status.qos_class or "<none>")
    page.mapping("Node-Selectors", spec.node_selector)
    page.line("Tolerations:", "; ".join(_toleration(item) for item in spec.tolerations) or "<none>")


def _toleration(item: core_v1_pb2.Toleration) -> str:
    text = item.key + (f"={item.value}" if item.value else "") + (f":{item.effect}" if item.effect else "")
    if item.operator == "Exists" or not item.key:
        text += " op=Exists"
    if item.HasField("toleration_seconds"):
        text += f" for {item.toleration_seconds}s"
    return text.strip()


def _container(
    page: Page, container: core_v1_pb2.Container, status: core_v1_pb2.ContainerStatus | None, now: float
) -> None:
    page.line(f"{container.name}:", None, 1)
    if status is not None and status.container_id:
        page.line("Container ID:", status.container_id, 2)
    page.line("Image:", container.image, 2)
    if status is not None and status.image_id:
        page.line("Image ID:", status.image_id, 2)
    ports = ", ".join(f"{port.container_port}/{port.protocol or 'TCP'}" for port in container.ports)
    page.line("Ports:", ports or "<none>", 2)
    for title, words in (("Command:", container.command), ("Args:", container.args)):
        if words:
            page.line(title, None, 2)
            for text in "\n".join(words).splitlines():
                page.line(text, None, 3)
    if status is not None:
        _state(page, "State", status.state, now)
        if status.last_state.ListFields():
            _state(page, "Last State", status.last_state, now)
        page.line("Ready:", status.ready, 2)
        page.line("Restart Count:", status.restart_count, 2)
    for title, amounts in (("Limits", container.resources.limits), ("Requests", container.resources.requests)):
        if amounts:
            page.line(f"{title}:", ", ".join(f"{name} {amounts[name].string}" for name in sorted(amounts)), 2)
    for title, probe in (
        ("Liveness", container.liveness_probe), ("Readiness", container.readiness_probe), ("Startup", container.startup_probe)
    ):  # fmt: skip
        if probe.ListFields():
            page.line(f"{title}:", _probe(probe), 2)
    if sources := references.sources_of(container):
        page.line("Environment Variables from:", None, 2)
        for text in sources:
            page.line(text, None, 3)
    environment = [f"{item.name}: {references.value_of(item)}" for item in container.env]
    page.line("Environment:", None if environment else "<none>", 2)
    for text in environment:
        page.line(text, None, 3)
    mounts = [f"{m.mount_path} from {m.name} ({'ro' if m.read_only else 'rw'})" for m in container.volume_mounts]
    page.line("Mounts:", None if mounts else "<none>", 2)
    for text in mounts:
        page.line(text, None, 3)


def _probe(probe: core_v1_pb2.Probe) -> str:
    handler = probe.handler
    if handler.HasField("http_get"):
        port = handler.http_get.port
        what = f"http-get {handler.http_get.host}:{port.str_val or port.int_val}{handler.http_get.path}"
    elif handler.HasField("tcp_socket"):
        what = f"tcp-socket :{handler.tcp_socket.port.str_val or handler.tcp_socket.port.int_val}"
    elif handler.HasField("grpc"):
        what = f"grpc :{handler.grpc.port}"
    else:
        what = f"exec {list(handler.exec.command)}"
    return (
        f"{what} delay={probe.initial_delay_seconds}s timeout={probe.timeout_seconds or 1}s "
        f"period={probe.period_seconds or 10}s #success={probe.success_threshold or 1} #failure={probe.failure_threshold or 3}"
    )


def _state(page: Page, title: str, state: core_v1_pb2.ContainerState, now: float) -> None:
    if state.HasField("running"):
        page.line(f"{title}:", "Running", 2)
        page.line("Started:", f"{age(state.running.started_at, now)} ago", 3)
    elif state.HasField("terminated"):
        ended = state.terminated
        page.line(f"{title}:", "Terminated", 2)
        page.line("Reason:", ended.reason, 3)
        if ended.message:
            page.line("Message:", ended.message.strip(), 3)
        page.line("Exit Code:", ended.exit_code, 3)
        if ended.HasField("finished_at") and ended.HasField("started_at"):
            page.line("Finished:", f"{age(ended.finished_at, now)} ago", 3)
            page.line("Ran For:", f"{max(0.0, from_time(ended.finished_at) - from_time(ended.started_at)):.0f}s", 3)
    else:
        page.line(f"{title}:", "Waiting", 2)
        if state.waiting.reason:
            page.line("Reason:", state.waiting.reason, 3)
        if state.waiting.message:
            page.line("Message:", state.waiting.message, 3)


def _conditions(page: Page, conditions: Any, header: Sequence[str], row: Callable[[Any], list[str]]) -> None:
    if conditions:
        page.line("Conditions:")
        page.table([list(header), *(row(condition) for condition in conditions)])


def _workload(page: Page, obj: Any, now: float) -> None:
    spec, status = obj.spec, obj.status
    page.line("Selector:", str(labels.from_message(spec.selector)) or "<none>")
    wanted = spec.replicas if spec.HasField("replicas") else 1
    if hasattr(spec, "strategy"):
        page.line(
            "Replicas:",
            f"{wanted} desired | {status.updated_replicas} updated | {status.replicas} total | "
            f"{status.available_replicas} available | {status.unavailable_replicas} unavailable",
        )
        page.line("StrategyType:", spec.strategy.type)
        rolling = spec.strategy.rolling_update
        if spec.strategy.HasField("rolling_update"):
            both = [value.str_val or str(value.int_val) for value in (rolling.max_unavailable, rolling.max_surge)]
            page.line("RollingUpdateStrategy:", f"{both[0]} max unavailable, {both[1]} max surge")
        page.line("MinReadySeconds:", spec.min_ready_seconds)
        if spec.paused:
            page.line("Paused:", "true")
    else:
        page.line("Replicas:", f"{status.replicas} current / {wanted} desired, {status.ready_replicas} ready")
    page.line("Pod Template:")
    page.mapping("Labels", spec.template.metadata.labels, 1)
    page.line("Containers:", None, 1)
    for container in spec.template.spec.containers:
        _container(page, container, None, now)
    _conditions(
        page, status.conditions, ("Type", "Status", "Reason"), lambda item: [item.type, item.status, item.reason]
    )


def _node(page: Page, node: core_v1_pb2.Node, now: float) -> None:
    taints = [f"{taint.key}{f'={taint.value}' if taint.value else ''}:{taint.effect}" for taint in node.spec.taints]
    page.line("Taints:", taints[0] if taints else "<none>")
    for text in taints[1:]:
        page.line("", text)
    page.line("Unschedulable:", str(node.spec.unschedulable).lower())
    if node.spec.pod_cidr:
        page.line("PodCIDR:", node.spec.pod_cidr)
    _conditions(
        page, node.status.conditions, ("Type", "Status", "LastTransition", "Reason", "Message"),
        lambda item: [item.type, item.status, f"{age(item.last_transition_time, now)} ago", item.reason, item.message],
    )  # fmt: skip
    page.line("Addresses:")
    for address in node.status.addresses:
        page.line(f"{address.type}:", address.address, 1)
    for title, amounts in (("Capacity", node.status.capacity), ("Allocatable", node.status.allocatable)):
        page.line(f"{title}:")
        for name in sorted(amounts):
            page.line(f"{name}:", amounts[name].string, 1)
    page.line("System Info:")
    info = codec.to_dict(node.status.node_info)
    for key, value in info.items():
        if value and not isinstance(value, dict):
            page.line(f"{key}:", value, 1)


def _amount(name: str, value: Decimal) -> str:
    return quantity.format_amount(value, "DecimalSI" if name == resources.CPU else "BinarySI")


def _node_pods(page: Page, node: core_v1_pb2.Node, pods: Sequence[core_v1_pb2.Pod], now: float) -> None:
    active = [pod for pod in pods if pod.status.phase not in ("Succeeded", "Failed")]
    page.line("Pods:", f"{len(active)} in total")
    rows = [["Namespace", "Name", "CPU Requests", "Memory Requests", "Age"]]
    requested: dict[str, Decimal] = {}
    limited: dict[str, Decimal] = {}
    for pod in active:
        requests = resources.exact_requests(pod.spec)
        resources.add(requested, requests)
        resources.add(limited, resources.exact_limits(pod.spec))
        shares = [_amount(name, requests.get(name, Decimal(0))) for name in (resources.CPU, resources.MEMORY)]
        rows.append([pod.metadata.namespace, pod.metadata.name, *shares, age(pod.metadata.creation_timestamp, now)])
    page.table(rows)
    page.line("Allocated resources:")
    table = [["Resource", "Requests", "Limits", "Allocatable"]]
    for name in sorted({*requested, *limited, resources.CPU, resources.MEMORY}):
        given = node.status.allocatable[name].string if name in node.status.allocatable else "-"
        both = [_amount(name, amounts.get(name, Decimal(0))) for amounts in (requested, limited)]
        table.append([name, *both, given])
    page.table(table)


def _service(page: Page, service: core_v1_pb2.Service, now: float) -> None:
    spec = service.spec
    page.mapping("Selector", spec.selector)
    page.line("Type:", spec.type)
    page.line("IP:", spec.cluster_ip or "<none>")
    for port in spec.ports:
        goal = port.target_port.str_val or port.target_port.int_val or port.port
        page.line("Port:", f"{port.name or '<unset>'}  {port.port}/{port.protocol or 'TCP'} -> {goal}")
        if port.node_port:
            page.line("NodePort:", f"{port.name or '<unset>'}  {port.node_port}/{port.protocol or 'TCP'}")
    page.line("Session Affinity:", spec.session_affinity or "None")


def _config_map(page: Page, obj: core_v1_pb2.ConfigMap, now: float) -> None:
    page.line("Data:")
    for key in sorted(obj.data):
        page.line(f"{key}:", None, 1)
        for text in obj.data[key].splitlines():
            page.line(text, None, 2)
    if obj.binary_data:
        page.line("BinaryData:")
        for key in sorted(obj.binary_data):
            page.line(f"{key}:", f"{len(obj.binary_data[key])} bytes", 1)


def _secret(page: Page, obj: core_v1_pb2.Secret, now: float) -> None:
    page.line("Type:", obj.type)
    page.line("Data:")
    for key in sorted(obj.data):
        page.line(f"{key}:", f"{len(obj.data[key])} bytes", 1)


def _namespace(page: Page, obj: core_v1_pb2.Namespace, now: float) -> None:
    page.line("Status:", obj.status.phase)
    _conditions(
        page, obj.status.conditions, ("Type", "Status", "Reason", "Message"),
        lambda item: [item.type, item.status, item.reason, item.message],
    )  # fmt: skip


BODIES: dict[str, Callable[[Page, Any, float], None]] = {
    "Pod": _pod,
    "Deployment": _workload,
    "ReplicaSet": _workload,
    "Node": _node,
    "Service": _service,
    "ConfigMap": _config_map,
    "Secret": _secret,
    "Namespace": _namespace,
}
