"""The gRPC front over real TLS on loopback: who gets in, what survives a restart, how certificates are renewed."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from controlplane.auth import admin as configs
from controlplane.auth.ca import make_authority
from controlplane.auth.certificates import issue_client
from controlplane.auth.names import node_of
from controlplane.registry.base import ADMIN, Identity, RequestContext
from kubelet.identity import Identity as NodeCredentials
from kubelet.identity import IdentityError, fetch_ca, join, new_request
from wherry.api.context import Env
from wherry.api.errors import AlreadyExists, Forbidden, NotFound, ServiceUnavailable, Unauthorized
from wherry.client.base import Selection
from wherry.client.client import Client
from wherry.client.config import ClientConfig, load_config, write_config
from wherry.client.grpc import TLS, GrpcTransport, connect
from wherry.client.informer import Informer
from wherry.client.tokens import create_token, delete_token, list_tokens
from wherry.pb import authentication_v1_pb2, core_v1_pb2, nodelink_pb2, rbac_v1_pb2
from wherry.testing.eventually import eventually
from wherry.testing.serving import Serving, serving

ConfigMap = core_v1_pb2.ConfigMap
DAY_S = 86_400


class Clock:
    """A wall clock that tests can move."""

    def __init__(self) -> None:
        self.offset_s = 0.0
        self._real = Env()

    def env(self) -> Env:
        return Env(now=lambda: self._real.now() + self.offset_s, rng=random.Random(7))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def running(clock: Clock) -> AsyncIterator[Serving]:
    async with serving(clock.env()) as made:
        yield made


@pytest_asyncio.fixture
async def admin(running: Serving) -> AsyncIterator[Client]:
    made = running.client()
    yield made
    await made.close()


def config_map(name: str) -> core_v1_pb2.ConfigMap:
    made = ConfigMap()
    made.metadata.name = name
    made.metadata.namespace = "default"
    return made


async def test_without_a_certificate_of_the_cluster_nobody_gets_in(running: Serving) -> None:
    assert running.plane.ca is not None
    other = make_authority(Env(), "another-cluster")
    foreign = issue_client(other, Env(), "mallory", ["system:masters"])
    trusted = running.plane.ca.certificate_pem
    for tls in (TLS(trusted), TLS(trusted, foreign.certificate_pem, foreign.key_pem)):
        client = Client(GrpcTransport([running.address], tls), timeout_s=3)
        with pytest.raises(ServiceUnavailable):
            await client.list(ConfigMap)
        await client.close()


async def test_a_client_does_not_believe_another_cluster(running: Serving) -> None:
    other = make_authority(Env(), "another-cluster")
    pair = issue_client(other, Env(), "alice", [])
    client = Client(GrpcTransport([running.address], TLS(other.certificate_pem, pair.certificate_pem, pair.key_pem)))
    with pytest.raises(ServiceUnavailable):
        await client.list(ConfigMap)
    await client.close()


async def test_without_a_token_the_join_port_serves_nothing_but_joining_and_health(running: Serving) -> None:
    assert running.plane.ca is not None
    transport = GrpcTransport([running.join_address], TLS(running.plane.ca.certificate_pem))
    client = Client(transport)
    assert (await client.server_status()).status == "Success"
    with pytest.raises(Unauthorized):
        await client.list(ConfigMap)
    with pytest.raises(Unauthorized):
        await anext(client.watch(ConfigMap))
    with pytest.raises(Exception, match="Method not found"):
        await anext(aiter(transport.bidi("/wherry.v1.NodeLink/Connect")))
    await client.close()


async def test_a_service_account_comes_with_its_token_alone(running: Serving, admin: Client, tmp_path: Path) -> None:
    account = core_v1_pb2.ServiceAccount()
    account.metadata.name, account.metadata.namespace = "robot", "default"
    await admin.create(account)
    assert running.plane.ca is not None
    file = tmp_path / "token"
    config = ClientConfig(running.join_address, running.plane.ca.certificate_pem, token_file="token")
    write_config(config, tmp_path / "config")
    file.write_text(f"{await account_token(running)}\n")
    robot = connect(load_config(tmp_path / "config"))
    try:
        with pytest.raises(
            Forbidden, match='User "system:serviceaccount:default:robot" cannot list resource "configmaps"'
        ):
            await robot.list(ConfigMap)
        await admin.create(reader_binding())
        await admin.create(config_map("seen"))

        async def allowed() -> bool:
            try:
                return "seen" in [
                    item.metadata.name for item in (await robot.list(ConfigMap, Selection("default"))).items
                ]
            except Forbidden:
                return False

        await eventually(allowed)
        batches = robot.watch(ConfigMap, Selection("default"))
        assert (await anext(batches)).events
        await batches.aclose()
        await admin.delete(core_v1_pb2.ServiceAccount, "robot", "default")
        with pytest.raises(Unauthorized):
            await robot.list(ConfigMap, Selection("default"))
    finally:
        await robot.close()
    # Nor does a certificate that is no good help whoever has a token that is none.
    mallory = Client(GrpcTransport([running.join_address], TLS(config.ca), token=lambda: "a.b.c"))
    with pytest.raises(Unauthorized):
        await mallory.list(ConfigMap)
    await mallory.close()


async def account_token(running: Serving) -> str:
    assert running.plane.account_tokens is not None
    request = authentication_v1_pb2.TokenRequest()
    ctx = RequestContext(ADMIN)
    return str((await running.plane.account_tokens.issue(ctx, "default", "robot", request)).status.token)


def reader_binding() -> rbac_v1_pb2.RoleBinding:
    made = rbac_v1_pb2.RoleBinding()
    made.metadata.name, made.metadata.namespace = "robot", "default"
    made.role_ref.api_group, made.role_ref.kind, made.role_ref.name = "rbac.authorization.k8s.io", "ClusterRole", "view"
    made.subjects.add(kind="ServiceAccount", name="robot", namespace="default")
    return made


async def test_reflection_names_the_services(running: Serving, admin: Client) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    tls = running.tls("tester", ["system:masters"])
    async with grpc.aio.secure_channel(running.address, tls.credentials()) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [answer async for answer in stub.ServerReflectionInfo(iter([request]))]
    names = [service.name for service in answers[0].list_services_response.service]
    assert {"wherry.v1.Resources", "wherry.v1.Pods", "wherry.v1.NodeLink", "wherry.v1.Scheduling"} <= set(names)
    assert "grpc.health.v1.Health" in names


async def test_an_informer_sees_every_change_across_restarts_of_the_server(running: Serving, admin: Client) -> None:
    informer = Informer(admin, ConfigMap, Env(), selection=Selection("default"))
    seen: list[str] = []
    informer.add_handler(lambda old, new: seen.append(new.metadata.name))
    task = asyncio.create_task(informer.run())
    await informer.wait_synced()
    inside = running.plane.local_client(ADMIN)
    for number in range(3):
        await inside.create(config_map(f"a{number}"))
        await running.stop_listening()
        await inside.create(config_map(f"b{number}"))
        await running.listen_again()
    wanted = sorted(f"{letter}{number}" for letter in "ab" for number in range(3))
    async with asyncio.timeout(10):
        while len(informer.list()) < len(wanted):  # noqa: ASYNC110  the handler has no loop of its own to wake us
            await asyncio.sleep(0.02)
    assert sorted(seen) == wanted
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_client_moves_on_to_the_next_endpoint(running: Serving) -> None:
    from wherry.testing.server import free_port

    dead = f"127.0.0.1:{free_port()}"
    transport = GrpcTransport([dead, running.address], running.tls("tester", ["system:masters"]))
    client = Client(transport, timeout_s=5)
    for _ in range(20):
        try:
            await client.list(ConfigMap)
            break
        except ServiceUnavailable:
            await asyncio.sleep(0.02)
    assert transport.endpoint == running.address
    await client.list(ConfigMap)
    await client.close()


async def test_streams_end_in_order_when_the_server_stops(running: Serving, admin: Client) -> None:
    await admin.create(config_map("a"))
    stream = admin.watch(ConfigMap, Selection("default"))
    await anext(aiter(stream))
    stopping = asyncio.create_task(running.stop_listening())
    with pytest.raises(ServiceUnavailable, match="shutting down"):
        await anext(aiter(stream))
    await asyncio.wait_for(stopping, 30)


def tls_of(credentials: NodeCredentials) -> TLS:
    return TLS(credentials.ca, credentials.certificate, credentials.key)


async def join_as(running: Serving, token: str, name: str) -> NodeCredentials:
    """As an agent does at its first start."""
    assert running.plane.ca is not None
    host, _, port = running.join_address.partition(":")
    ca = await fetch_ca(host, int(port), running.plane.ca.public_key_hash())
    transport = GrpcTransport([running.join_address], TLS(ca))
    try:
        return await join(transport, name, token, ca)
    finally:
        await transport.close()


async def test_a_node_joins_by_token_and_renews_by_its_certificate(
    running: Serving, admin: Client, clock: Clock
) -> None:
    env = clock.env()
    token = await create_token(admin, env, description="for n1")
    joined = await join_as(running, token, "n1")
    assert running.plane.ca is not None
    assert joined.ca == running.plane.ca.certificate_pem
    assert joined.cluster_id == running.plane.cluster_id
    transport = GrpcTransport([running.address], tls_of(joined))
    node = Client(transport)
    made = core_v1_pb2.Node()
    made.metadata.name = "n1"
    await node.create(made)
    made.metadata.name = "n2"
    with pytest.raises(Forbidden, match="node 'n1' cannot create another node"):
        await node.create(made)
    renewed = await join(transport, "n1", "")
    assert renewed.certificate != joined.certificate
    assert renewed.key != joined.key
    with pytest.raises(Forbidden):
        await join(transport, "n2", "")
    fresh = Client(GrpcTransport([running.address], tls_of(renewed)))
    assert (await fresh.get(core_v1_pb2.Node, "n1")).metadata.name == "n1"
    assert 20 * DAY_S < renewed.renew_at(0.5) - env.now() < 25 * DAY_S
    await fresh.close()
    await node.close()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda token: token[:-1] + ("a" if token[-1] != "a" else "b"), id="wrong secret"),
        pytest.param(lambda token: "aaaaaa" + token[6:], id="unknown id"),
        pytest.param(lambda token: "nonsense", id="no token at all"),
    ],
)
async def test_a_wrong_token_opens_nothing(running: Serving, admin: Client, change) -> None:  # type: ignore[no-untyped-def]
    token = await create_token(admin, Env())
    with pytest.raises(Unauthorized):
        await join_as(running, change(token), "n1")


async def test_a_token_is_over_when_its_time_is_or_it_was_deleted(
    running: Serving, admin: Client, clock: Clock
) -> None:
    env = clock.env()
    short = await create_token(admin, env, ttl_s=60)
    long = await create_token(admin, env, ttl_s=3600, description="keep")
    assert [token.id for token in await list_tokens(admin)] == sorted([short[:6], long[:6]])
    secrets = await admin.list(core_v1_pb2.Secret, Selection("kube-system"))
    assert not any(short[7:].encode() in obj.SerializeToString() for obj in secrets.items)
    clock.offset_s = 120
    with pytest.raises(Unauthorized):
        await join_as(running, short, "n1")
    await join_as(running, long, "n1")
    await delete_token(admin, long)
    with pytest.raises(Unauthorized):
        await join_as(running, long, "n2")
    with pytest.raises(NotFound):
        await delete_token(admin, long)


async def test_a_token_gives_a_node_certificate_and_no_other(running: Serving, admin: Client) -> None:
    token = await create_token(admin, Env())
    _, csr = await new_request("n2")
    assert running.plane.ca is not None
    transport = GrpcTransport([running.join_address], TLS(running.plane.ca.certificate_pem))
    request = nodelink_pb2.JoinRequest(token=token, node_name="n1", csr_pem=csr)
    with pytest.raises(Forbidden, match='wanted "system:node:n1"'):
        await transport.unary("/wherry.v1.NodeLink/Join", request)
    request.csr_pem = b"nonsense"
    with pytest.raises(Exception, match="not a PEM encoded"):
        await transport.unary("/wherry.v1.NodeLink/Join", request)
    await transport.close()


async def test_a_living_node_is_not_replaced_by_whoever_has_a_token(running: Serving, admin: Client) -> None:
    token = await create_token(admin, Env())
    running.plane.heartbeats.connect("n1")
    with pytest.raises(AlreadyExists):
        await join_as(running, token, "n1")
    running.plane.heartbeats.disconnect("n1")


async def test_the_ca_is_found_by_its_hash_only(running: Serving) -> None:
    assert running.plane.ca is not None
    host, _, port = running.join_address.partition(":")
    good = running.plane.ca.public_key_hash()
    assert await fetch_ca(host, int(port), good) == running.plane.ca.certificate_pem
    with pytest.raises(IdentityError, match="shows no CA"):
        await fetch_ca(host, int(port), "sha256:" + "0" * 64)


async def served_certificate(address: str) -> bytes:
    """What the server shows at a new handshake, good or not."""
    host, _, port = address.partition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    der: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return der


async def test_the_serving_certificate_is_renewed_without_a_restart(
    running: Serving, admin: Client, clock: Clock
) -> None:
    await admin.list(ConfigMap)
    first = await served_certificate(running.join_address)
    assert not running.certificate.maybe_renew()
    clock.offset_s = 60 * DAY_S
    assert not running.certificate.maybe_renew()
    assert await served_certificate(running.join_address) == first
    clock.offset_s = 75 * DAY_S
    assert running.certificate.maybe_renew()
    assert await served_certificate(running.join_address) != first
    await admin.list(ConfigMap)  # the connection that stands goes on


async def test_the_admin_config_is_kept_while_it_is_good(running: Serving, tmp_path: Path, clock: Clock) -> None:
    assert running.plane.ca is not None
    env = clock.env()
    path = tmp_path / "admin.conf"
    assert configs.ensure_config(running.plane.ca, env, path.parent, running.address, configs.ADMIN)
    assert path.stat().st_mode & 0o777 == 0o600
    assert not configs.ensure_config(running.plane.ca, env, path.parent, running.address, configs.ADMIN)
    client = connect(load_config(path))
    await client.create(config_map("by-admin"))
    await client.close()
    assert configs.ensure_config(running.plane.ca, env, path.parent, "127.0.0.1:1", configs.ADMIN)
    assert load_config(path).server == "127.0.0.1:1"
    clock.offset_s = 300 * DAY_S
    assert configs.ensure_config(running.plane.ca, env, path.parent, "127.0.0.1:1", configs.ADMIN)


def test_only_members_of_the_nodes_group_are_nodes() -> None:
    assert node_of(Identity("system:node:n1", ("system:nodes",))) == "n1"
    assert node_of(Identity("system:node:n1", ("system:authenticated",))) == ""
    assert node_of(Identity("n1", ("system:nodes",))) == ""
